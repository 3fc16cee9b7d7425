"""Goldens of the samplers that Stable Diffusion folders are run with: every step of short runs by diffusers' classes.

    python tests/reference/samplers.py          # writes tests/golden/schedulers/samplers.safetensors

Inputs and layout as in schedulers.py. The samples of the Euler classes are kept as vidgen has them, in the scale of the
network's input: diffusers' divided by sqrt(sigma^2 + 1), which is what its `scale_model_input` does before a step.
"""

import contextlib

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm
from safetensors.torch import save_file

from schedulers import SHAPE, Run, noise, prediction
from tiny import GOLDEN, unit

# what published folders of SD 1.x say: a PNDM file, which every class here is made from
SD = dict(PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                        set_alpha_to_one=False, skip_prk_steps=True).config)
for key in ("timestep_spacing", "prediction_type", "trained_betas", "_use_default_values"):
    SD.pop(key, None)  # published files do not have them

VARIANTS = {"epsilon": {}, "v": dict(prediction_type="v_prediction"), "trailing": dict(timestep_spacing="trailing"),
            "leading": dict(timestep_spacing="leading")}
# without signal in the beginning, from where solvers of several steps look back
ZERO_SNR = dict(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)
CLASSES = {"euler": EulerDiscreteScheduler, "euler-ancestral": EulerAncestralDiscreteScheduler,
           "dpmpp-2m": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler, "lcm": LCMScheduler, "ddim": DDIMScheduler}


@contextlib.contextmanager
def drawn(draws: list):
    """Draws are what the list has."""
    modules = (scheduling_euler_ancestral_discrete, scheduling_lcm)
    kept = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = lambda *_, **__: draws.pop(0)
    yield
    for module, randn in zip(modules, kept):
        module.randn_tensor = randn


def lcm_estimate(scheduler, t, denoised, sample):
    """The estimate that the class mixes with the sample."""
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
    return (denoised - c_skip * sample) / c_out


def run(name: str, steps: int, **config) -> Run:
    # euler's own default is leading in some releases: the published defaults are asked for
    scheduler = CLASSES[name].from_config(SD | config, clip_sample=False)
    scheduler.set_timesteps(steps)
    euler = name.startswith("euler")
    scale = (lambda i: (scheduler.sigmas[i] ** 2 + 1) ** 0.5) if euler else (lambda i: 1.0)
    done = Run(scheduler.timesteps)
    sample = unit("scheduler/sample", SHAPE) * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        if euler:
            scheduler.scale_model_input(sample, t)
        with drawn([noise(i)]):
            step = scheduler.step(prediction(i), t, sample)
        x0 = getattr(step, "pred_original_sample", None)
        if x0 is None:
            x0 = scheduler.model_outputs[-1] if name != "lcm" else lcm_estimate(scheduler, t, step.denoised, sample)
        sample = step.prev_sample
        done.add(sample / scale(i + 1), x0)
    return done


def main():
    tensors = {}
    for name in CLASSES:
        for variant, config in VARIANTS.items():
            if name == "lcm" and variant in ("trailing", "leading"):
                continue  # it does not look at the key
            for steps in (4, 12) if variant == "epsilon" else (7,):
                run(name, steps, **config).into(tensors, f"{name}/{variant}/{steps}")
    for name in ("dpmpp-2m", "unipc"):
        run(name, 5, **ZERO_SNR).into(tensors, f"{name}/zero-snr/5")
    path = GOLDEN / "schedulers" / "samplers.safetensors"
    save_file(tensors, path)
    print(path.stat().st_size, len(tensors))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

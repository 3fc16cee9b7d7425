"""Goldens of the schedulers: every step of short runs, from diffusers' classes and from a transcription of the specification.

    python tests/reference/schedulers.py          # writes tests/golden/schedulers/*.safetensors

Inputs follow from names (tiny.unit): `scheduler/sample`, and `scheduler/prediction/<i>`, `scheduler/noise/<i>` for step i.
A file holds, for each run, `<run>/sample` (after each step), `<run>/x0` (the estimate at each step), `<run>/timesteps`.
Reference files: diffusers' scheduling_ddim_cogvideox.py, scheduling_dpm_cogvideox.py and, for DDIM with noise (which the
CogVideoX class does not know), scheduling_ddim.py on the CogVideoX class's table. SAT: spec/ditctrl.md 1.4 and 1.5.
"""

import contextlib

import diffusers.schedulers.scheduling_dpm_cogvideox as dpm_module
import numpy as np
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, DDIMScheduler
from safetensors.torch import save_file

from tiny import GOLDEN, unit

SHAPE = (2, 2, 3, 4)
COGVIDEOX = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
                 prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing")
STEPS = (4, 6, 10, 50)

# by name: what differs from COGVIDEOX. The Rust test has the same list.
VARIANTS = {
    "shift1": dict(snr_shift_scale=1.0),
    "linear": dict(beta_schedule="linear"),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
    "trained": dict(num_train_timesteps=40, trained_betas=[0.01 + 0.005 * i for i in range(40)]),
    "leading": dict(timestep_spacing="leading", steps_offset=1),
    "linspace": dict(timestep_spacing="linspace"),
    "not_to_one": dict(set_alpha_to_one=False),
    "epsilon": dict(prediction_type="epsilon", rescale_betas_zero_snr=False),
    "sample": dict(prediction_type="sample"),
    "few": dict(num_train_timesteps=100, timestep_spacing="leading", set_alpha_to_one=False, rescale_betas_zero_snr=False),
}


def prediction(i):
    return unit(f"scheduler/prediction/{i}", SHAPE)


def noise(i):
    return unit(f"scheduler/noise/{i}", SHAPE)


@contextlib.contextmanager
def rounded_roots():
    """Square roots of f32 rounded as IEEE 754 has it.

    torch's own are one unit off for a fifth of all values on AVX-512 machines, and right elsewhere. That decides the sixth
    digit and more of a step that ends at timestep 0 of a table in f32 (all but scaled_linear), where 1 - alpha_bar is small.
    """
    sqrt, power = torch.Tensor.sqrt, torch.Tensor.__pow__

    def exact(x):
        return sqrt(x.double()).to(x.dtype)

    torch.Tensor.sqrt, torch.Tensor.__pow__ = exact, lambda x, p: exact(x) if p == 0.5 else power(x, p)
    yield
    torch.Tensor.sqrt, torch.Tensor.__pow__ = sqrt, power


class Run:
    """Collects the tensors of a run."""

    def __init__(self, timesteps):
        self.timesteps = torch.tensor([float(t) for t in timesteps], dtype=torch.float64)
        self.samples, self.estimates = [], []

    def add(self, sample, x0):
        assert torch.isfinite(sample).all() and torch.isfinite(x0).all()
        self.samples.append(sample.float())
        self.estimates.append(x0.float())

    def into(self, tensors, name):
        tensors[f"{name}/timesteps"] = self.timesteps
        tensors[f"{name}/sample"] = torch.stack(self.samples)
        tensors[f"{name}/x0"] = torch.stack(self.estimates)


def ddim(steps, eta, **config):
    cog = CogVideoXDDIMScheduler(**(COGVIDEOX | config))
    cog.set_timesteps(steps)
    general = DDIMScheduler(num_train_timesteps=cog.config.num_train_timesteps, clip_sample=False,
                            prediction_type=cog.config.prediction_type, timestep_spacing=cog.config.timestep_spacing,
                            steps_offset=cog.config.steps_offset)
    general.alphas_cumprod, general.final_alpha_cumprod = cog.alphas_cumprod, cog.final_alpha_cumprod
    general.set_timesteps(steps)
    assert torch.equal(cog.timesteps, general.timesteps)
    run, sample = Run(cog.timesteps), unit("scheduler/sample", SHAPE)
    for i, t in enumerate(cog.timesteps):
        without = cog.step(prediction(i), t, sample)
        again = general.step(prediction(i), t, sample, eta=0.0)
        torch.testing.assert_close(without.prev_sample, again.prev_sample, rtol=1e-5, atol=1e-5)
        if eta == 0.0:
            sample, x0 = without.prev_sample, without.pred_original_sample
        else:
            step = general.step(prediction(i), t, sample, eta=eta, variance_noise=noise(i))
            sample, x0 = step.prev_sample, step.pred_original_sample
        run.add(sample, x0)
    return run


def dpm(steps, **config):
    scheduler = CogVideoXDPMScheduler(**(COGVIDEOX | config))
    scheduler.set_timesteps(steps)
    stride = scheduler.config.num_train_timesteps // steps
    run, sample, old = Run(scheduler.timesteps), unit("scheduler/sample", SHAPE), None
    for i, t in enumerate(scheduler.timesteps):
        # where two are drawn, the second enters
        draws = [noise(i)] if old is None or t - stride < 0 else [unit("scheduler/unused", SHAPE), noise(i)]
        dpm_module.randn_tensor = lambda *_, **__: draws.pop(0)
        back = scheduler.timesteps[i - 1] if i > 0 else None
        sample, old = scheduler.step(prediction(i), old, t, back, sample, return_dict=False)
        assert not draws
        run.add(sample, old)
    return run


def sat_levels(steps, shift):
    """Timesteps, signal factors s and the factors a of the estimate (1.4), from the noisiest on, in f64."""
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bar = np.cumprod(1 - beta)
    bar = bar / (shift + (1 - shift) * bar)

    def rescaled(s):
        return (s - s.min()) * s.max() / (s.max() - s.min())

    timesteps = np.array([(999 * (steps - k)) // steps for k in range(steps)])
    s = rescaled(np.sqrt(bar[timesteps]))
    table = rescaled(np.sqrt(bar))
    a = table[np.abs(table[None, :] - s[:, None]).argmin(axis=1)]
    return timesteps, s, a


def sat(kind, steps, shift):
    timesteps, s, a = sat_levels(steps, shift)
    s = np.append(s, 1.0)
    run, x, old = Run(timesteps), unit("scheduler/sample", SHAPE).double(), None
    with np.errstate(divide="ignore", invalid="ignore"):
        lam = np.log(s / np.sqrt(1 - s**2))
        for i in range(steps):
            d = a[i] * x - np.sqrt(1 - a[i] ** 2) * prediction(i).double()
            if kind == "ddim":
                keep = np.sqrt((1 - s[i + 1] ** 2) / (1 - s[i] ** 2))
                x = keep * x + (s[i + 1] - s[i] * keep) * d
            elif i == steps - 1:
                x = d
            else:
                h = lam[i + 1] - lam[i]
                mixed = d
                if i > 0:
                    r = (lam[i] - lam[i - 1]) / h
                    mixed = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * old
                left = 1 - s[i + 1] ** 2
                x = (np.sqrt(left / (1 - s[i] ** 2)) * np.exp(-h) * x - np.expm1(-2 * h) * s[i + 1] * mixed
                     + np.sqrt(left) * np.sqrt(1 - np.exp(-2 * h)) * noise(i).double())
            old = d
            run.add(x, d)
    return run


def timesteps_of_every_count():
    """Sum of t (i + 1) for each number of steps, which pins every timestep of every run length."""
    sums = {}
    for spacing in ("trailing", "leading", "linspace"):
        scheduler, rows = CogVideoXDDIMScheduler(**(COGVIDEOX | dict(timestep_spacing=spacing))), []
        for steps in range(1, 1001):
            scheduler.set_timesteps(steps)
            # numpy's arange yields one value too many for some counts
            t = scheduler.timesteps[:steps].double()
            rows.append((t * torch.arange(1, steps + 1)).sum())
        sums[spacing] = torch.stack(rows)
    return sums


if __name__ == "__main__":
    folder = GOLDEN / "schedulers"
    folder.mkdir(exist_ok=True)
    files = {name: {} for name in ("ddim", "dpm", "sat", "variants-ddim", "variants-dpm", "timesteps")}
    for steps in STEPS:
        ddim(steps, 0.0).into(files["ddim"], f"eta0/{steps}")
        ddim(steps, 0.5).into(files["ddim"], f"eta0.5/{steps}")
        dpm(steps).into(files["dpm"], f"dpm/{steps}")
        sat("ddim", steps, 3.0).into(files["sat"], f"ddim/{steps}")
        sat("dpm", steps, 3.0).into(files["sat"], f"dpm/{steps}")
    sat("dpm", 6, 1.0).into(files["sat"], "dpm-shift1/6")
    with rounded_roots():
        for name, config in VARIANTS.items():
            for steps in (4, 6):
                ddim(steps, 0.0, **config).into(files["variants-ddim"], f"{name}/eta0/{steps}")
                dpm(steps, **config).into(files["variants-dpm"], f"{name}/dpm/{steps}")
            ddim(6, 0.5, **config).into(files["variants-ddim"], f"{name}/eta0.5/6")
    files["timesteps"] = timesteps_of_every_count()
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
        print(name, (folder / f"{name}.safetensors").stat().st_size)

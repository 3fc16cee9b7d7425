"""Whole runs of Video Instruct-Pix2Pix with diffusers on tiny random models, from given frames and noise.

    python tests/reference/instruct.py              # tests/golden/sd/instruct.safetensors, tests/golden/tiny-sd1/instruct

diffusers' own `StableDiffusionInstructPix2PixPipeline` on all frames as one batch, with its cross-frame processor over the three
parts of the guidance (`batch_size=3`), as Text2Video-Zero's program does. The UNet is one of eight input channels beside
`tiny-sd1`'s other parts (sd.py). What the sampler draws at each step is given.
"""

import json
import sys
import tempfile
import pathlib

import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor
from diffusers.schedulers import scheduling_euler_ancestral_discrete as module
from safetensors.torch import save_file

import sd
import tiny
from vae import thin

KIND, PART = "tiny-sd1", "instruct/unet"
UNET = dict(sd.KINDS[KIND]["unet"], in_channels=8)
SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
INSTRUCTION = "a blue ball rolls"


def unet() -> UNet2DConditionModel:
    return tiny.fill(UNet2DConditionModel(**UNET), f"{KIND}/{PART}")


def write_folder() -> None:
    folder = tiny.GOLDEN / KIND / "instruct"
    net = unet()
    net.save_config(folder / "unet")
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    (folder / "unet" / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
    EulerAncestralDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionInstructPix2PixPipeline", "_from_parent": ["text_encoder", "tokenizer", "vae"],
             "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


class Given:
    """In the place of the sampler's random numbers."""

    def __init__(self, steps: torch.Tensor):
        self.steps, self.at = steps, 0

    def __call__(self, shape, **_):
        noise = self.steps[self.at].expand(shape)
        self.at += 1
        return noise


def run(cells, frames, steps, guidance=7.5, image_guidance=1.5, shared=False, negative=""):
    h, w = cells
    with tempfile.TemporaryDirectory() as folder:
        tokens = sd.tokenizer(KIND, pathlib.Path(folder))
    pipe = StableDiffusionInstructPix2PixPipeline(
        vae=sd.part(KIND, "vae"), text_encoder=sd.part(KIND, "text_encoder"), tokenizer=tokens, unet=unet(),
        scheduler=EulerAncestralDiscreteScheduler(**SCHEDULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    parts = 3 if guidance > 1 else 1
    pipe.unet.set_attn_processor(CrossFrameAttnProcessor(batch_size=parts))
    # as tests/all/cli/instruct.rs writes them
    values = tiny.unit("instruct/video", (frames, 8 * h, 8 * w, 3)).double()
    video = torch.floor((values + 1) / 2 * 256).permute(0, 3, 1, 2).float() / 255
    count = 1 if shared else frames
    noise = tiny.unit("instruct/noise", (count, 4, h, w)).expand(frames, -1, -1, -1)
    module.randn_tensor = Given(tiny.unit("instruct/step_noise", (steps, count, 4, h, w)))
    latents = pipe(prompt=[INSTRUCTION] * frames, image=video, latents=noise.clone(), num_inference_steps=steps,
                   guidance_scale=guidance, image_guidance_scale=image_guidance, negative_prompt=[negative] * frames,
                   output_type="latent").images
    assert module.randn_tensor.at == steps, module.randn_tensor.at
    vae = pipe.vae
    images = torch.cat([vae.decode(z[None] / vae.config.scaling_factor).sample for z in latents])
    return latents, (images / 2 + 0.5).clamp(0, 1)


CASES = {
    "plain": dict(cells=(9, 7), frames=5, steps=6),
    "shared": dict(cells=(6, 8), frames=4, steps=5, guidance=3.0, image_guidance=1.0, shared=True, negative="a red box"),
    "alone": dict(cells=(6, 8), frames=3, steps=4, guidance=1.0),
    "one": dict(cells=(6, 8), frames=1, steps=1),
}


def resized() -> dict:
    """torch's bilinear interpolation with antialias, rounded to bytes: what frames of another size become."""
    tensors = {}
    source = torch.floor((tiny.unit("instruct/resized", (23, 31, 3)).double() + 1) / 2 * 256).permute(2, 0, 1).float()
    for h, w in ((16, 24), (8, 8), (40, 50), (23, 16)):
        made = torch.nn.functional.interpolate(source[None], (h, w), mode="bilinear", antialias=True, align_corners=False)
        tensors[f"resized/{w}x{h}"] = made[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
    return tensors


@torch.no_grad()
def main() -> None:
    write_folder()
    tensors = resized()
    for name, case in CASES.items():
        latents, frames = run(**case)
        tensors[f"{name}/latents"] = latents[None].contiguous()
        tensors[f"{name}/frames"] = thin(frames)
    save_file(tensors, tiny.GOLDEN / "sd" / "instruct.safetensors")
    print({name: list(tensor.shape) for name, tensor in tensors.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

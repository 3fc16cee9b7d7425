"""Whole runs of Text2Video-Zero with diffusers' parts on tiny random models (sd.py), from given noise.

    python tests/reference/zero_shot.py             # tests/golden/sd/zero_shot.safetensors

The networks, the samplers, the cross-frame processor and the warp are diffusers' own; put together as
`TextToVideoZeroPipeline` does with the sampler forced, each scene's frames reading their own text.
"""

import json
import pathlib
import sys
import tempfile

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import (
    CrossFrameAttnProcessor,
    create_motion_field_and_warp_latents,
)
from safetensors.torch import save_file

import sd
import tiny
from vae import thin

PROMPTS = ["a red ball rolls", "a blue ball rolls", "a green box rests"]
SAMPLERS = {"ddim": DDIMScheduler, "dpmpp-2m": DPMSolverMultistepScheduler}


def embed(kind: str, texts: list) -> torch.Tensor:
    with tempfile.TemporaryDirectory() as folder:
        tokens = sd.tokenizer(kind, pathlib.Path(folder))
        ids = tokens(texts, padding="max_length", max_length=24, truncation=True)["input_ids"]
    return sd.part(kind, "text_encoder")(input_ids=torch.tensor(ids)).last_hidden_state


def sampler(name: str, steps: int):
    # as pipelines put another sampler in the place of a folder's own
    more = {"clip_sample": False} if name == "ddim" else {}
    # what the folder's file says; values that nobody set are in it, and from_config would leave them out of the object's own
    file = json.loads(PNDMScheduler(**sd.SCHEDULER).to_json_string())
    made = SAMPLERS[name].from_config(file, **more)
    made.set_timesteps(steps)
    return made


def network(kind: str, cross: bool):
    unet = sd.part(kind, "unet")
    if cross:
        unet.set_attn_processor(CrossFrameAttnProcessor(batch_size=2))
    return unet


def predict(unet, latents, texts, uncond, timestep, guidance):
    both = torch.cat([latents, latents])
    hidden = torch.cat([uncond.expand(len(latents), -1, -1), texts])
    out = unet(both, timestep, encoder_hidden_states=hidden).sample
    low, high = out.chunk(2)
    return low + guidance * (high - low)


def run(kind, cells, frames, steps, name, motion=None, between=(881, 941), scenes=1, overlap=0, cross=True, guidance=7.5,
        smooth=None, picture=False):
    """`cells`: height and width of the latents; `overlap`: frames that go over from one scene's text to the next."""
    h, w = cells
    embeddings = embed(kind, PROMPTS[:scenes] + [""])
    uncond, prompts = embeddings[-1:], embeddings[:-1]
    starts = [scene * frames // scenes for scene in range(scenes)] + [frames]
    texts = []
    for scene in range(scenes):
        length = starts[scene + 1] - starts[scene]
        o = min(overlap, length) if scene else 0
        for j in range(length):
            weight = (j + 1) / (o + 1) if j < o else 1.0
            before = prompts[scene - 1] if scene else prompts[scene]
            texts.append((1 - weight) * before + weight * prompts[scene])
    texts = torch.stack(texts)
    schedule = sampler(name, steps)
    times = schedule.timesteps.tolist()
    vae = sd.part(kind, "vae")
    held = lambda x, t: x  # noqa: E731
    if picture:
        # spec/text2video-zero.md 10.1: the anchor is the picture under one noise, at every step
        given = first_frame(8 * h, 8 * w).permute(2, 0, 1)[None] / 127.5 - 1
        clean, over = vae.encode(given).latent_dist.mean * vae.config.scaling_factor, tiny.unit("zero-shot/noise", (1, 4, h, w))
        under = lambda t: schedule.add_noise(clean, over, torch.tensor([int(t)]))  # noqa: E731
        held = lambda x, t: torch.cat([clean if t is None else under(t), x[1:]])  # noqa: E731
    unet = network(kind, cross)
    if motion is None:
        x, first = tiny.unit("zero-shot/noise", (frames, 4, h, w)), 0
    else:
        first = next(i for i, t in enumerate(times) if t <= between[1])
        moved = next(i for i, t in enumerate(times) if t <= between[0])
        x = tiny.unit("zero-shot/noise", (1, 4, h, w))
        alone, plain = sampler(name, steps), network(kind, False)
        if picture:
            x1, x = under(times[first]), under(times[moved])
        for i in range(0 if picture else moved):
            if i == first:
                x1 = x
            x = alone.step(predict(plain, x, texts[:1], uncond, alone.timesteps[i], guidance), alone.timesteps[i], x).prev_sample
        if frames > 1:
            warped = create_motion_field_and_warp_latents(
                motion_field_strength_x=motion[0], motion_field_strength_y=motion[1], frame_ids=list(range(1, frames)),
                latents=x.repeat(frames - 1, 1, 1, 1))
            kept = torch.prod(schedule.alphas[times[moved]:times[first]])
            noise = tiny.unit("zero-shot/frame_noise", (frames, 4, h, w))[1:]
            x = torch.cat([x1, torch.sqrt(kept) * warped + torch.sqrt(1 - kept) * noise])
            if smooth:
                x = smoothed(x, smooth, motion)
        else:
            x = x1
    # the sampler has no memory where all frames begin
    schedule = sampler(name, steps)
    if name == "dpmpp-2m":
        schedule._step_index = first
    for t in schedule.timesteps[first:]:
        x = held(x, t)
        x = schedule.step(predict(unet, x, texts, uncond, t, guidance), t, x).prev_sample
    x = held(x, None)
    images = torch.cat([vae.decode(z[None] / vae.config.scaling_factor).sample for z in x])
    return x, (images / 2 + 0.5).clamp(0, 1)


def first_frame(height, width):
    """Bytes [H, W, 3] as floats, as tests/all/cli/zero_shot.rs writes them: squares of 8 pixels."""
    small = tiny.unit("zero-shot/picture", (height // 8, width // 8, 3)).clamp(-1, 1)
    return ((small + 1) * 100).to(torch.uint8).float().repeat_interleave(8, 0).repeat_interleave(8, 1)


def masks(frames, height, width):
    """Bytes [F, H, W], as tests/all/cli/zero_shot.rs writes them: a tenth of the places of a coarse picture is white."""
    small = tiny.unit("zero-shot/masks", (frames, height // 16, width // 16))
    return torch.where(small > 0.8, 255, 40).to(torch.uint8).repeat_interleave(16, 1).repeat_interleave(16, 2)


def smoothed(x, strength, motion):
    """spec/text2video-zero.md 7, with the contract's form of masks, on latents [F, 4, h, w] where all frames begin."""
    frames, _, h, w = x.shape
    m = F.interpolate((masks(frames, 8 * h, 8 * w) >= 128).float()[:, None], (h, w), mode="nearest")
    m = F.max_pool2d(m, 5, 1, 2)
    warp = lambda y: create_motion_field_and_warp_latents(
        motion_field_strength_x=motion[0], motion_field_strength_y=motion[1], frame_ids=list(range(1, frames)),
        latents=y[:1].repeat(frames - 1, 1, 1, 1))
    background = (1 - m[1:]) * (1 - warp(m))
    mixed = (1 - strength) * x[1:] + strength * warp(x)
    return torch.cat([x[:1], (1 - background) * x[1:] + background * mixed])


CASES = {
    "text": dict(kind="tiny-sd1", cells=(9, 7), frames=5, steps=20, name="ddim", motion=(-12, 5.5)),
    "steps": dict(kind="tiny-sd2", cells=(6, 10), frames=3, steps=12, name="ddim", motion=(40, 0), between=(600, 900)),
    "dpm": dict(kind="tiny-sd1", cells=(6, 8), frames=4, steps=12, name="dpmpp-2m", motion=(12, 12), between=(750, 925)),
    "none": dict(kind="tiny-sd1", cells=(6, 8), frames=3, steps=6, name="ddim"),
    "independent": dict(kind="tiny-sd1", cells=(6, 8), frames=3, steps=6, name="ddim", cross=False),
    "scenes": dict(kind="tiny-sd1", cells=(6, 8), frames=10, steps=20, name="ddim", motion=(12, 12), scenes=3, overlap=2),
    "smooth": dict(kind="tiny-sd1", cells=(12, 14), frames=4, steps=20, name="ddim", motion=(60, -40), smooth=0.6),
    "picture": dict(kind="tiny-sd1", cells=(6, 8), frames=3, steps=20, name="ddim", motion=(30, -20), picture=True),
    "picture-dpm": dict(kind="tiny-sd1", cells=(6, 8), frames=3, steps=12, name="dpmpp-2m", motion=(30, -20), between=(750, 925),
                        picture=True),
    "picture-none": dict(kind="tiny-sd1", cells=(6, 8), frames=3, steps=6, name="ddim", picture=True),
    "alone": dict(kind="tiny-sd1", cells=(6, 8), frames=2, steps=20, name="ddim", motion=(12, 12), guidance=1.0),
}


@torch.no_grad()
def main() -> None:
    tensors = {}
    for name, case in CASES.items():
        latents, frames = run(**case)
        tensors[f"{name}/latents"] = latents[None].contiguous()
        if not case.get("picture"):
            tensors[f"{name}/frames"] = thin(frames)
    save_file(tensors, tiny.GOLDEN / "sd" / "zero_shot.safetensors")
    print({name: list(tensor.shape) for name, tensor in tensors.items()})


if __name__ == "__main__":
    sys.exit(main())

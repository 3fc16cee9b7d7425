"""A tiny random StreamingT2V, and what the plain PyTorch of training/streaming.py, with diffusers' blocks and samplers, makes of it.

    python tests/reference/streaming.py write         # tests/golden/tiny-stream, and tests/golden/streaming
    python tests/reference/streaming.py save DIR      # the whole folder, with weights, for trying the program by hand

Chunks have 6 frames, 2 of which are seen from before. Weights and inputs follow from their names (tiny.py); of large outputs every
p-th value is kept (vae.thin). Images and frames are rows of [3, H, W], latents rows of [4, h, w].

`parts`: the anchor's preparation, tower, resampler, CAM's encoder of pixels, a merger, a mixer, CAM, the main UNet. `run`: whole
streams from given noise. `enhance`: windows, blending, resampling, and whole runs of the enhancer.
"""

import json
import os
import pathlib
import sys
import tempfile

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, UNet3DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

import sd
import tiny
from vae import thin

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "training"))
# this file has the name of the module that it measures
sys.modules.pop("streaming", None)
sys.path = [place for place in sys.path if os.path.abspath(place or ".") != os.path.dirname(os.path.abspath(__file__))]
import streaming as net  # noqa: E402

KIND, CHUNK, BEFORE, IMAGE = "tiny-stream", 6, 2, 3
UNET = dict(sample_size=(5, 7), block_out_channels=(16, 24), layers_per_block=1, cross_attention_dim=20, attention_head_dim=8,
            norm_num_groups=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"))
TEXT = dict(vocab_size=len(sd.VOCAB), hidden_size=20, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2,
            max_position_embeddings=24, hidden_act="gelu")
TOWER = dict(image_size=12, patch_size=4, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
             projection_dim=14, hidden_act="gelu", layer_norm_eps=1e-5)
SCHEDULER = {"_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
             "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
             "trained_betas": None}
PROMPT = "a red ball rolls"


def part(name: str) -> torch.nn.Module:
    if name == "text_encoder":
        module = CLIPTextModel(CLIPTextConfig(**TEXT))
        for key, tensor in sd.text_names(module).items():
            tensor.copy_(tiny.weight(f"{KIND}/{name}/{key}", tuple(tensor.shape)))
        return module.eval()
    module = {
        "unet": lambda: net.streaming_unet(UNet3DConditionModel(**UNET), 24, IMAGE),
        "base_unet": lambda: UNet3DConditionModel(**UNET),
        "cam": lambda: net.StreamingCAM(UNet3DConditionModel(**UNET), (4, 6, 6, 8), BEFORE),
        "resampler": lambda: net.StreamingResampler(14, 10, 20, IMAGE),
        "image_encoder": lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER)),
        "vae": lambda: AutoencoderKL(**sd._VAE),
    }[name]()
    return tiny.fill(module, f"{KIND}/{name}")


PARTS = ("unet", "base_unet", "cam", "resampler", "image_encoder", "vae", "text_encoder")


def config_of(name: str, module: torch.nn.Module) -> dict:
    if name == "unet":
        return {"_class_name": "StreamingUNet3DConditionModel"} | net.settings_of(module)
    if name in ("cam", "resampler"):
        return {"_class_name": {"cam": "StreamingCAM", "resampler": "StreamingResampler"}[name]} | module.settings
    with tempfile.TemporaryDirectory() as folder:
        module.config.save_pretrained(folder) if hasattr(module.config, "save_pretrained") else module.save_config(folder)
        return json.loads((pathlib.Path(folder) / "config.json").read_text())


INDEX = {"_class_name": "StreamingT2VPipeline", "anchor_frame": 0, "chunk_frames": CHUNK,
         "base_unet": ["diffusers", "UNet3DConditionModel"], "cam": ["vidgen", "StreamingCAM"],
         "image_encoder": ["transformers", "CLIPVisionModelWithProjection"], "resampler": ["vidgen", "StreamingResampler"],
         "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
         "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["vidgen", "StreamingUNet3DConditionModel"],
         "vae": ["diffusers", "AutoencoderKL"]}


def write_folder(folder: pathlib.Path, weights: bool) -> None:
    for name in PARTS:
        module, target = part(name), folder / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(config_of(name, module), indent=2) + "\n")
        state = sd.text_names(module) if name == "text_encoder" else {k: t for k, t in module.state_dict().items() if "position_ids" not in k}
        if weights:
            file = "model" if name in ("text_encoder", "image_encoder") else "diffusion_pytorch_model"
            save_file({k: t.contiguous() for k, t in state.items()}, target / f"{file}.safetensors")
        else:
            (target / "shapes.json").write_text(json.dumps({k: list(t.shape) for k, t in state.items()}, indent=0) + "\n")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    (folder / "tokenizer").mkdir(exist_ok=True)
    if weights:
        sd.tokenizer("tiny-sd2", folder / "tokenizer")
    for file, content in sd.tokenizer_files("tiny-sd2").items():
        (folder / "tokenizer" / file).write_text(json.dumps(content, indent=1) + "\n")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def clip_of(rows: torch.Tensor) -> torch.Tensor:
    """Rows [F, C, h, w] as a clip [1, C, F, h, w]; its own inverse but for the first axis."""
    return rows.transpose(0, 1)[None]


# height and width of anchors; the tower has 12 x 12
ANCHORS = ((12, 12), (9, 7), (13, 12), (16, 10), (40, 56), (96, 23))


def anchors() -> dict:
    tensors, tower, resampler = {}, part("image_encoder"), part("resampler")
    for h, w in ANCHORS:
        x = net.prepared(tiny.unit(f"streaming/anchor/{h}x{w}", (1, 3, h, w)), 12)
        tensors[f"anchor/{h}x{w}/prepared"] = x[0]
    embedding = tower(pixel_values=x).image_embeds
    grey = tower(pixel_values=net.prepared(torch.zeros(1, 3, 40, 56), 12)).image_embeds
    for name, value in (("picture", embedding), ("grey", grey)):
        tensors[f"tower/{name}"], tensors[f"resampler/{name}"] = value[0], resampler(value)[0]
    return tensors


def modules() -> dict:
    """A merger, a mixer and CAM's encoder of pixels, each alone."""
    tensors, unet, cam = {}, part("unet"), part("cam")
    for name, width, (h, w) in (("down_blocks.1", 16, (3, 5)), ("down_blocks.3", 24, (2, 3)), ("mid_block", 24, (1, 2))):
        merger = unet.get_submodule(f"cross_attention_merger_{name}")
        for before in (BEFORE, 3):
            x, memory = (tiny.unit(f"streaming/merger/{name}/{what}/{f}", (f, width, h, w)) for what, f in (("x", CHUNK), ("memory", before)))
            tensors[f"merger/{name}/{before}"] = thin(merger(x, memory, CHUNK, before))
    attn = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    tokens = tiny.unit("streaming/mixer/tokens", (1, 24 + IMAGE, 20))
    tensors["mixer"] = tokens[0, :24] + F.silu(attn.alpha) * attn.conv_ln(attn.conv(tokens))[0]
    for h, w in ((40, 56), (24, 8)):
        pixels = tiny.unit(f"streaming/pixels/{h}x{w}", (BEFORE, 3, h, w))
        tensors[f"pixels/{h}x{w}"] = thin(cam.controlnet_cond_embedding(pixels))
    return tensors


# height and width of latents, frames, timestep
CASES = ((5, 7, CHUNK, 981), (4, 6, CHUNK, 1), (3, 2, 9, 501))


def forward() -> dict:
    tensors, unet, cam = {}, part("unet"), part("cam")
    for h, w, frames, t in CASES:
        name = f"{frames}x{h}x{w}/t{t}"
        z = clip_of(tiny.unit(f"streaming/{name}/latents", (frames, 4, h, w)))
        pixels = tiny.unit(f"streaming/{name}/pixels", (1, BEFORE, 3, 8 * h, 8 * w))
        tokens, times = tiny.unit(f"streaming/{name}/tokens", (1, 24 + IMAGE, 20)), torch.tensor([t])
        skips, middle = cam(z[:, :, :BEFORE], times, tokens[:, :24], pixels)
        for index, feature in enumerate([*skips, middle]):
            tensors[f"cam/{name}/{index}"] = thin(feature)[:300].clone()
        for kind, given in (("both", tokens), ("text", tokens[:, :24])):
            made = net.predict(unet, z, times, given, (skips, middle))
            tensors[f"unet/{name}/{kind}"] = thin(made[0].transpose(0, 1))
        tensors[f"unet/{name}/alone"] = thin(net.predict(unet, z, times, tokens)[0].transpose(0, 1))
    return tensors


class Stream:
    """The loop over chunks."""

    def __init__(self):
        self.parts = {name: part(name) for name in PARTS}
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = sd.tokenizer("tiny-sd2", pathlib.Path(folder))
        ids = tokenizer(["", PROMPT], padding="max_length", max_length=24, truncation=True)["input_ids"]
        self.text = self.parts["text_encoder"](input_ids=torch.tensor(ids)).last_hidden_state

    def scheduler(self, kind, steps: int):
        with tempfile.TemporaryDirectory() as folder:
            # the folder's file as it is, without defaults of another class
            (pathlib.Path(folder) / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
            made = kind.from_pretrained(folder)
        made.set_timesteps(steps)
        return made

    def sample(self, predict, scheduler, z: torch.Tensor, guidance: float, noise=None) -> torch.Tensor:
        """`predict(z, t, half)` for the half without text (0) and with it (1); `noise(step)` is what enters with eta 1."""
        for step, t in enumerate(scheduler.timesteps):
            made = predict(z, t, 1)
            if guidance > 1:
                low = predict(z, t, 0)
                made = low + guidance * (made - low)
            more = {} if noise is None else {"eta": 1.0, "variance_noise": noise(step)}
            z = scheduler.step(made, t, z, **more).prev_sample
        return z

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Frames [F, 3, H, W] in 0..1 of latents [1, 4, F, h, w]."""
        vae = self.parts["vae"]
        return (vae.decode(z[0].transpose(0, 1) / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def first(self, noise: torch.Tensor, steps: int, guidance: float, sampler=DPMSolverMultistepScheduler) -> torch.Tensor:
        predict = lambda z, t, half: self.parts["base_unet"](z, t, self.text[half:half + 1]).sample
        return self.sample(predict, self.scheduler(sampler, steps), clip_of(noise), guidance)

    def next(self, before: torch.Tensor, anchor, noise: torch.Tensor, step_noise, steps: int, guidance: float) -> torch.Tensor:
        """`before` [S, 3, H, W] and `anchor` [3, H', W'] (or None) in 0..1."""
        cam, image = self.parts["cam"], [None, None]
        if anchor is not None:
            pictures = [torch.zeros_like(anchor), 2 * anchor - 1]
            image = [self.parts["resampler"](self.parts["image_encoder"](pixel_values=net.prepared(x[None], 12)).image_embeds) for x in pictures]

        def predict(z, t, half):
            text = self.text[half:half + 1]
            tokens = text if image[half] is None else torch.cat([text, image[half]], 1)
            memory = cam(z[:, :, :BEFORE], t[None], text, (2 * before - 1)[None])
            return net.predict(self.parts["unet"], z, t[None], tokens, memory)

        return self.sample(predict, self.scheduler(DDIMScheduler, steps), clip_of(noise), guidance, lambda step: clip_of(step_noise[step]))


# cells, frames asked for, steps and guidance of the first chunk and of the others, anchor, frames given
RUNS = {
    "stream": dict(cells=(5, 7), frames=13, first=(5, 9.0), steps=3, guidance=7.5, anchor="frame:0"),
    "alone": dict(cells=(4, 4), frames=10, first=(4, 1.0), steps=2, guidance=1.0, anchor="frame:0"),
    "none": dict(cells=(4, 6), frames=10, first=(3, 9.0), steps=3, guidance=7.5, anchor=None),
    "later": dict(cells=(4, 4), frames=11, first=(3, 9.0), steps=2, guidance=7.5, anchor="frame:3"),
    "extend": dict(cells=(4, 6), frames=7, steps=3, guidance=7.5, anchor="frame:0", given=5),
}


def run(stream: Stream, name: str) -> dict:
    case = RUNS[name]
    (h, w), frames, given = case["cells"], case["frames"], case.get("given", 0)
    new = CHUNK - BEFORE
    chunks = -(-frames // new) if given else -(-(frames - CHUNK) // new) + 1
    noise = tiny.unit(f"streaming/{name}/noise", (chunks, CHUNK, 4, h, w))
    streamed = chunks - (0 if given else 1)
    step_noise = tiny.unit(f"streaming/{name}/step_noise", (streamed, case["steps"], CHUNK, 4, h, w))
    latents, video = [], []
    if given:
        # a video has bytes
        before = ((tiny.unit(f"streaming/{name}/video", (given, 3, 8 * h, 8 * w)) + 1) * 127.5).round().clamp(0, 255) / 255
        source = before
    else:
        z = stream.first(noise[0], *case["first"])
        latents, video = [z[0].transpose(0, 1)], [stream.decode(z)]
        source = before = video[0]
    anchor = None if case["anchor"] is None else source[int(case["anchor"].split(":")[1])]
    for k in range(streamed):
        z = stream.next(before[-BEFORE:], anchor, noise[chunks - streamed + k], step_noise[k], case["steps"], case["guidance"])
        before = stream.decode(z)
        latents.append(z[0].transpose(0, 1)[BEFORE:])
        video.append(before[BEFORE:])
    return {f"{name}/latents": thin(torch.cat(latents)[:frames]), f"{name}/frames": thin(torch.cat(video)[:frames])}


def windows(frames: int, chunk: int, overlap: int) -> list[tuple[int, int]]:
    """Begin and end of each window."""
    if frames <= chunk:
        return [(0, frames)]
    starts = list(range(0, frames - chunk, chunk - overlap)) + [frames - chunk]
    return [(start, start + chunk) for start in starts]


# frames, chunk, overlap
WINDOWS = ((24, 24, 8), (25, 24, 8), (40, 24, 8), (41, 24, 8), (100, 24, 8), (7, 24, 8), (13, 5, 2), (12, 5, 4), (11, 4, 0))
ENHANCED = {
    # frames and size given, cells, chunk, overlap, strength, steps, guidance
    "one": dict(given=(4, 24, 20), cells=(5, 4), chunk=6, overlap=2, strength=0.6, steps=5, guidance=15.0),
    "three": dict(given=(11, 20, 28), cells=(4, 6), chunk=5, overlap=2, strength=0.5, steps=7, guidance=15.0),
    "whole": dict(given=(7, 50, 60), cells=(3, 5), chunk=4, overlap=3, strength=1.0, steps=3, guidance=1.0),
}


def resized(x: torch.Tensor, h: int, w: int) -> torch.Tensor:
    return F.interpolate(x, (h, w), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def enhance(stream: Stream, name: str) -> dict:
    """The enhancer with the folder's plain UNet."""
    case, vae = ENHANCED[name], stream.parts["vae"]
    (frames, height, width), (h, w) = case["given"], case["cells"]
    video = ((tiny.unit(f"streaming/enhance/{name}/video", (frames, 3, height, width)) + 1) * 127.5).round().clamp(0, 255) / 255
    large = resized(video, 8 * h, 8 * w)
    latents = vae.encode(2 * large - 1).latent_dist.mean * vae.config.scaling_factor
    scheduler = stream.scheduler(DDIMScheduler, case["steps"])
    count = int(case["steps"] * case["strength"])
    places = windows(frames, case["chunk"], case["overlap"])
    shared = [left[1] - right[0] for left, right in zip(places, places[1:])]
    # any number of 0..=o: an odd one of each step and window
    draws = torch.tensor([[(3 * step + 2 * k + 1) % (o + 1) for k, o in enumerate(shared)] for step in range(count)]).reshape(count, -1)
    times = scheduler.timesteps[case["steps"] - count:]
    x = scheduler.add_noise(latents, tiny.unit(f"streaming/enhance/{name}/noise", (frames, 4, h, w)), times[:1])
    for step, t in enumerate(times):
        whole = torch.zeros_like(x)
        for k, (begin, end) in enumerate(places):
            z = clip_of(x[begin:end])
            made = stream.parts["base_unet"](z, t, stream.text[1:]).sample
            if case["guidance"] > 1:
                low = stream.parts["base_unet"](z, t, stream.text[:1]).sample
                made = low + case["guidance"] * (made - low)
            left = draws[step, k - 1].item() if k else 0
            whole[begin + left:end] = made[0].transpose(0, 1)[left:]
        x = scheduler.step(whole, t, x).prev_sample
    made = stream.decode(clip_of(x))
    tensors = {"resized": thin(large), "encoded": thin(latents), "latents": thin(x), "frames": thin(made)}
    if len(places) > 1:
        tensors["draws"] = draws
    return {f"{name}/{key}": value for key, value in tensors.items()}


def write() -> None:
    write_folder(tiny.GOLDEN / KIND, False)
    stream, made = Stream(), {"parts": anchors() | modules() | forward(), "run": {}, "enhance": {}}
    for name in RUNS:
        made["run"] |= run(stream, name)
    for name in ENHANCED:
        made["enhance"] |= enhance(stream, name)
    made["enhance"] |= {f"windows/{f}-{c}-{o}": torch.tensor(windows(f, c, o)) for f, c, o in WINDOWS}
    folder = tiny.GOLDEN / "streaming"
    folder.mkdir(exist_ok=True)
    for name, tensors in made.items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)
        print(name, path.stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        match sys.argv[1:]:
            case ["write"]:
                write()
            case ["save", folder]:
                write_folder(pathlib.Path(folder), True)
            case _:
                sys.exit(__doc__)

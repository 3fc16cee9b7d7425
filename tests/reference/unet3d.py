"""Tiny random text-to-video models (ModelScope's form), and what diffusers makes of them.

    python tests/reference/unet3d.py write              # tests/golden/tiny-ms, tiny-zs, and tests/golden/unet3d
    python tests/reference/unet3d.py save KIND DIR      # a whole diffusers folder, with weights, for trying the program by hand

`tiny-ms`: three levels, two layers each, heads of 8, text tower with exact GELU, padded with `!`. `tiny-zs`: two levels, one
layer each, heads of 16, sides by height and width, unusual `norm_eps`. Weights and inputs follow from their names (tiny.py); of large
outputs every p-th value is kept (vae.thin).

`run`: whole runs of `TextToVideoSDPipeline` from given noise. `freenoise`: one pass and whole runs with diffusers' own
`FreeNoiseTransformerBlock` in the place of every temporal transformer block, and each frame's text in its cross-attention.
"""

import json
import pathlib
import sys
import tempfile

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
)
from diffusers.models.attention import FreeNoiseTransformerBlock
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import sd
import tiny
from vae import thin

_TEXT = dict(vocab_size=len(sd.VOCAB), num_hidden_layers=2, max_position_embeddings=24, hidden_act="gelu")

KINDS = {
    "tiny-ms": dict(
        unet=dict(sample_size=8, block_out_channels=(16, 24, 32), layers_per_block=2, cross_attention_dim=24, attention_head_dim=8,
                  norm_num_groups=8, down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
                  up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D")),
        vae=sd._VAE,
        text_encoder=dict(_TEXT, hidden_size=24, intermediate_size=40, num_attention_heads=3),
    ),
    "tiny-zs": dict(
        unet=dict(sample_size=(6, 10), block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=20,
                  attention_head_dim=16, norm_num_groups=4, norm_eps=1e-3,
                  down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
                  up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D")),
        vae=dict(sd._VAE, block_out_channels=(8, 12, 8), down_block_types=("DownEncoderBlock2D",) * 3,
                 up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=2),
        text_encoder=dict(_TEXT, hidden_size=20, intermediate_size=32, num_attention_heads=2),
    ),
}
CLASSES = dict(unet=UNet3DConditionModel, vae=AutoencoderKL)
# the published file: neither spacing nor prediction type
SCHEDULER = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.15.0.dev0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False,
             "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
SAMPLERS = {"ddim": DDIMScheduler, "dpmpp-2m": DPMSolverMultistepScheduler}
PROMPTS = ["a red ball rolls", "a blue ball rolls", "a green box rests"]


def part(kind: str, name: str) -> torch.nn.Module:
    config = KINDS[kind][name]
    if name != "text_encoder":
        return tiny.fill(CLASSES[name](**config), f"{kind}/{name}")
    module = CLIPTextModel(CLIPTextConfig(**config))
    # the names of transformers 4, which are those of published files
    prefix = "" if next(iter(module.state_dict())).startswith("text_model.") else "text_model."
    for key, tensor in module.state_dict().items():
        if "position_ids" not in key:
            tensor.copy_(tiny.weight(f"{kind}/{name}/{prefix}{key}", tuple(tensor.shape)))
    return module.eval()


def write_folder(kind: str) -> None:
    folder = tiny.GOLDEN / kind
    for name in KINDS[kind]:
        module, target = part(kind, name), folder / name
        target.mkdir(parents=True, exist_ok=True)
        module.config.save_pretrained(target) if name == "text_encoder" else module.save_config(target)
        state = {k: list(t.shape) for k, t in module.state_dict().items() if "position_ids" not in k}
        if name == "text_encoder":
            state = {k if k.startswith("text_model.") else f"text_model.{k}": shape for k, shape in state.items()}
        (target / "shapes.json").write_text(json.dumps(state, indent=0) + "\n")
    for file, content in sd.tokenizer_files("tiny-sd2").items():
        (folder / "tokenizer").mkdir(exist_ok=True)
        (folder / "tokenizer" / file).write_text(json.dumps(content, indent=1) + "\n")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    index = {"_class_name": "TextToVideoSDPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


# frames, height, width, timestep
CASES = ((1, 9, 7, 981.0), (5, 8, 12, 1.0), (24, 5, 3, 501.0))


def inputs(kind: str, case: tuple) -> tuple:
    frames, h, w, _ = case
    name = f"{kind}/{frames}x{h}x{w}"
    latents = tiny.unit(f"{name}/latents", (frames, 4, h, w)).permute(1, 0, 2, 3)[None]
    return name, latents, tiny.unit(f"{name}/text", (1, 24, KINDS[kind]["unet"]["cross_attention_dim"]))


def forward(kind: str) -> dict:
    model, tensors = part(kind, "unet"), {}
    for case in CASES:
        name, latents, text = inputs(kind, case)
        sample = model(latents, torch.tensor(case[3]), text).sample
        tensors[f"{name}/t{case[3]:g}"] = thin(sample[0].permute(1, 0, 2, 3))
    return tensors


def free_noise(unet: torch.nn.Module, window: int, stride: int) -> None:
    """Puts diffusers' FreeNoise block in the place of every block of a temporal transformer."""
    for name, module in unet.named_modules():
        if name == "transformer_in" or ".temp_attentions." in name and name.split(".")[-2] == "temp_attentions":
            own = module.transformer_blocks[0]
            block = FreeNoiseTransformerBlock(own.attn1.to_q.in_features, module.num_attention_heads, module.attention_head_dim,
                                              double_self_attention=True, context_length=window, context_stride=stride)
            block.load_state_dict(own.state_dict())
            module.transformer_blocks[0] = block.eval()


def texts_of_frames(unet: torch.nn.Module, texts: list) -> None:
    """`texts`: one element, what stands in the place of the text in the cross-attention of all frames of all halves."""

    def replaced(module, args, kwargs):
        return args, kwargs | {"encoder_hidden_states": texts[0]} if texts[0] is not None else kwargs

    for name, module in unet.named_modules():
        if ".attentions." in name and name.split(".")[-2] == "attentions":
            module.register_forward_pre_hook(replaced, with_kwargs=True)


def freenoise(kind: str) -> dict:
    tensors = {}
    for window, stride in ((8, 3), (5, 2)):
        model = part(kind, "unet")
        free_noise(model, window, stride)
        name, latents, text = inputs(kind, CASES[2])
        sample = model(latents, torch.tensor(CASES[2][3]), text).sample
        tensors[f"freenoise/{name}/{window}-{stride}"] = thin(sample[0].permute(1, 0, 2, 3))
    return tensors


def scheduler(name: str):
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        return SAMPLERS[name].from_pretrained(folder)


def pipeline(kind: str, sampler: str):
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = sd.tokenizer("tiny-sd2", pathlib.Path(folder))
    # the folder's file as it is, without defaults of another class
    pipe = TextToVideoSDPipeline(vae=part(kind, "vae"), text_encoder=part(kind, "text_encoder"), tokenizer=tokenizer,
                                 unet=part(kind, "unet"), scheduler=scheduler(sampler))
    pipe.set_progress_bar_config(disable=True)
    return pipe


RUNS = {
    # kind, frames, cells (height, width), steps, sampler, guidance, eta
    "ddim": ("tiny-ms", 5, (9, 7), 6, "ddim", 9.0, 0.0),
    "dpm": ("tiny-ms", 4, (8, 6), 7, "dpmpp-2m", 9.0, 0.0),
    "alone": ("tiny-ms", 3, (8, 6), 7, "ddim", 1.0, 0.0),
    "eta": ("tiny-ms", 4, (8, 6), 5, "ddim", 9.0, 0.7),
    "one": ("tiny-zs", 1, (6, 10), 4, "dpmpp-2m", 1.0, 0.0),
    "wide": ("tiny-zs", 7, (6, 10), 5, "ddim", 9.0, 0.0),
    # frames, window and stride, scenes
    "freenoise": ("tiny-zs", 11, (6, 10), 4, "ddim", 9.0, 0.0, (6, 2), 1),
    "scenes": ("tiny-zs", 13, (6, 10), 4, "ddim", 9.0, 0.0, (6, 2), 3),
}


def run(name: str) -> dict:
    kind, frames, (h, w), steps, sampler, guidance, eta, *more = RUNS[name]
    pipe = pipeline(kind, sampler)
    noise = tiny.unit(f"unet3d/{name}/noise", (frames, 4, h, w)).permute(1, 0, 2, 3)[None]
    if eta > 0:
        own, taken = pipe.scheduler.step, []

        def step(*args, generator=None, **kwargs):
            taken.append(tiny.unit(f"unet3d/{name}/step_noise/{len(taken)}", (frames, 4, h, w)))
            return own(*args, variance_noise=taken[-1], **kwargs)

        pipe.scheduler.step = step
        step.__signature__ = __import__("inspect").signature(own)
    if more:
        (window, stride), scenes = more
        free_noise(pipe.unet, window, stride)
        if scenes > 1:
            texts_of_frames(pipe.unet, [scene_texts(pipe, frames, scenes, 2)])
    ratio = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    call = dict(prompt=PROMPTS[0], height=h * ratio, width=w * ratio, num_frames=frames, num_inference_steps=steps,
                guidance_scale=guidance, latents=noise, eta=eta)
    latents = pipe(**call, output_type="latent", return_dict=False)[0]
    video = pipe.video_processor.postprocess_video(video=pipe.decode_latents(latents), output_type="np")[0]
    frames = torch.from_numpy(video).permute(0, 3, 1, 2)
    return {f"{name}/latents": latents.permute(0, 2, 1, 3, 4), f"{name}/frames": thin((frames * 255).round() / 255)}


def scene_texts(pipe, frames: int, scenes: int, overlap: int) -> torch.Tensor:
    """The text of each frame of both halves: scene s has frames floor(s F / S) .. floor((s+1) F / S) - 1, and its first frames
    go over from the one before."""
    ids = pipe.tokenizer(PROMPTS[:scenes] + [""], padding="max_length", max_length=24, truncation=True)["input_ids"]
    *prompts, empty = pipe.text_encoder(torch.tensor(ids)).last_hidden_state
    texts = []
    for scene in range(scenes):
        start, end = scene * frames // scenes, (scene + 1) * frames // scenes
        over = min(overlap, end - start) if scene else 0
        for j in range(end - start):
            weight = (j + 1) / (over + 1) if j < over else 1.0
            texts.append((1 - weight) * prompts[max(scene - 1, 0)] + weight * prompts[scene])
    return torch.cat([empty.expand(frames, -1, -1), torch.stack(texts)])


def save(kind: str, folder: str) -> None:
    root = pathlib.Path(folder)
    for name in KINDS[kind]:
        part(kind, name).save_pretrained(root / name)
    sd.tokenizer("tiny-sd2", root / "tokenizer")
    (root / "scheduler").mkdir(exist_ok=True)
    for file in ("model_index.json", "scheduler/scheduler_config.json"):
        (root / file).write_text((tiny.GOLDEN / kind / file).read_text())


def write() -> None:
    folder = tiny.GOLDEN / "unet3d"
    folder.mkdir(exist_ok=True)
    made = {"forward": {}, "run": {}}
    for kind in KINDS:
        write_folder(kind)
        made["forward"] |= forward(kind) | freenoise(kind)
    for name in RUNS:
        made["run"] |= run(name)
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
            case ["save", kind, folder]:
                save(kind, folder)
            case _:
                sys.exit(__doc__)

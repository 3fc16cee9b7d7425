"""Tiny random Stable Diffusion models, and what diffusers and transformers make of them.

    python tests/reference/sd.py write              # tests/golden/tiny-sd1, tiny-sd2, and tests/golden/sd
    python tests/reference/sd.py save KIND DIR      # a whole diffusers folder, with weights, for trying the program by hand

`tiny-sd1` is of the form of SD 1.x (convolutions around the transformers, one number of heads, OpenAI's text tower), with a
ControlNet; `tiny-sd2` of that of SD 2.x (linear layers there, heads by level, OpenCLIP's text tower, another pad token).
Weights and inputs follow from their names (tiny.py); of large outputs every p-th value is kept (vae.thin).
"""

import json
import pathlib
import sys

import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import tiny
from clip import PROMPTS
from vae import thin

CLIP = tiny.GOLDEN / "clip"
VOCAB = json.loads((CLIP / "vocab.json").read_text())

_VAE = dict(block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=96)
_UNET = dict(sample_size=12, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
             up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
_TEXT = dict(vocab_size=len(VOCAB), num_hidden_layers=2, max_position_embeddings=24)

KINDS = {
    "tiny-sd1": dict(
        unet=dict(_UNET, block_out_channels=(16, 24, 32), layers_per_block=2, cross_attention_dim=24, attention_head_dim=2,
                  norm_num_groups=8),
        vae=_VAE,
        text_encoder=dict(_TEXT, hidden_size=24, intermediate_size=40, num_attention_heads=3),
        controlnet=dict(block_out_channels=(16, 24, 32), down_block_types=_UNET["down_block_types"], layers_per_block=2,
                        cross_attention_dim=24, attention_head_dim=2, norm_num_groups=8,
                        conditioning_embedding_out_channels=(4, 8, 12, 16)),
    ),
    "tiny-sd2": dict(
        unet=dict(_UNET, block_out_channels=(16, 32, 48), layers_per_block=1, cross_attention_dim=20,
                  attention_head_dim=(2, 4, 6), use_linear_projection=True, norm_num_groups=4),
        vae=dict(_VAE, block_out_channels=(8, 12, 8), down_block_types=("DownEncoderBlock2D",) * 3,
                 up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=2, norm_num_groups=2, scaling_factor=0.5),
        text_encoder=dict(_TEXT, hidden_size=20, intermediate_size=32, num_attention_heads=2, hidden_act="gelu"),
    ),
}
CLASSES = dict(unet=UNet2DConditionModel, vae=AutoencoderKL, controlnet=ControlNetModel)
SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
                 set_alpha_to_one=False, num_train_timesteps=1000)


def text_names(module: torch.nn.Module) -> dict:
    """Tensors by the names of transformers 4, which are those of published files."""
    prefix = "" if next(iter(module.state_dict())).startswith("text_model.") else "text_model."
    return {prefix + name: tensor for name, tensor in module.state_dict().items() if "position_ids" not in name}


def part(kind: str, name: str) -> torch.nn.Module:
    config = KINDS[kind][name]
    module = CLIPTextModel(CLIPTextConfig(**config)) if name == "text_encoder" else CLASSES[name](**config)
    if name == "text_encoder":
        # the names of transformers 4, which are those of published files
        prefix = "" if next(iter(module.state_dict())).startswith("text_model.") else "text_model."
        with torch.no_grad():
            for key, tensor in module.state_dict().items():
                if "position_ids" not in key:
                    tensor.copy_(tiny.weight(f"{kind}/{name}/{prefix}{key}", tuple(tensor.shape)))
        return module.eval()
    return tiny.fill(module, f"{kind}/{name}")


def tokenizer_files(kind: str) -> dict:
    pad = "!" if kind == "tiny-sd2" else "<|endoftext|>"
    return {"tokenizer_config.json": {"model_max_length": 24, "pad_token": "<|endoftext|>",
                                      "tokenizer_class": "CLIPTokenizer"},
            "special_tokens_map.json": {"pad_token": pad}}


def write_folder(kind: str) -> None:
    folder = tiny.GOLDEN / kind
    for name in KINDS[kind]:
        module, target = part(kind, name), folder / name
        target.mkdir(parents=True, exist_ok=True)
        if name == "text_encoder":
            module.config.save_pretrained(target)
        else:
            module.save_config(target)
        state = {k: list(t.shape) for k, t in module.state_dict().items() if "position_ids" not in k}
        if name == "text_encoder":
            state = {k if k.startswith("text_model.") else f"text_model.{k}": shape for k, shape in state.items()}
        (target / "shapes.json").write_text(json.dumps(state, indent=0) + "\n")
    PNDMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir(exist_ok=True)
    for file, content in tokenizer_files(kind).items():
        (folder / "tokenizer" / file).write_text(json.dumps(content, indent=1) + "\n")
    controlled = "controlnet" in KINDS[kind]
    index = {"_class_name": "StableDiffusionControlNetPipeline" if controlled else "StableDiffusionPipeline",
             "feature_extractor": [None, None], "safety_checker": [None, None],
             "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"]}
    if controlled:
        index["controlnet"] = ["diffusers", "ControlNetModel"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def tokenizer(kind: str, folder: pathlib.Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("vocab.json", "merges.txt"):
        (folder / file).write_bytes((CLIP / file).read_bytes())
    for file, content in tokenizer_files(kind).items():
        (folder / file).write_text(json.dumps(content))
    return CLIPTokenizer.from_pretrained(folder)


TEXTS = PROMPTS + ["hello! a RED ball!! <|endoftext|> and more", "a <|ENDOFTEXT|> b", "it's 12,5 mm\t wide\n— naïve Ünïcode",
                   "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen " * 2]


def text(kind: str) -> dict:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokens = tokenizer(kind, pathlib.Path(folder))
        ids = tokens(TEXTS, padding="max_length", max_length=24, truncation=True)["input_ids"]
    hidden = part(kind, "text_encoder")(input_ids=torch.tensor(ids)).last_hidden_state
    return {f"{kind}/ids": torch.tensor(ids, dtype=torch.uint32), f"{kind}/hidden": hidden[[0, 1, 2, 4]]}


def vae(kind: str) -> dict:
    model, tensors = part(kind, "vae"), {}
    unit = 2 ** (len(KINDS[kind]["vae"]["block_out_channels"]) - 1)
    for h, w in ((9, 7), (4, 6)):
        name = f"{kind}/{h}x{w}"
        video = tiny.unit(f"{name}/video", (2, 3, h * unit, w * unit))
        posterior = model.encode(video).latent_dist
        tensors[f"{name}/mean"], tensors[f"{name}/logvar"] = thin(posterior.mean), thin(posterior.logvar)
        latents = tiny.unit(f"{name}/latents", (2, 4, h, w))
        tensors[f"{name}/frames"] = thin(model.decode(latents).sample)
        model.enable_tiling()
        model.tile_sample_min_size, model.tile_latent_min_size = 4 * unit, 4
        tensors[f"{name}/tiled"] = thin(model.decode(latents).sample)
        tensors[f"{name}/tiled-mean"] = thin(model.encode(video).latent_dist.mean)
        model.disable_tiling()
    return tensors


def unet_inputs(kind: str, name: str, frames: int, h: int, w: int):
    width = KINDS[kind]["unet"]["cross_attention_dim"]
    return tiny.unit(f"{name}/latents", (frames, 4, h, w)), tiny.unit(f"{name}/text", (1, 24, width)).expand(frames, -1, -1)


CASES = ((1, 9, 7, 981.0), (2, 8, 12, 1.0), (3, 5, 11, 832.5))


def unet(kind: str) -> dict:
    model, tensors = part(kind, "unet"), {}
    for frames, h, w, t in CASES:
        name = f"{kind}/{frames}x{h}x{w}"
        latents, context = unet_inputs(kind, name, frames, h, w)
        tensors[f"{name}/t{t:g}"] = thin(model(latents, torch.tensor(t), context).sample)
    # both halves of the guidance of Text2Video-Zero: every frame reads the first of its half
    frames, h, w, t = CASES[2]
    name = f"{kind}/{frames}x{h}x{w}"
    latents, context = unet_inputs(kind, name, frames, h, w)
    other = tiny.unit(f"{name}/other-text", context[:1].shape).expand(frames, -1, -1)
    model.set_attn_processor(CrossFrameAttnProcessor(batch_size=2))
    sample = model(torch.cat([latents, latents]), torch.tensor(t), torch.cat([other, context])).sample
    tensors[f"cross-frame/{name}/t{t:g}"] = torch.stack([thin(half) for half in sample.chunk(2)])
    return tensors


def controlnet(kind: str) -> dict:
    model, control, tensors = part(kind, "unet"), part(kind, "controlnet"), {}
    for frames, h, w, t in CASES[:2]:
        name = f"{kind}/{frames}x{h}x{w}"
        latents, context = unet_inputs(kind, name, frames, h, w)
        picture = tiny.unit(f"{name}/picture", (frames, 3, 8 * h, 8 * w)) / 2 + 0.5
        down, mid = control(latents, torch.tensor(t), context, picture, conditioning_scale=0.8, return_dict=False)
        for index, residual in enumerate([*down, mid]):
            tensors[f"{name}/t{t:g}/residual/{index}"] = thin(residual)[:200].clone()
        sample = model(latents, torch.tensor(t), context, down_block_additional_residuals=list(down),
                       mid_block_additional_residual=mid).sample
        tensors[f"{name}/t{t:g}/sample"] = thin(sample)
    return tensors


def save(kind: str, folder: str) -> None:
    root = pathlib.Path(folder)
    for name in KINDS[kind]:
        part(kind, name).save_pretrained(root / name)
    PNDMScheduler(**SCHEDULER).save_pretrained(root / "scheduler")
    tokenizer(kind, root / "tokenizer")
    (root / "model_index.json").write_text((tiny.GOLDEN / kind / "model_index.json").read_text())


def write() -> None:
    folder = tiny.GOLDEN / "sd"
    folder.mkdir(exist_ok=True)
    made = {name: {} for name in ("text", "vae", "unet", "controlnet")}
    for kind in KINDS:
        write_folder(kind)
        made["text"] |= text(kind)
        made["vae"] |= vae(kind)
        made["unet"] |= unet(kind)
    made["controlnet"] |= controlnet("tiny-sd1")
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

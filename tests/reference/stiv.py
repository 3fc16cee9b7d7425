"""A tiny random STIV, and what the plain PyTorch of training/stiv.py, with diffusers' autoencoder and transformers' text tower,
makes of it.

    python tests/reference/stiv.py write         # tests/golden/tiny-stiv, and tests/golden/stiv
    python tests/reference/stiv.py save DIR      # the whole folder, with weights, for trying the program by hand

`parts`: the transformer of every form of its configuration. `run`: whole videos from given noise: without an image and with given
frames, each guidance and sampler, a clip twice as dense, a long video by keyframes. Weights and inputs follow from their names
(tiny.py); of large outputs every p-th value is kept (vae.thin). Latents are rows of [4, h, w], frames of [3, H, W] in 0..1.
"""

import json
import os
import pathlib
import sys
import tempfile

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import sd
import tiny
from vae import thin

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "training"))
# this file has the name of the module that it measures
sys.modules.pop("stiv", None)
sys.path = [place for place in sys.path if os.path.abspath(place or ".") != os.path.dirname(os.path.abspath(__file__))]
import stiv as net  # noqa: E402

KIND, FRAMES, TOKENS, WIDTH = "tiny-stiv", 5, 24, 20
CONFIG = dict(num_layers=2, num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, caption_channels=WIDTH,
              pooled_projection_dim=WIDTH, temporal_gate=True, rope_axes_dim=[4, 4], sample_size=[FRAMES, 4, 6], keyframe_stride=7,
              image_drop=0.2, trained_tasks=["t2v", "ti2v", "predict2", "interp", "tup2", "keyframes"])
# what else a folder may say
FORMS = {
    "tiny": {},
    "bare": dict(qk_norm=None, sandwich_norm=False, temporal_gate=False, adaln_tables=False, micro_conditions=[], patch_size=1, patch_size_t=1,
                 prediction="noise_minus_data", time_direction="data_at_0", timestep_scale=1.0, mlp_ratio=3.0, norm_eps=1e-5),
    "other": dict(cond_time="clean", rope_axes_dim=[6, 2], rope_interpolation=[0.5, 0.75, 1.25], rope_theta=100.0, temporal_gate=False,
                  micro_conditions=["frames", "h", "stride"]),
}
TEXT = dict(vocab_size=len(sd.VOCAB), hidden_size=WIDTH, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2,
            max_position_embeddings=TOKENS, hidden_act="gelu")
VAE = dict(sd._VAE, scaling_factor=0.9, shift_factor=0.15)
PROMPT = "a red ball rolls"
INDEX = {"_class_name": "StivPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
         "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
         "transformer": ["vidgen", "StivTransformer3DModel"], "vae": ["diffusers", "AutoencoderKL"]}
SHIFT = 3.0


def transformer(form: str = "tiny") -> torch.nn.Module:
    return tiny.fill(net.StivTransformer3DModel(**(CONFIG | FORMS[form])), f"{KIND}/transformer" + ("" if form == "tiny" else f"/{form}"))


def text_encoder() -> torch.nn.Module:
    module = CLIPTextModel(CLIPTextConfig(**TEXT))
    for key, tensor in sd.text_names(module).items():
        tensor.copy_(tiny.weight(f"{KIND}/text_encoder/{key}", tuple(tensor.shape)))
    return module.eval()


def vae() -> torch.nn.Module:
    return tiny.fill(AutoencoderKL(**VAE), f"{KIND}/vae")


def write_folder(folder: pathlib.Path, weights: bool) -> None:
    for name, module in (("transformer", transformer()), ("vae", vae()), ("text_encoder", text_encoder())):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        if name == "transformer":
            (target / "config.json").write_text(json.dumps({"_class_name": "StivTransformer3DModel"} | module.config, indent=2) + "\n")
        elif name == "vae":
            module.save_config(target)
        else:
            module.config.save_pretrained(target)
        state = sd.text_names(module) if name == "text_encoder" else module.state_dict()
        if weights:
            file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
            save_file({k: t.contiguous() for k, t in state.items()}, target / f"{file}.safetensors")
        else:
            (target / "shapes.json").write_text(json.dumps({k: list(t.shape) for k, t in state.items()}, indent=0) + "\n")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": SHIFT}, indent=2) + "\n")
    (folder / "tokenizer").mkdir(exist_ok=True)
    if weights:
        sd.tokenizer("tiny-sd2", folder / "tokenizer")
    for file, content in sd.tokenizer_files("tiny-sd2").items():
        (folder / "tokenizer" / file).write_text(json.dumps(content, indent=1) + "\n")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def clip_of(rows: torch.Tensor) -> torch.Tensor:
    """Rows [F, C, h, w] as a clip [1, C, F, h, w]; its own inverse but for the first axis."""
    return rows.transpose(0, 1)[None]


# frames, height and width of latents, time, given frames
FORWARD = ((5, 4, 6, 0.0, (0,)), (4, 2, 4, 0.37, ()), (1, 6, 4, 0.9, ()), (6, 4, 4, 0.5, (0, 1, 5)))


def forward() -> dict:
    tensors = {}
    for form in FORMS:
        module = transformer(form)
        for frames, h, w, t, given in FORWARD:
            name = f"{form}/{frames}x{h}x{w}"
            mask = torch.zeros(1, frames, dtype=torch.bool)
            mask[0, list(given)] = True
            known = dict(h=8.0 * h, w=8.0 * w, crop_top=0.0, crop_left=0.0, stride=7.0, frames=float(frames))
            micro = torch.tensor([[known[key] for key in module.config["micro_conditions"]]])
            z = clip_of(tiny.unit(f"stiv/{name}/latents", (frames, 4, h, w)))
            tokens, pooled = tiny.unit(f"stiv/{name}/tokens", (1, TOKENS, WIDTH)), tiny.unit(f"stiv/{name}/pooled", (1, WIDTH))
            made = module(z, torch.tensor([t]), tokens, pooled, mask, micro)
            tensors[name] = thin(made[0].transpose(0, 1))
    return tensors


class Model:
    """The folder's parts, and clips made of them."""

    def __init__(self):
        self.net, self.vae, encoder = transformer(), vae(), text_encoder()
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = sd.tokenizer("tiny-sd2", pathlib.Path(folder))
        ids = torch.tensor(tokenizer(["", PROMPT], padding="max_length", max_length=TOKENS, truncation=True)["input_ids"])
        self.tokens = encoder(input_ids=ids).last_hidden_state
        first = (ids == tokenizer.eos_token_id).int().argmax(1)
        self.pooled = self.tokens[torch.arange(2), first]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents [F, 4, h, w] of frames [F, 3, H, W] in 0..1."""
        return (self.vae.encode(2 * frames - 1).latent_dist.mean - VAE["shift_factor"]) * VAE["scaling_factor"]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Frames in 0..1 of latents [F, 4, h, w]."""
        return (self.vae.decode(z / VAE["scaling_factor"] + VAE["shift_factor"]).sample / 2 + 0.5).clamp(0, 1)

    def clip(self, noise: torch.Tensor, given: dict, stride: int, **how) -> torch.Tensor:
        """Latents [F, 4, h, w] of one clip; `given` names latents by their frames."""
        frames, _, h, w = noise.shape
        z, mask = torch.zeros_like(noise), torch.zeros(1, frames, dtype=torch.bool)
        for at, value in given.items():
            z[at], mask[0, at] = value, True
        micro = torch.tensor([[8.0 * h, 8.0 * w, 0, 0, stride, frames]])

        def predict(x, t, full, given):
            half = slice(1, 2) if full else slice(0, 1)
            return self.net(x, torch.tensor([t], dtype=torch.float32), self.tokens[half], self.pooled[half], given, micro)

        noise_of_steps = how.pop("step_noise", None)
        rows = None if noise_of_steps is None else [clip_of(row) for row in noise_of_steps]
        made = net.sample(predict, clip_of(noise), clip_of(z), mask, shift=how.pop("shift", SHIFT), step_noise=rows, **how)
        return made[0].transpose(0, 1)


def pictures(name: str, count: int, h: int, w: int) -> torch.Tensor:
    """Frames of bytes, in 0..1."""
    return ((tiny.unit(f"stiv/{name}", (count, 3, 8 * h, 8 * w)) + 1) * 127.5).round().clamp(0, 255) / 255


# what is given, cells, frames, and how it is sampled
RUNS = {
    "text": dict(given={}, cells=(4, 6), frames=5, steps=4, scale=7.5),
    "text-heun": dict(given={}, cells=(4, 4), frames=4, steps=3, scale=1.0, sampler="heun", shift=1.0),
    "image": dict(given={0: 0}, cells=(4, 6), frames=5, steps=4, scale=7.5, mode="jit"),
    "image-cfg": dict(given={0: 0}, cells=(4, 6), frames=5, steps=3, scale=5.0, mode="cfg", renorm="full"),
    "image-sit": dict(given={0: 0}, cells=(4, 4), frames=6, steps=4, scale=7.5, mode="sit", image_scale=1.5, null_frame="free"),
    "image-clamp": dict(given={0: 0}, cells=(2, 4), frames=4, steps=3, scale=7.5, mode="jit", renorm="clamp", sampler="heun", null_frame="free"),
    "image-sde": dict(given={0: 0}, cells=(4, 4), frames=5, steps=4, scale=3.0, mode="sit", image_scale=2.0, sampler="sde-euler", eta=0.7),
    "ends": dict(given={0: 0, 4: 1}, cells=(4, 6), frames=5, steps=3, scale=7.5, mode="jit"),
    "middle": dict(given={0: 0, 2: 1}, cells=(4, 4), frames=5, steps=3, scale=7.5, mode="cfg"),
    "predict": dict(given={0: 0, 1: 1}, cells=(4, 4), frames=5, steps=3, scale=7.5, mode="jit"),
}


def run(model: Model, name: str) -> dict:
    case = dict(RUNS[name])
    (h, w), frames, given = case.pop("cells"), case.pop("frames"), case.pop("given")
    shown = pictures(f"{name}/given", 2, h, w)
    latents = model.encode(shown)
    noise = tiny.unit(f"stiv/{name}/noise", (frames, 4, h, w))
    if case.get("sampler") == "sde-euler":
        case["step_noise"] = tiny.unit(f"stiv/{name}/step_noise", (case["steps"], frames, 4, h, w))
    z = model.clip(noise, {at: latents[k] for at, k in given.items()}, 1, **case)
    return {f"{name}/latents": thin(z), f"{name}/frames": thin(model.decode(z))}


HOW = dict(steps=3, scale=7.5, mode="jit")


def denser(model: Model, count: int) -> torch.Tensor:
    """`interpolate`: 2 count - 1 latents of a video of `count` frames."""
    h, w = 4, 4
    given, most = model.encode(pictures(f"denser/{count}/video", count, h, w)), max(2, FRAMES // 2)
    at, made, k = 0, [], 0
    while at + 1 < count:
        g = min(most, count - at)
        noise = tiny.unit(f"stiv/denser/{count}/noise.{k}", (2 * g, 4, h, w))
        clip = model.clip(noise, {2 * i: given[at + i] for i in range(g)}, 1, **HOW)[:-1]
        made.append(clip if at + g == count else clip[:-1])  # the joint belongs to the next clip
        at, k = at + g - 1, k + 1
    return torch.cat(made)


def long(model: Model, frames: int, image: bool) -> torch.Tensor:
    """`extend`: a long video by keyframes and the gaps between them."""
    h, w, name = 4, 4, f"long/{frames}/{'image' if image else 'text'}"
    first = {0: model.encode(pictures(f"{name}/given", 1, h, w))[0]} if image else {}
    gaps = -(-(frames - 1) // (FRAMES - 1))
    keys = model.clip(tiny.unit(f"stiv/{name}/noise.key", (gaps + 1, 4, h, w)), first, CONFIG["keyframe_stride"], **HOW)
    made = []
    for k in range(gaps):
        noise = tiny.unit(f"stiv/{name}/noise.{k}", (FRAMES, 4, h, w))
        clip = model.clip(noise, {0: keys[k], FRAMES - 1: keys[k + 1]}, 1, **HOW)
        made.append(clip if k + 1 == gaps else clip[:-1])
    return torch.cat(made)[:frames]


def write() -> None:
    write_folder(tiny.GOLDEN / KIND, False)
    model, made = Model(), {"parts": forward(), "run": {}}
    made["parts"] |= {"text/tokens": thin(model.tokens), "text/pooled": model.pooled}
    for name in RUNS:
        made["run"] |= run(model, name)
    for count in (2, 4):
        z = denser(model, count)
        made["run"] |= {f"denser/{count}/latents": thin(z), f"denser/{count}/frames": thin(model.decode(z))}
    for frames, image in ((8, False), (9, True)):
        z = long(model, frames, image)
        key = f"long/{frames}/{'image' if image else 'text'}"
        made["run"] |= {f"{key}/latents": thin(z), f"{key}/frames": thin(model.decode(z))}
    folder = tiny.GOLDEN / "stiv"
    folder.mkdir(exist_ok=True)
    for name, tensors in made.items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().float().contiguous() for key, tensor in tensors.items()}, path)
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

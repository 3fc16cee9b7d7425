"""A tiny random DreamVideo-2, and what the plain PyTorch of training/subject.py, on diffusers' networks and sampler, makes of it.

    python tests/reference/dreamvideo2.py write         # tests/golden/tiny-dv2, and tests/golden/dreamvideo2
    python tests/reference/dreamvideo2.py save DIR      # the whole folder, with weights, for trying the program by hand

`parts`: weights of masks on grids, masks in pixels, the encoder of boxes, one pass with a subject, with boxes, with both. `run`:
whole runs from given noise. `pictures`: subjects cut out and placed, by Pillow. Weights and inputs follow from their names (tiny.py);
of large outputs every p-th value is kept (vae.thin). Latents are rows of [4, h, w], frames of [3, H, W] in 0..1.
"""

import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import sd
import tiny
import unet3d
from vae import thin

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "training"))
import subject as dv2  # noqa: E402

KIND = "tiny-dv2"
UNET, VAE, TEXT = (unet3d.KINDS["tiny-ms"][part] for part in ("unet", "vae", "text_encoder"))
ENCODER = dict(widths=(4, 6, 8, 8), layers=2, heads=2, most=20)
PROMPT = "a red ball rolls"
INDEX = {"_class_name": "DreamVideo2Pipeline", "controlnet": ["diffusers", "ControlNetModel"],
         "motion_encoder": ["vidgen", "BoxMotionEncoder"], "reference_attention": ["vidgen", "ReferenceAttention"],
         "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
         "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


class Model:
    def __init__(self):
        self.unet = tiny.fill(UNet3DConditionModel(**UNET), f"{KIND}/unet")
        self.net = dv2.Subject(self.unet, **ENCODER).eval()
        for name in ("reference_attention", "motion_encoder", "controlnet"):
            tiny.fill(getattr(self.net, name), f"{KIND}/{name}")
        self.vae, self.text_encoder = tiny.fill(AutoencoderKL(**VAE), f"{KIND}/vae"), CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
        for key, tensor in sd.text_names(self.text_encoder).items():
            tensor.copy_(tiny.weight(f"{KIND}/text_encoder/{key}", tuple(tensor.shape)))

    def parts(self) -> dict:
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder, "reference_attention": self.net.reference_attention,
                "motion_encoder": self.net.motion_encoder, "controlnet": self.net.controlnet}

    def text(self) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = sd.tokenizer("tiny-sd2", pathlib.Path(folder))
        ids = tokenizer(["", PROMPT], padding="max_length", max_length=24, truncation=True)["input_ids"]
        return self.text_encoder(input_ids=torch.tensor(ids)).last_hidden_state


def config_of(name: str, module: torch.nn.Module) -> dict:
    if name in ("reference_attention", "motion_encoder"):
        return {"_class_name": {"reference_attention": "ReferenceAttention", "motion_encoder": "BoxMotionEncoder"}[name]} | module.settings
    with tempfile.TemporaryDirectory() as folder:
        module.config.save_pretrained(folder) if hasattr(module.config, "save_pretrained") else module.save_config(folder)
        return json.loads((pathlib.Path(folder) / "config.json").read_text())


def write_folder(folder: pathlib.Path, weights: bool) -> None:
    for name, module in Model().parts().items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(config_of(name, module), indent=2) + "\n")
        state = sd.text_names(module) if name == "text_encoder" else module.state_dict()
        if weights:
            file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
            save_file({k: t.contiguous() for k, t in state.items()}, target / f"{file}.safetensors")
        else:
            (target / "shapes.json").write_text(json.dumps({k: list(t.shape) for k, t in state.items()}, indent=0) + "\n")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(unet3d.SCHEDULER, indent=2) + "\n")
    (folder / "tokenizer").mkdir(exist_ok=True)
    if weights:
        sd.tokenizer("tiny-sd2", folder / "tokenizer")
    for file, content in sd.tokenizer_files("tiny-sd2").items():
        (folder / "tokenizer" / file).write_text(json.dumps(content, indent=1) + "\n")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


# small, large, half outside, exact halves of cells, a point's width
BOXES = ((0.31, 0.42, 0.38, 0.47), (0.05, 0.1, 0.93, 0.88), (-0.2, 0.6, 0.35, 1.4), (0.25, 0.25, 0.75, 0.75), (0.5, 0.1, 0.5001, 0.9), None)
# cells of the latents, levels
GRIDS = (((10, 14), 3), (((5, 7)), 3), ((32, 56), 4))


def masks() -> dict:
    tensors = {}
    for (rows, columns), levels in GRIDS:
        size = (8 * rows, 8 * columns)
        for rule in ("coverage", "nearest"):
            made = dv2.weights_of(list(BOXES), (rows, columns), levels, 0.75, rule, size)
            for tokens, value in made.items():
                tensors[f"mask/{rows}x{columns}/{rule}/{tokens}"] = value.squeeze(-1)
        tensors[f"pixels/{rows}x{columns}"] = torch.stack([dv2.pixel_mask(box, *size) for box in BOXES]).mean((1, 2))
    return tensors


def path(frames: int) -> list:
    """A box that moves, and is out of the picture in the last frame but one."""
    made = []
    for i in range(frames):
        u = i / max(1, frames - 1)
        made.append((0.05 + 0.5 * u, 0.1 + 0.3 * u, 0.35 + 0.5 * u, 0.55 + 0.35 * u))
    if frames > 3:
        made[-2] = None
    return made


def pixels(boxes: list, height: int, width: int) -> torch.Tensor:
    return torch.stack([dv2.pixel_mask(box, height, width) for box in boxes])[None]


# frames, height, width of latents, timestep
CASES = ((5, 6, 10, 501), (1, 5, 7, 981), (3, 8, 8, 1))


def forward(model: Model) -> dict:
    text = model.text()
    tensors = {"text": text[1]}
    for frames, h, w, t in CASES:
        name = f"{frames}x{h}x{w}"
        boxes, z = path(frames), tiny.unit(f"dv2/{name}/latents", (frames, 4, h, w)).transpose(0, 1)[None]
        picture, mask, time = tiny.unit(f"dv2/{name}/subject", (1, 4, h, w)), pixels(boxes, 8 * h, 8 * w), torch.tensor([t])
        reference = model.net.reference_attention
        tensors[f"{name}/encoder"] = thin(model.net.motion_encoder(mask))
        for kind, outside in (("both", 0.75), ("both", 0.0), ("both", 1.0), ("subject", 0.75), ("boxes", 0.75), ("none", 0.75)):
            reference.features = {}
            if kind in ("both", "subject"):
                reference.collect(model.unet, picture, text[1:])
            boxed = kind in ("both", "boxes")
            made = model.net.predict(z, time, text[1:], boxes if boxed else None, mask if boxed else None, outside=outside)
            tensors[f"{name}/{kind}/{outside}"] = thin(made[0].transpose(0, 1))
    return tensors


# frames, cells, steps, guidance, what is given
RUNS = {
    "both": dict(frames=5, cells=(6, 10), steps=3, guidance=9.0, given=("subject", "boxes")),
    "subject": dict(frames=4, cells=(5, 7), steps=2, guidance=9.0, given=("subject",)),
    "boxes": dict(frames=6, cells=(8, 8), steps=3, guidance=5.0, given=("boxes",)),
    "alone": dict(frames=3, cells=(6, 6), steps=2, guidance=1.0, given=("subject", "boxes"), outside=0.25),
    "nothing": dict(frames=3, cells=(6, 6), steps=2, guidance=9.0, given=()),
}


def run(model: Model, name: str) -> dict:
    case = RUNS[name]
    frames, (h, w) = case["frames"], case["cells"]
    reference, text, vae = model.net.reference_attention, model.text(), model.vae
    boxes, mask = None, None
    reference.features = {}
    if "boxes" in case["given"]:
        boxes = path(frames)
        mask = pixels(boxes, 8 * h, 8 * w)
    if "subject" in case["given"]:
        # a picture of exactly the video's size, taken as it is
        picture = ((tiny.unit(f"dv2/{name}/picture", (1, 3, 8 * h, 8 * w)) + 1) * 127.5).round().clamp(0, 255) / 255
        latent = vae.encode(2 * picture - 1).latent_dist.mean * vae.config.scaling_factor
        reference.collect(model.unet, latent, text[1:])
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "scheduler_config.json").write_text(json.dumps(unet3d.SCHEDULER))
        scheduler = DDIMScheduler.from_pretrained(folder)
    scheduler.set_timesteps(case["steps"])
    z = tiny.unit(f"dv2/{name}/noise", (frames, 4, h, w)).transpose(0, 1)[None]
    for t in scheduler.timesteps:
        predict = lambda half: model.net.predict(z, t[None], text[half:half + 1], boxes, mask, outside=case.get("outside"))
        made = predict(1)
        if case["guidance"] > 1:
            low = predict(0)
            made = low + case["guidance"] * (made - low)
        z = scheduler.step(made, t, z).prev_sample
    rows = z[0].transpose(0, 1)
    frames = (vae.decode(rows / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    return {f"{name}/latents": thin(rows), f"{name}/frames": thin(frames)}


# height and width of the picture, its alpha (none, an ellipse, a corner), height and width of the video
PICTURES = {"wide": (20, 50, "none", 48, 80), "ellipse": (64, 40, "ellipse", 40, 56), "corner": (33, 47, "corner", 64, 48), "tiny": (3, 2, "none", 40, 56)}


def bytes_of(name: str, shape) -> np.ndarray:
    return ((tiny.unit(name, shape).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def pictures() -> dict:
    """The rule of the subject's picture, on bytes: [H, W, 3]."""
    tensors = {}
    for name, (h, w, kind, height, width) in PICTURES.items():
        rgb = bytes_of(f"dv2/picture/{name}", (h, w, 3)).astype(int)
        y, x = np.mgrid[0:h, 0:w]
        a = np.full((h, w), 255)
        if kind == "ellipse":
            r = ((y - h * 0.45) / (h * 0.3)) ** 2 + ((x - w * 0.55) / (w * 0.35)) ** 2
            a = np.clip((1.3 - r) * 400, 0, 255).astype(int)
        elif kind == "corner":
            a = np.where((y > h // 2) & (x < w // 3), 255, np.where(y > h // 3, 100, 0))
        a = a[..., None]
        rgb = (rgb * a + 255 * (255 - a) + 127) // 255
        solid = a[..., 0] >= 128
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        cut = Image.fromarray(rgb[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1].astype(np.uint8))
        s = min(0.8 * width / cut.width, 0.8 * height / cut.height)
        cut = cut.resize((max(1, int(s * cut.width + 0.5)), max(1, int(s * cut.height + 0.5))), Image.BICUBIC)
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        canvas.paste(cut, ((width - cut.width) // 2, (height - cut.height) // 2))
        tensors[f"{name}/alpha"] = torch.tensor(a[..., 0].astype(np.uint8))
        tensors[f"{name}/placed"] = thin(torch.tensor(np.asarray(canvas).astype(np.float32)))
    return tensors


def write() -> None:
    write_folder(tiny.GOLDEN / KIND, False)
    model = Model()
    made = {"parts": masks() | forward(model), "run": {}, "pictures": pictures()}
    for name in RUNS:
        made["run"] |= run(model, name)
    folder = tiny.GOLDEN / "dreamvideo2"
    folder.mkdir(exist_ok=True)
    for name, tensors in made.items():
        file = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, file)
        print(name, file.stat().st_size)


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

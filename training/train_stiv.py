"""Trains a small STIV transformer on Toyland, with the image model's autoencoder and text encoder as they are: text to video, and
from given frames (the first; the first four; first and last; every second) to the others, in one network. Writes a folder that
vidgen animates pictures with.

    TOYLAND_F32=1 OMP_NUM_THREADS=1 python train_stiv.py --image ../models/toyland-image --out OUT --bank-file BANK --bank 900 --first 60 \\
        --grow 2 --batch 8 --lr 1.5e-3 --minutes 60 --total 120

A step takes stills, clips of 16 frames, or keyframes (frames 15 apart); stills are many at first and few in the end. Latent cells
where subjects are wont to be count more, and the subject's own the more, the less noise there is. A small head that is thrown
away reads the subject's outline, colour and shape from the middle block (`train_transformer.py` says why).
"""

import argparse
import json
import os
import random
import shutil

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

import clip_tokenizer
import images
import stiv
import videos
from common import Team, autocast, setup
from render import render
from train_image import READ, Head
from world import FRAMES, caption, sample

CLIP, STRIDE, KEYFRAMES, FIRST = 16, 15, 4, 4
TASKS = {"t2v": 0.25, "ti2v": 0.40, f"predict{FIRST}": 0.12, "interp": 0.12, "tup2": 0.11}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--image", required=True, help="folder of the image model: autoencoder, text encoder, tokenizer")
    p.add_argument("--heads", type=int, default=6)
    p.add_argument("--head", type=int, default=24, help="width of a head")
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--still-share", type=float, nargs=2, default=[0.7, 0.2], help="share of steps of stills, at first and in the end")
    p.add_argument("--stills", type=int, default=6, help="stills of a step for each clip of --batch")
    p.add_argument("--keyframes", type=float, default=0.08, help="share of steps of keyframes")
    p.add_argument("--subject", type=float, default=12.0, help="weight of the subject's cells, without noise")
    p.add_argument("--band", type=float, default=3.0, help="weight of the cells where subjects are most often")
    p.add_argument("--read", type=float, default=0.05, help="weight of what the head reads")
    p.add_argument("--drop", type=float, default=0.15, help="chance of each clause to be left out of a caption")
    p.add_argument("--text-drop", type=float, default=0.1, help="chance of a sample without text")
    p.add_argument("--image-drop", type=float, default=0.15, help="chance of a sample with given frames to go without them")
    return images.arguments(p, "stiv")


def maker(vae: AutoencoderKL, size, device: str, draw=sample):
    """Makes whole scenes for `images.Bank`: `z` [N, 4, 49, h, w], `outline` [N, 49, 2h, 2w] (how much of a quarter of a cell the subject
    covers, bytes)."""

    def make(rng: random.Random, count: int) -> dict:
        scenes, parts = [draw(rng) for _ in range(count)], []
        for i in range(0, count, 2):
            clip = render(scenes[i:i + 2], FRAMES, *size, device=device)
            z = images.latents(vae, clip.video.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, FRAMES))
            parts.append((z.transpose(1, 2).half(), (F.avg_pool2d(clip.mask[:, 0], 4) * 255).round().byte()))
        z, outline = (torch.cat(each) for each in zip(*parts))
        return {"z": z, "outline": outline, "notes": [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes]}

    return make


def given_frames(task: str, frames: int) -> torch.Tensor:
    """[F] of a task's given frames."""
    given = torch.zeros(frames, dtype=torch.bool)
    if task == "ti2v":
        given[0] = True
    elif task.startswith("predict"):
        given[:int(task[len("predict"):])] = True
    elif task == "interp":
        given[0] = given[-1] = True
    elif task == "tup2":
        given[::2] = True
    return given


class TokenHead(Head):
    """`Head` on tokens of 2x2 cells, a pair of frames each; it reads the first of the pair. Outlines are [B, F, 2h, 2w]."""

    def forward(self, hidden, outline, labels):
        frames = outline[:, ::2].float() / 255
        rows, columns = outline.shape[2] // 4, outline.shape[3] // 4
        cells = hidden.unflatten(2, (rows, columns)).flatten(0, 1).permute(0, 3, 1, 2)
        return super().forward(cells, frames.flatten(0, 1), labels.repeat_interleave(frames.shape[1], 0))


class Losses:
    """The loss of a batch of one kind: stills, clips or keyframes."""

    def __init__(self, a, nets, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int, progress):
        self.a, self.nets, self.text, self.bank, self.captions, self.device = a, nets, text, bank, captions, device
        self.rng, self.progress, self.band, self.seen = random.Random(seed), progress, None, {}

    def kind(self) -> tuple[str, int, int, int]:
        """What a step takes: its name, samples, frames and the stride between them."""
        a, here = self.a, self.rng.random()
        most, least = a.still_share
        stills = most + (least - most) * min(1.0, 2 * self.progress())
        if here < stills:
            return "stills", a.batch * a.stills, 1, 1
        if here < stills + a.keyframes:
            return "keyframes", 2 * a.batch, KEYFRAMES, STRIDE
        return "clips", a.batch, CLIP, 1

    def rows(self, samples: int, frames: int, stride: int):
        rows, notes = self.bank.rows(samples)
        span = (frames - 1) * stride + 1
        starts = torch.tensor([int(self.rng.random() ** 1.5 * (FRAMES - span + 0.999)) for _ in notes])
        at = starts[:, None] + torch.arange(frames) * stride
        each = torch.arange(samples)[:, None]
        return rows["z"].transpose(1, 2)[each, at].transpose(1, 2).float(), rows["outline"][each, at], videos.scenes_of(notes)

    def weights(self, outline: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        if self.band is None:
            cells = F.avg_pool2d(self.bank.tensors["outline"][:200].float().mean((0, 1))[None], 2)[0]
            self.band = cells / cells.max()
        cover = F.avg_pool2d(outline.float() / 255, 2).unsqueeze(1)
        return 1 + (self.a.band - 1) * self.band + (self.a.subject - 1) * cover * alpha

    def __call__(self) -> tuple[torch.Tensor, str]:
        a = self.a
        name, samples, frames, stride = self.kind()
        z, outline, scenes = self.rows(samples, frames, stride)
        tasks = self.rng.choices(list(TASKS), list(TASKS.values()), k=samples) if name == "clips" else ["t2v"] * samples
        if name == "keyframes":
            tasks = [self.rng.choice(["t2v", "ti2v"]) for _ in tasks]
        tasks = ["t2v" if self.rng.random() < a.image_drop else task for task in tasks]
        given = torch.stack([given_frames(task, frames) for task in tasks]).to(self.device)
        # a quarter of the samples without an image have no text either: they teach the half without both
        empty = [self.rng.random() < (0.25 if task == "t2v" else a.text_drop) for task in tasks]
        texts = ["" if bare else caption(scene, self.rng, a.drop) for bare, scene in zip(empty, scenes)]
        place = (torch.arange(samples) + torch.rand(samples)) / samples
        t = torch.sigmoid(torch.special.ndtri(place.clamp(1e-4, 1 - 1e-4)) * 1.2 - 0.4)[torch.randperm(samples)]
        at = t.view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(z)
        noisy = stiv.clean(at * z + (1 - at) * noise, z, given)
        net, hidden = self.nets["net"], []
        micro = torch.tensor([[{"stride": stride, "frames": frames}[key] for key in net.config["micro_conditions"]]] * samples)
        with autocast(self.device):
            with torch.no_grad():
                ids = self.captions.ids(texts)
                text = self.text(input_ids=ids)
            made = net(noisy, t, text.last_hidden_state, text.pooler_output, given, micro, hidden.append)
        weight = self.weights(outline, at ** 2 / (at ** 2 + (1 - at) ** 2)) * (~given)[:, None, :, None, None]
        error = images.error_of(made, z - noise, weight)
        labels = torch.tensor([[scene.label(key) for key in READ] for scene in scenes])
        read = self.nets["head"](hidden[0].float(), outline, labels)
        held = self.seen.get(name, (error.item(), read.item()))
        self.seen[name] = tuple(0.95 * old + 0.05 * new for old, new in zip(held, (error.item(), read.item())))
        line = ", ".join(f"{key} {v:.3f} read {r:.2f}" for key, (v, r) in sorted(self.seen.items()))
        return error + a.read * read, line


def inner(name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and "transformer_blocks" in name and "table" not in name


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae, text = images.load(a.image, AutoencoderKL, "vae", device), images.load(a.image, CLIPTextModel, "text_encoder", device)
    width = text.config.hidden_size
    net = stiv.StivTransformer3DModel(
        num_layers=a.layers, num_attention_heads=a.heads, attention_head_dim=a.head, in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels, caption_channels=width, pooled_projection_dim=width, temporal_gate=True,
        micro_conditions=["stride", "frames"], rope_axes_dim=[a.head // 2, a.head // 2],
        sample_size=[CLIP, a.size[0] // 8, a.size[1] // 8], keyframe_stride=STRIDE, image_drop=a.image_drop,
        trained_tasks=[*TASKS, "keyframes"]).begin()
    nets = torch.nn.ModuleDict({"net": net, "head": TokenHead(net.width)}).to(device).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, device), own, a.bank_file and f"{a.bank_file}.{team.rank}")
    record = os.path.join(a.state, "state.json")
    before = json.load(open(record))["minutes"] if a.resume and os.path.exists(record) else 0.0
    started = images.time.time()
    progress = lambda: (before + (images.time.time() - started) / 60) / max(a.total or a.minutes, before + a.minutes)

    def write():
        stiv.write(nets["net"], os.path.join(a.out, "transformer"))
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.copytree(os.path.join(a.image, part), os.path.join(a.out, part), dirs_exist_ok=True)
        images.write_json(os.path.join(a.out, "scheduler", "scheduler_config.json"), {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.0})
        images.write_json(os.path.join(a.out, "model_index.json"), {
            "_class_name": "StivPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "transformer": ["vidgen", "StivTransformer3DModel"], "vae": ["diffusers", "AutoencoderKL"]})

    losses = Losses(a, nets, text, bank, clip_tokenizer.Captions(os.path.join(a.image, "tokenizer")), device, own + 5, progress)
    result = images.run(a, team, images.Stage("STIV", nets, losses, write, bank, "scenes", inner))
    if not team.rank:
        images.write_json(os.path.join(a.out, "stiv.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

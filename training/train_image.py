"""Trains the UNet of the image model and its CLIP text encoder together, on latents of stills. Writes a folder that
StableDiffusionPipeline and vidgen load.

    TOYLAND_F32=1 python train_image.py --vae OUT/vae --out OUT --minutes 60
    TOYLAND_F32=1 OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -- train_image.py --vae OUT/vae --out OUT --minutes 40 --resume

Latent cells where subjects are wont to be count up to `--band` times, and cells on the subject up to `--subject` times, in
proportion to the signal's share; a small head that is thrown away reads the subject's outline, colour and shape from the hidden
states before the last level (`train_transformer.py` says why). The text is the empty prompt in a tenth of the samples.

The text encoder serves other small models too, of videos and of edits. So a second such head reads from the end of each text
what it names of all five attributes, motion too, and from instructions (`edits.py`) what is to become what.
"""

import argparse
import json
import os
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import clip_tokenizer
import edits
import images
from bank import cells_of
from common import Team, autocast, export, setup
from world import ATTRIBUTES, Scene, caption, said, sample

READ = ("colour", "shape")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", required=True)
    p.add_argument("--subject", type=float, default=12.0, help="weight of the subject's cells, without noise")
    p.add_argument("--band", type=float, default=4.0, help="weight of the cells where subjects are most often")
    p.add_argument("--read", type=float, default=0.05, help="weight of what the head reads from the hidden states")
    p.add_argument("--words", type=float, default=0.05, help="weight of what is read from the texts")
    p.add_argument("--drop", type=float, default=0.2, help="chance of each clause to be left out of a caption")
    return images.arguments(p, "image")


class Head(torch.nn.Module):
    """Reads the subject in each latent cell: 16 numbers of its outline, then the logits of `READ`."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [16] + [len(ATTRIBUTES[name]) for name in READ]
        self.norm, self.conv = torch.nn.GroupNorm(8, width), torch.nn.Conv2d(width, sum(self.sizes), 1)

    def forward(self, hidden: torch.Tensor, outline: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss; `hidden` [B, width, h, w], `outline` [B, 4h, 4w] between 0 and 1, `labels` [B, READ]."""
        b, h, w = len(outline), outline.shape[1] // 4, outline.shape[2] // 4
        points = outline.view(b, h, 4, w, 4).permute(0, 2, 4, 1, 3).reshape(b, 16, h, w)
        made, *logits = self.conv(self.norm(hidden)).float().split(self.sizes, 1)
        loss = F.binary_cross_entropy_with_logits(made, points, reduction="sum") / points.sum()
        cover = points.mean(1)
        for part, label in zip(logits, labels.T):
            error = F.cross_entropy(part, label.view(-1, 1, 1).expand(cover.shape), reduction="none")
            loss = loss + (error * cover).sum() / cover.sum()
        return loss


class Words(torch.nn.Module):
    """Reads from a text's last token what it names: of each attribute a value, or none."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [len(values) + 1 for values in ATTRIBUTES.values()]
        self.linear = torch.nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss; `hidden` [B, L, width], `ids` [B, L], `labels` [B, 5] with the count of values for none."""
        end = (ids == ids.max()).int().argmax(1)  # the end's token has the highest id
        logits = self.linear(hidden[torch.arange(len(ids)), end]).float().split(self.sizes, 1)
        return sum(F.cross_entropy(part, label) for part, label in zip(logits, labels.T))


def named(scene: Scene, names: dict[str, bool]) -> list[int]:
    """The labels for `Words` of a text that names these attributes of a scene."""
    return [scene.label(name) if names.get(name) else len(values) for name, values in ATTRIBUTES.items()]


def texts_of(scenes: list[Scene], rng: random.Random, drop: float) -> tuple[list[str], list[list[int]]]:
    """A caption of each scene, and half as many instructions, with their labels."""
    texts, labels = [], []
    for scene in scenes:
        text = caption(scene, rng, drop)
        texts.append(text)
        labels.append(named(scene, said(scene, text)))
    for _ in range(len(scenes) // 2):
        before, after, attribute = edits.edit(rng)
        texts.append(rng.choice(edits.instructions(before, after, attribute)))
        labels.append(named(after, {attribute: True}))
    return texts, labels


def maker(vae: AutoencoderKL, size, device: str):
    def make(rng: random.Random, count: int) -> dict:
        scenes, starts = [sample(rng) for _ in range(count)], [images.moment(rng) for _ in range(count)]
        x, mask = images.pictures(scenes, starts, size, device)
        return {"z": images.latents(vae, x).half(), "outline": (F.avg_pool2d(mask[:, 0], 2) * 255).round().byte(),
                "notes": [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes]}

    return make


class Losses:
    """The loss of a batch."""

    def __init__(self, a, nets, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.bank, self.captions, self.device = a, nets, bank, captions, device
        self.rng, self.alphas = random.Random(seed), images.schedule().alphas_cumprod.float()
        self.band, self.hidden = None, None
        nets["unet"].up_blocks[0].register_forward_hook(self.keep)

    def keep(self, _module, _given, made):
        self.hidden = made

    def __call__(self) -> tuple[torch.Tensor, str]:
        a, nets = self.a, self.nets
        if self.band is None:
            cells = cells_of(self.bank.tensors["outline"][:1500].unsqueeze(1)).mean((0, 1))
            self.band = cells / cells.max()
        rows, notes = self.bank.rows(a.batch)
        scenes = [Scene(*note) for note in notes]
        z, outline = rows["z"].float(), rows["outline"].float() / 255
        texts, names = texts_of(scenes, self.rng, a.drop)
        ids = self.captions.ids(texts + [""])
        t, noisy, v, alpha = images.noised(z, self.alphas)
        with autocast(self.device):
            text = nets["text"](input_ids=ids).last_hidden_state
            keep = torch.rand(len(z), 1, 1) > 0.1
            embedding = torch.where(keep, text[:len(z)], text[-1:])
            made = nets["unet"](noisy, t, embedding).sample
            labels = torch.tensor([[scene.label(name) for name in READ] for scene in scenes])
            read = nets["head"](self.hidden, outline, labels)
            words = nets["words"](text[:-1], ids[:-1], torch.tensor(names))
        weight = 1 + (a.band - 1) * self.band + (a.subject - 1) * cells_of(outline.unsqueeze(1)) * alpha
        error = images.error_of(made, v, weight)
        return error + a.read * read + a.words * words, f"v {error.item():.4f} read {read.item():.3f} words {words.item():.3f}"


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    if not team.rank:
        clip_tokenizer.write(os.path.join(a.out, "tokenizer"))
    team.agree()  # nobody reads what is not yet written
    captions = clip_tokenizer.Captions(os.path.join(a.out, "tokenizer"))
    vae = AutoencoderKL.from_pretrained(a.vae).float().to(device).eval().requires_grad_(False)
    unet = images.unet(a.size, latent=vae.config.latent_channels)
    nets = torch.nn.ModuleDict({"unet": unet, "text": images.text_encoder(len(captions.tokenizer)),
                                "head": Head(images.WIDTHS[1]), "words": Words(images.TEXT)}).to(device).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, device), own, a.bank_file and f"{a.bank_file}.{team.rank}")

    def write():
        export(nets["unet"], os.path.join(a.out, "unet"))
        export(nets["text"], os.path.join(a.out, "text_encoder"), "model.safetensors")
        export(vae, os.path.join(a.out, "vae"))
        images.schedule().save_pretrained(os.path.join(a.out, "scheduler"))
        images.write_index(a.out, "model_index.json", "StableDiffusionPipeline")

    losses = Losses(a, nets, bank, captions, device, own + 5)
    result = images.run(a, team, images.Stage("image model", nets, losses, write, bank))
    if not team.rank:
        images.write_json(os.path.join(a.out, "image.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

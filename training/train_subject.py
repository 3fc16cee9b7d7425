"""Trains DreamVideo-2's modules on a video UNet that stays as it is: reference attention to a picture of the subject, and the encoder
of boxes with its ControlNet. Writes a folder that vidgen puts subjects into places with.

    TOYLAND_F32=1 OMP_NUM_THREADS=1 python train_subject.py --base VIDEO --out OUT --bank-file BANK --bank 900 --first 60 --grow 4 \\
        --batch 4 --minutes 60

A sample is a clip, the boxes of its subject in every frame, which the world knows, and the subject of another frame of the scene,
cut out and put on white. Captions do not name the subject in `--unnamed` of the samples, so that the picture has to say what it is.
Cells in the boxes count `--reweight` times (the paper's reweighted loss).
"""

import argparse
import json
import os
import random
import shutil

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import images
import subject
import videos
from common import Team, autocast, setup
from render import render
from world import FPS, FRAMES, caption, sample, unnamed

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", "unet")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", required=True, help="folder of the video model, as train_video_unet.py wrote it")
    p.add_argument("--unnamed", type=float, default=0.6, help="share of captions that do not name the subject")
    p.add_argument("--reweight", type=float, default=2.0, help="weight of the cells in the boxes")
    p.add_argument("--subject", type=float, default=8.0, help="weight of the subject's cells, without noise")
    p.add_argument("--drop", type=float, default=0.3, help="chance of each clause to be left out of a caption")
    return images.arguments(p, "subject")


def boxes_of(mask: torch.Tensor) -> torch.Tensor:
    """Boxes [F, 4] of masks [F, H, W]; what is out of sight has no area."""
    made = torch.zeros(len(mask), 4)
    height, width = mask.shape[1:]
    for i, each in enumerate(mask >= 0.5):
        rows, columns = each.any(1).nonzero().flatten(), each.any(0).nonzero().flatten()
        if len(rows):
            made[i] = torch.tensor([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])
    return made


def maker(vae: AutoencoderKL, size, device: str, draw=sample):
    """The rows of `videos.maker` with `boxes` [N, F, 4] and `picture` [N, 4, h, w], the latents of the subject alone."""

    def make(rng: random.Random, count: int) -> dict:
        rows = videos.maker(vae, size, device, early=1.5, draw=draw)(rng, count)
        scenes, starts = videos.scenes_of(rows["notes"]), rows["start"].tolist()
        boxes, pictures = [], []
        for scene, start in zip(scenes, starts):
            boxes.append(boxes_of(render([scene], videos.CHUNK, *size, device=device, start=[start]).mask[0, 0]))
            for _ in range(8):
                x, mask = images.pictures([scene], [rng.random() * (FRAMES - 1) / FPS], size, device)
                made = subject.placed(x[0], mask[0, 0])
                if made is not None:
                    break
            made = torch.ones(3, *size) if made is None else made
            pictures.append(made.flip(2) if rng.random() < 0.3 else made)
        z = images.latents(vae, torch.stack(pictures), mode=True)
        return rows | {"boxes": torch.stack(boxes), "picture": z.half()}

    return make


class Losses:
    """The loss of a batch. A batch has subjects and boxes, only subjects, or only boxes."""

    def __init__(self, a, nets, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.text, self.bank, self.captions, self.device = a, nets, text, bank, captions, device
        self.rng, self.alphas = random.Random(seed), videos.schedule().alphas_cumprod.float()
        self.seen = {}

    def words(self, scene) -> str:
        """No text in a tenth: it teaches the half without."""
        if self.rng.random() < 0.1:
            return ""
        return unnamed(scene, self.rng, self.a.drop) if self.rng.random() < self.a.unnamed else caption(scene, self.rng, self.a.drop)

    def __call__(self) -> tuple[torch.Tensor, str]:
        rows, notes = self.bank.rows(self.a.batch)
        texts = [self.words(scene) for scene in videos.scenes_of(notes)]
        kind = self.rng.choices(("both", "subject", "boxes"), (0.7, 0.15, 0.15))[0]
        t, noisy, v, alpha = videos.noised(rows["z"].float(), self.alphas)
        net, size = self.nets["net"], self.a.size
        boxes = [None if box[2] <= box[0] else tuple(box) for clip in rows["boxes"].tolist() for box in clip]
        masks = torch.stack([subject.pixel_mask(box, *size) for box in boxes]).unflatten(0, (len(notes), -1))
        reference = net.reference_attention
        with autocast(self.device):
            with torch.no_grad():
                text = self.text(input_ids=self.captions.ids(texts)).last_hidden_state
                reference.features = {}
                if kind != "boxes":
                    reference.collect(net.unet[0], rows["picture"].float(), text)
            boxed = kind != "subject"
            made = net.predict(noisy, t, text, boxes if boxed else None, masks if boxed else None)
        inside = F.avg_pool2d(masks.flatten(0, 1).unsqueeze(1), 8).unflatten(0, (len(notes), -1)).transpose(1, 2)
        weight = 1 + (self.a.reweight - 1) * inside + (self.a.subject - 1) * (rows["cover"].float() / 255).unsqueeze(1) * alpha
        error = images.error_of(made, v, weight)
        held = self.seen.get(kind, error.item())
        self.seen[kind] = 0.95 * held + 0.05 * error.item()
        return error, ", ".join(f"{key} {value:.4f}" for key, value in sorted(self.seen.items()))


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae, text = images.load(a.base, AutoencoderKL, "vae", device), images.load(a.base, CLIPTextModel, "text_encoder", device)
    unet = images.load(a.base, UNet3DConditionModel, "unet", device)
    for module in unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    videos.hasten(unet)
    net = subject.Subject(unet, widths=(8, 16, 24, 32), layers=2, heads=4)
    nets = torch.nn.ModuleDict({"net": net}).to(device).requires_grad_(True).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, device), own, a.bank_file and f"{a.bank_file}.{team.rank}")

    def write():
        subject.write(nets["net"], a.out)
        for part in PARTS:
            shutil.copytree(os.path.join(a.base, part), os.path.join(a.out, part), dirs_exist_ok=True)
        images.write_json(os.path.join(a.out, "model_index.json"), subject.INDEX)

    losses = Losses(a, nets, text, bank, clip_tokenizer.Captions(os.path.join(a.base, "tokenizer")), device, own + 5)
    result = images.run(a, team, images.Stage("subject", nets, losses, write, bank, "clips"))
    if not team.rank:
        images.write_json(os.path.join(a.out, "subject.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

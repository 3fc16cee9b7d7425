"""Trains the image encoder of streams (`CLIPVisionModelWithProjection`): what colour, shape, place and time a frame shows is linear in
its embedding, and two frames of a scene are nearer to each other than to those of other scenes. Writes OUT/image_encoder.

    TOYLAND_F32=1 OMP_NUM_THREADS=1 python train_image_encoder.py --out OUT --bank 3000 --first 500 --grow 16 --batch 48 --minutes 10
"""

import argparse
import json
import os
import random

import torch
import torch.nn.functional as F

import images
import streaming
from common import Team, autocast, export, setup
from world import ATTRIBUTES, Scene, sample

READ = ("colour", "shape", "place", "time")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--heat", type=float, default=0.1, help="temperature of the comparison of scenes")
    return images.arguments(p, "image_encoder")


def maker(side: int, size, device: str):
    """Two prepared frames of each scene, `x` [N, 2, 3, side, side]."""

    def make(rng: random.Random, count: int) -> dict:
        scenes = [sample(rng) for _ in range(count)]
        frames = [images.pictures(scenes, [images.moment(rng) for _ in scenes], size, device)[0] for _ in range(2)]
        x = torch.stack([streaming.prepared(frame, side) for frame in frames], 1)
        return {"x": x.half(), "notes": [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes]}

    return make


class Losses:
    """The loss of a batch."""

    def __init__(self, a, nets, bank: images.Bank, device: str):
        self.a, self.nets, self.bank, self.device = a, nets, bank, device
        self.sizes = [len(ATTRIBUTES[name]) for name in READ]

    def __call__(self) -> tuple[torch.Tensor, str]:
        rows, notes = self.bank.rows(self.a.batch)
        labels = torch.tensor([[Scene(*note).label(name) for name in READ] for note in notes]).repeat(2, 1)
        with autocast(self.device):
            made = self.nets["tower"](pixel_values=rows["x"].float().transpose(0, 1).flatten(0, 1)).image_embeds.float()
            parts = self.nets["head"](made).split(self.sizes, 1)
        named = sum(F.cross_entropy(part, label) for part, label in zip(parts, labels.T))
        right = [(part.argmax(1) == label).float().mean().item() for part, label in zip(parts, labels.T)]
        one, other = F.normalize(made, dim=1).chunk(2)
        alike, own = one @ other.T / self.a.heat, torch.arange(len(one))
        same = F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)
        found = (alike.argmax(1) == own).float().mean().item()
        words = ", ".join(f"{name} {100 * share:.0f}" for name, share in zip(READ, right))
        return named + 0.25 * same, f"{words}, scene {100 * found:.0f} %"


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    tower = streaming.image_encoder()
    head = torch.nn.Linear(tower.config.projection_dim, sum(len(ATTRIBUTES[name]) for name in READ))
    nets = torch.nn.ModuleDict({"tower": tower, "head": head}).to(device).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(tower.config.image_size, a.size, device), own, a.bank_file and f"{a.bank_file}.{team.rank}")
    losses = Losses(a, nets, bank, device)

    def write():
        export(nets["tower"], os.path.join(a.out, "image_encoder"), "model.safetensors")

    result = images.run(a, team, images.Stage("image encoder", nets, losses, write, bank, "pairs of stills"))
    if not team.rank:
        images.write_json(os.path.join(a.out, "image_encoder.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

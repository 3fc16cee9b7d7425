"""Clips that were rendered and encoded once: what the transformer trains on, and the decoder where the encoder stays as it is.

Encoding costs as much as a training step, and the latents of a scene do not change while the encoder does not. Scenes are
kept beside them: captions and pictures come from those.
"""

import os
import random
import time

import torch
import torch.nn.functional as F

from common import autocast
from render import render
from world import Scene, sample


def outline_of(mask: torch.Tensor) -> torch.Tensor:
    """The subject's mask [B, 1, T, H, W] in latent time and at half size, [B, F, H/2, W/2]: the first latent frame is one
    frame, the others are four."""
    first = F.avg_pool2d(mask[:, 0, :1], 2)
    return first if mask.shape[2] == 1 else torch.cat([first, F.avg_pool3d(mask[:, :, 1:], (4, 2, 2))[:, 0]], 1)


def cells_of(outline: torch.Tensor) -> torch.Tensor:
    """How much of each latent cell the subject covers, [B, F, h, w], from an outline at half size, as numbers or as bytes."""
    return F.avg_pool2d(outline.float() / 255 if outline.dtype == torch.uint8 else outline, 4)


def cover_of(mask: torch.Tensor) -> torch.Tensor:
    """The same from the subject's mask [B, 1, T, H, W]."""
    return cells_of(outline_of(mask))


class Bank:
    """`scenes`, their latents `z` [N, F, C, h, w] (times the scaling factor, 16 bits) and the subject's outlines
    [N, F, 4h, 4w] (bytes, 255 is all of it)."""

    def __init__(self, vae, size, frames: int, device: str, seed: int = 0, file: str | None = None):
        self.vae, self.size, self.frames, self.device, self.file = vae, size, frames, device, file
        self.rng, self.next = random.Random(seed + 17), 0
        self.scenes: list[Scene] = []
        self.z = self.outline = torch.empty(0)
        if file and os.path.exists(file):
            held = torch.load(file, weights_only=True)
            self.scenes = [Scene(*values) for values in held["scenes"]]
            self.z, self.outline = held["z"].to(device), held["outline"].to(device)
            self.rng.seed(seed + len(self.scenes))

    def __len__(self) -> int:
        return len(self.scenes)

    @torch.no_grad()
    def encode(self, scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
        z, outline = [], []
        for part in (scenes[i:i + 16] for i in range(0, len(scenes), 16)):
            clip = render(part, self.frames, *self.size, device=self.device)
            with autocast(self.device):
                drawn = self.vae.encode(clip.video).latent_dist.sample()
            z.append((drawn.float() * self.vae.config.scaling_factor).transpose(1, 2).half())
            outline.append((outline_of(clip.mask) * 255).round().byte())
        return torch.cat(z), torch.cat(outline)

    def fill(self, count: int, minutes: float = 1e9):
        """Encodes scenes until there are `count`, or until the time is over and there are some."""
        began, chunk = time.time(), 64 if self.device == "cuda" else 4
        parts = [(self.z, self.outline)] if len(self) else []
        while len(self) < count and (not parts or time.time() - began < minutes * 60):
            scenes = [sample(self.rng) for _ in range(chunk)]
            parts.append(self.encode(scenes))
            self.scenes += scenes
        self.z, self.outline = (torch.cat(values) for values in zip(*parts))

    def cover(self, index, frames: int | None = None) -> torch.Tensor:
        """How much of each latent cell the subject covers in the chosen clips, [B, F, h, w]."""
        return cells_of(self.outline[index, :frames])

    def save(self):
        if self.file:
            rows = [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in self.scenes]
            partial = f"{self.file}.{os.getpid()}.partial"  # others may train together with this process
            torch.save({"scenes": rows, "z": self.z.cpu(), "outline": self.outline.cpu()}, partial)
            os.replace(partial, self.file)

    def refresh(self, count: int = 64) -> list[int]:
        """Replaces `count` clips, the oldest first; returns their places."""
        where = [(self.next + i) % len(self) for i in range(count)]
        scenes = [sample(self.rng) for _ in where]
        z, outline = self.encode(scenes)
        for place, scene in zip(where, scenes):
            self.scenes[place] = scene
        index = torch.tensor(where, device=self.device)
        self.z[index], self.outline[index] = z, outline
        self.next = (self.next + count) % len(self)
        return where

"""Pictures for the judge: banks of rendered frames and clips, autoencoder reconstructions, and what spoils pictures.

A judge of generated videos must read pictures that are a little wrong: blurred, noisy, flickering, blocky, off in
brightness. So half of what it learns from is spoilt at random. And it must say that nothing is there when nothing is
there, so a tenth of the frames has no subject (or a trace of one).
"""

import random

import torch
import torch.nn.functional as F

from judge import CELL, SCENE, SUBJECT
from render import render
from world import ATTRIBUTES, FPS, FRAMES, HEIGHT, WIDTH, sample


def labels(scenes) -> torch.Tensor:
    """[B, 5] class numbers in the order of ATTRIBUTES."""
    return torch.tensor([[scene.label(name) for name in ATTRIBUTES] for scene in scenes])


def to_bytes(video: torch.Tensor) -> torch.Tensor:
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def from_bytes(data: torch.Tensor, device: str) -> torch.Tensor:
    return data.to(device).float() / 127.5 - 1


def relative(boxes: torch.Tensor) -> torch.Tensor:
    """Corners in pixels, cut at the frame's edges, to centre x, y, width, height in units of the frame."""
    size = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT], device=boxes.device)
    corners = (boxes / size).clamp(0, 1)
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def cells(mask: torch.Tensor) -> torch.Tensor:
    """[B, 1, T, H, W] to the covered share of each cell [B, T, H / 8, W / 8]."""
    return F.avg_pool2d(mask.squeeze(1).flatten(0, 1)[:, None], CELL).view(mask.shape[0], mask.shape[2], HEIGHT // CELL, -1)


def frame_bank(count: int, rng: random.Random, device: str, split: str = "train", absent: float = 0.1) -> dict:
    """`count` single frames of different scenes. `subject` says whether colour and shape may be learned from it."""
    parts = []
    for start in range(0, count, 64):
        scenes = [sample(rng, split) for _ in range(min(64, count - start))]
        opacity = torch.tensor([rng.random() * 0.08 if rng.random() < absent else 1.0 for _ in scenes])
        clip = render(scenes, 1, device=device, start=[rng.random() * (FRAMES - 1) / FPS for _ in scenes], opacity=opacity)
        parts.append({
            "pictures": to_bytes(clip.video[:, :, 0]), "labels": labels(scenes), "box": relative(clip.boxes[:, 0]).cpu(),
            "cells": cells(clip.mask)[:, 0].cpu(), "present": (opacity > 0.5).float(), "subject": (opacity > 0.5).float(),
        })
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def clip_bank(count: int, rng: random.Random, device: str, frames: int, split: str = "train") -> dict:
    """`count` clips at half size, for motion: `pictures` [N, T, 3, 48, 72] and the true boxes [N, T, 4]."""
    parts = []
    for start in range(0, count, 8):
        scenes = [sample(rng, split) for _ in range(min(8, count - start))]
        begin = [rng.random() * (FRAMES - frames) / FPS for _ in scenes]
        clip = render(scenes, frames, HEIGHT // 2, WIDTH // 2, device=device, start=begin)
        parts.append({"pictures": to_bytes(clip.video.transpose(1, 2)), "labels": labels(scenes),
                      "box": relative(clip.boxes * 2).cpu()})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def reconstructions(vae, count: int, rng: random.Random, device: str, frames: int = 9, split: str = "train",
                    tolerance: float = 0.08) -> dict:
    """Clips through an autoencoder, whole: `pictures` [N, T, 3, 96, 144].

    A poor autoencoder turns a yellow ball into an orange box; a judge taught to call that yellow would be taught to
    guess. So `subject` is 1 only where the subject's pixels kept their values within `tolerance` (mean absolute error in
    units of full range); elsewhere only place, time, motion and box are learned."""
    parts = []
    for _ in range(count):
        scene = sample(rng, split)
        clip = render([scene], frames, device=device, start=rng.random() * (FRAMES - frames) / FPS)
        made = vae.decode(vae.encode(clip.video).latent_dist.sample()).sample.float().clamp(-1, 1)
        error = ((made - clip.video).abs() * clip.mask).sum() / (clip.mask.sum() * 6)
        parts.append({"pictures": to_bytes(made.transpose(1, 2)), "labels": labels([scene]),
                      "box": relative(clip.boxes).cpu(), "cells": cells(clip.mask).cpu(), "error": error.cpu().view(1),
                      "subject": (error < tolerance).float().cpu().view(1)})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def spoil(x: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Spoils pictures [B, 3, H, W] in [-1, 1]; about half are left alone. One picture gets one or several of: blur, block
    quantisation, coarse and fine noise, changed brightness and contrast."""
    b, _, height, width = x.shape
    device = x.device

    def draw(low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand(b, generator=generator)).view(b, 1, 1, 1).to(device)

    def some(share: float) -> torch.Tensor:
        return (torch.rand(b, generator=generator) < share).float().view(b, 1, 1, 1).to(device)

    chosen = some(0.6) * strength
    x = torch.lerp(x, blur(x, draw(0.5, 2.2 * height / HEIGHT).flatten()), chosen * some(0.5))
    x = torch.lerp(x, blocks(x, float(draw(0.05, 0.25).mean())), chosen * some(0.25))
    coarse = torch.randn(b, 3, height // 8, width // 8, generator=generator).to(device)
    coarse = F.interpolate(coarse, size=(height, width), mode="bilinear")
    fine = torch.randn(x.shape, generator=generator).to(device)
    x = x + chosen * some(0.5) * (coarse * draw(0, 0.12) + fine * draw(0, 0.10))
    return ((x + chosen * some(0.5) * draw(-0.06, 0.06)) * (1 + chosen * draw(-0.06, 0.06))).clamp(-1, 1)


def blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with one width per picture."""
    b, c, h, w = x.shape
    taps = torch.arange(-4, 5, device=x.device).float()
    kernel = torch.exp(-0.5 * (taps / sigma.to(x.device).view(b, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # [B * C, 9]
    flat = F.pad(x.reshape(1, b * c, h, w), (4, 4, 4, 4), mode="replicate")
    flat = F.conv2d(flat, kernel.view(b * c, 1, 1, 9), groups=b * c)
    return F.conv2d(flat, kernel.view(b * c, 1, 9, 1), groups=b * c).view(b, c, h, w)


def blocks(x: torch.Tensor, step: float) -> torch.Tensor:
    """Quantises 8 x 8 blocks in the cosine basis, finer at low frequencies, as compressed pictures are."""
    b, c, h, w = x.shape
    n = torch.arange(8, device=x.device).float()
    basis = torch.cos(torch.pi / 8 * (n + 0.5) * n[:, None]) * 0.5
    basis[0] *= 0.5 ** 0.5
    tiles = x.view(b, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    steps = step * (1 + n[:, None] + n)
    kept = ((basis @ tiles @ basis.T) / steps).round() * steps
    return (basis.T @ kept @ basis).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)

"""Fits the linear map from latents to colours that previews use: `[preview]` of a recipe in configs/.

    python fit_preview.py --model ../models/toyland

Every latent cell of a frame is asked for the mean colour of the pixels it stands for (and of the frames it stands for),
by least squares over clips of the world. Latents are those the transformer has: times the scaling factor. Printed are
the rows to put into the recipe, and how much of the colours' variance the map explains on other clips.
"""

import argparse
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX

from render import render
from world import sample


def pairs(vae, count: int, frames: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [N, C] and colours [N, 3] in -1 to 1 of all cells of `count` clips."""
    latents, colours = [], []
    for _ in range(count):
        video = render([sample(rng)], frames).video  # [1, 3, T, H, W] in -1 to 1
        z = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
        # a latent frame stands for four frames, the first one for one
        parts = [video[:, :, :1].mean(2)] + [part.mean(2) for part in video[:, :, 1:].split(4, 2)]
        small = torch.stack([F.avg_pool2d(part, video.shape[-1] // z.shape[-1]) for part in parts], 2)
        latents.append(z[0].flatten(1).T)
        colours.append(small[0].flatten(1).T)
    return torch.cat(latents), torch.cat(colours)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", default="../models/toyland", help="diffusers folder with a vae")
    p.add_argument("--clips", type=int, default=60)
    p.add_argument("--frames", type=int, default=17)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    vae = AutoencoderKLCogVideoX.from_pretrained(a.model, subfolder="vae", torch_dtype=torch.float32).eval()
    rng = random.Random(a.seed)
    with torch.no_grad():
        x, y = pairs(vae, a.clips, a.frames, rng)
        others, wanted = pairs(vae, max(1, a.clips // 4), a.frames, rng)
    ones = torch.ones(len(x), 1)
    map_ = torch.linalg.lstsq(torch.cat([x, ones], 1).double(), y.double()).solution
    left = wanted - (torch.cat([others, torch.ones(len(others), 1)], 1).double() @ map_)
    explained = 1 - left.pow(2).sum() / (wanted - wanted.mean(0)).pow(2).sum()
    row = lambda values: "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
    print("[preview]\nfactors = [")
    print("".join(f"    {row(values)},\n" for values in map_[:-1].tolist()) + f"]\nbias = {row(map_[-1].tolist())}")
    print(f"# explains {explained:.3f} of the variance of colours in clips that were not fitted")


if __name__ == "__main__":
    main()

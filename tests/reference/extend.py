"""Golden of a continued video: `tests/golden/pipeline/extend.safetensors`.

    python tests/reference/extend.py

`latents` [1, 2, 4, 4, 6]: the last five frames of `pipeline/tiny-2b-ddim` through diffusers' encoder, the most likely latents,
times the scaling factor.
"""

import torch
from safetensors.torch import load_file, save_file

from tiny import GOLDEN, pipeline

with torch.no_grad():
    vae = pipeline("tiny-2b").vae
    frames = load_file(GOLDEN / "pipeline" / "tiny-2b-ddim.safetensors")["frames"][-5:]  # [5, H, W, 3]
    video = (frames.float() / 127.5 - 1).permute(3, 0, 1, 2).unsqueeze(0)  # [1, 3, 5, H, W]
    latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor  # [1, C, 2, h, w]
    save_file({"latents": latents.permute(0, 2, 1, 3, 4).contiguous()}, GOLDEN / "pipeline" / "extend.safetensors")

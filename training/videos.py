"""What the stages of the 3-D UNet share: the network, where its weights begin, banks of clips, sampling.

The network is diffusers' `UNet3DConditionModel` (ModelScope's text-to-video), small, on the autoencoder and the text encoder of the
image model. Its spatial layers are those of the image model's UNet.
"""

import functools
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel, UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor

import images
from common import autocast
from render import render
from world import FPS, FRAMES, Scene, sample

CHUNK = 16  # frames of a clip
HEAD = 8  # width of a head
_BLOCKS = ("CrossAttnDownBlock3D", "DownBlock3D"), ("UpBlock3D", "CrossAttnUpBlock3D")


def unet(size, latent: int = 4) -> UNet3DConditionModel:
    """Temporal layers start as the identity: their last layers are zero. Nothing is dropped: the clips are many, the network is small."""
    net = UNet3DConditionModel(
        sample_size=(size[0] // 8, size[1] // 8), in_channels=latent, out_channels=latent, down_block_types=_BLOCKS[0],
        up_block_types=_BLOCKS[1], block_out_channels=images.WIDTHS, layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=images.TEXT, attention_head_dim=HEAD)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if name.endswith("proj_out") and (name.startswith("transformer_in") or "temp_attentions" in name):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return net


def _over_time(conv: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    flat = F.conv2d(x.flatten(3), conv.weight[..., 0], conv.bias, padding=(1, 0))
    return flat.unflatten(3, x.shape[3:])


def hasten(net: torch.nn.Module):
    """The same sums, a sixth faster on a CPU: convolutions over time as those of a picture of frames by places, and short rows of
    tokens (text, time) without the fused attention, which is made for long ones."""
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = functools.partial(_over_time, module)
        if name.endswith("attn2") and not hasattr(module, "alpha") or name.endswith("attn1") and ".attentions." not in name:
            module.set_processor(AttnProcessor())


def narrowed(query: torch.Tensor, key: torch.Tensor, heads: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of queries and keys [C, in] of `heads` heads for heads of `width` numbers: a head becomes several that look the same
    way, each with the nearest product of that rank, and each carries its share of the values."""
    wide, made = len(query) // heads, ([], [])
    for q, k in zip(query.split(wide), key.split(wide)):
        u, s, v = torch.linalg.svd(q.T @ k * (width / wide) ** 0.5)  # the scale of the logits is the root of the width
        for part, turned in zip(made, (u[:, :width], v[:width].T)):
            part += [(turned * s[:width].sqrt()).T] * (wide // width)
    return torch.cat(made[0]), torch.cat(made[1])


@torch.no_grad()
def begin(net: UNet3DConditionModel, image: UNet2DConditionModel):
    """Copies the image UNet into the spatial layers."""
    held, heads = image.state_dict(), image.config.attention_head_dim
    for name in [n for n in held if n.endswith("to_q.weight")]:
        other = name.replace("to_q", "to_k")
        held[name], held[other] = narrowed(held[name], held[other], heads, net.config.attention_head_dim)
    own = net.state_dict()
    for name, value in held.items():
        own[name].copy_(value.view_as(own[name]))  # 1x1 convolutions become linear layers


def maker(vae: AutoencoderKL, size, device: str, frames: int = CHUNK, early: float = 1.0, draw=sample):
    """Makes clips for `images.Bank`: `z` [N, 4, F, h, w], `cover` [N, F, h, w] (how much of a cell the subject covers, bytes).
    Clips begin anywhere in the scenes; with `early` above 1 the sooner the likelier. `draw(rng)` gives a scene."""

    def make(rng: random.Random, count: int) -> dict:
        parts, scenes = [], [draw(rng) for _ in range(count)]
        starts = [rng.random() ** early * (FRAMES - frames) / FPS for _ in scenes]
        for i in range(0, count, 4):
            clip = render(scenes[i:i + 4], frames, *size, device=device, start=starts[i:i + 4])
            z = images.latents(vae, clip.video.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, frames))
            parts.append((z.transpose(1, 2).half(), (F.avg_pool2d(clip.mask[:, 0], 8) * 255).round().byte()))
        z, cover = (torch.cat(each) for each in zip(*parts))
        return {"z": z, "cover": cover, "start": torch.tensor(starts),
                "notes": [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes]}

    return make


class Weights:
    """What a latent cell counts: more where subjects are wont to be, and more on the subject as the noise goes."""

    def __init__(self, band: float, subject: float):
        self.most, self.subject, self.band = band, subject, None

    def __call__(self, bank: images.Bank, cover: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """[B, 1, F, h, w] for covers [B, F, h, w] in bytes and alphas [B, 1, 1, 1, 1]."""
        if self.band is None:
            cells = bank.tensors["cover"][:500].float().mean((0, 1))
            self.band = cells / cells.max()
        return 1 + (self.most - 1) * self.band + (self.subject - 1) * (cover.float() / 255).unsqueeze(1) * alpha


def schedule() -> DDIMScheduler:
    """The image models' betas, but with nothing of the clip left at the last step: what is the same in all frames shows through much
    noise, and a model that has seen paths of subjects there takes them from the noise it begins with instead of from the text."""
    return DDIMScheduler.from_config(images.schedule().config, rescale_betas_zero_snr=True, timestep_spacing="trailing")


def noised(z: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`images.noised` for clips [B, 4, F, h, w], with more of the noisy steps, where motion is decided; alpha is [B, 1, 1, 1, 1]."""
    place = (torch.arange(len(z)) + torch.rand(len(z))) / len(z)
    t = (place.pow(0.7) * 1000).long().clamp(max=999)
    alpha = alphas[t].view(-1, 1, 1, 1, 1)
    noise = torch.randn_like(z)
    return t, alpha.sqrt() * z + (1 - alpha).sqrt() * noise, alpha.sqrt() * noise - (1 - alpha).sqrt() * z, alpha


def scenes_of(notes: list) -> list[Scene]:
    return [Scene(*note) for note in notes]


@torch.no_grad()
def decode(vae: AutoencoderKL, z: torch.Tensor) -> torch.Tensor:
    """Latents [B, 4, F, h, w] to clips [B, F, 3, H, W] in [-1, 1]."""
    frames = z.transpose(1, 2).flatten(0, 1) / vae.config.scaling_factor
    with autocast(z.device.type):
        made = torch.cat([vae.decode(part).sample.float() for part in frames.split(16)])
    return made.clamp(-1, 1).unflatten(0, (len(z), -1))

"""Trains the autoencoder of the image models: diffusers' AutoencoderKL, small, one frame at a time. Writes a `vae` folder.

    python train_image_vae.py --video ../models/toyland/vae --out OUT --minutes 40
    python train_image_vae.py --out OUT --minutes 80                                # from nothing
    python train_image_vae.py --decoder OUT/vae --out OUT2 --minutes 20             # the latents stay as they are

The losses are those of `train_vae.py`, which says why: subject's pixels count more, the decoder learns from noisy latents, and a
small network that reads colour and shape from noisy latents trains along.

With `--video` the convolutions begin as those of the video autoencoder on a single frame. Its causal convolutions then see that
frame three times, so their kernels are summed over time; the decoder's spatial norms become group norms with the mean scale and
shift; its eight latent channels become the four (`--latent`) that hold most of their variance.

In the written weights each latent channel has mean zero and standard deviation one over training frames, folded into `quant_conv`
and `post_quant_conv`, which changes no picture; `scaling_factor` is 1. With `--decoder` only the decoder is trained on: what was
trained on these latents stays valid.
"""

import argparse
import json
import os
import random
import time

import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX

from common import Average, Clock, State, Team, autocast, export, learning_rate, optimizer_of, psnr, setup
from render import render
from train_vae import Reader, around, labels_of, picture_loss
from world import FPS, FRAMES, HEIGHT, WIDTH, sample


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, help="OUT/vae and OUT/image-vae.json are written")
    p.add_argument("--state", help="folder of the resumable state (default: OUT/state/image-vae)")
    p.add_argument("--minutes", type=float, default=8.0, help="of this run")
    p.add_argument("--total", type=float, help="minutes of all runs together, for the learning rate (default: --minutes)")
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--video", help="the video autoencoder whose convolutions are the first guess")
    p.add_argument("--decoder", help="the autoencoder whose decoder is trained on")
    p.add_argument("--batch", type=int, default=16, help="frames")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--warmup", type=int, default=50, help="steps until the learning rate is reached, in each run")
    p.add_argument("--channels", type=int, nargs="+", default=[16, 32, 32, 64])
    p.add_argument("--latent", type=int, default=4, help="latent channels")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="height and width (tests)")
    p.add_argument("--subject", type=float, default=8.0, help="weight of the subject's pixels")
    p.add_argument("--kl", type=float, default=2e-4)
    p.add_argument("--square", type=float, default=10.0, help="weight of the squared error beside the absolute one")
    p.add_argument("--latent-noise", type=float, default=0.04, help="extra noise on the latents, in their standard deviation")
    p.add_argument("--strong-noise", type=float, nargs=2, default=[0.2, 0.4], metavar=("SHARE", "MOST"),
                   help="share of frames with more noise on the latents, and the most of it")
    p.add_argument("--reader", type=float, default=0.02, help="weight of reading colour and shape from noisy latents")
    p.add_argument("--evaluate", type=int, default=128, help="held-out frames to measure at the end")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def build(channels, latent: int, size) -> AutoencoderKL:
    count = len(channels)
    return AutoencoderKL(block_out_channels=tuple(channels), latent_channels=latent, layers_per_block=1, norm_num_groups=8,
                         down_block_types=("DownEncoderBlock2D",) * count, up_block_types=("UpDecoderBlock2D",) * count,
                         sample_size=max(size), scaling_factor=1.0)


def frames_of(scenes, rng: random.Random, size, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A frame from anywhere in each scene's clip: pictures [B, 3, H, W] in [-1, 1] and masks [B, 1, H, W]."""
    clip = render(scenes, 1, *size, device=device, start=[rng.random() * (FRAMES - 1) / FPS for _ in scenes])
    return clip.video[:, :, 0], clip.mask[:, :, 0]


@torch.no_grad()
def from_video(vae: AutoencoderKL, video: AutoencoderKLCogVideoX, size, device: str):
    """The first guess from a video autoencoder with the same channels."""
    rng = random.Random(76)
    x, _ = frames_of([sample(rng) for _ in range(64)], rng, size, device)
    z = video.encode(x.unsqueeze(2)).latent_dist.mode()
    flat = z.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    values, axes = torch.linalg.eigh(torch.cov(flat))
    best = slice(-vae.config.latent_channels, None)
    project = (axes[:, best] / values[best].sqrt()).T  # [latent, video's latent]: decorrelated, of variance one
    restore = axes[:, best] * values[best].sqrt()
    own, given = vae.state_dict(), video.state_dict()

    for name, value in given.items():
        target = name.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias") \
            .replace("encoder.norm_out", "encoder.conv_norm_out")
        if value.dim() == 5:
            value = value.sum(2)
        # a downsampler's and an upsampler's convolution has the same name in both
        target = name if name in own else target
        if target in own and own[target].shape == value.shape:
            own[target].copy_(value)
    for name, module in video.decoder.named_modules():
        if hasattr(module, "conv_y") and hasattr(module, "conv_b"):
            target = "decoder." + name.replace("norm_out", "conv_norm_out")
            scale, shift = (part.conv.weight[:, :, 0, 0, 0] @ mean + part.conv.bias for part in (module.conv_y, module.conv_b))
            own[target + ".weight"].copy_(module.norm_layer.weight * scale)
            own[target + ".bias"].copy_(module.norm_layer.bias * scale + shift)

    last, first = vae.encoder.conv_out, vae.decoder.conv_in
    count = len(project)
    kernel, bias = given["encoder.conv_out.conv.weight"].sum(2)[:len(mean)], given["encoder.conv_out.conv.bias"][:len(mean)]
    last.weight.zero_()
    last.weight[:count] = torch.einsum("pc,cihw->pihw", project, kernel)
    last.bias[:count], last.bias[count:] = project @ (bias - mean), -5.0
    kernel = given["decoder.conv_in.conv.weight"].sum(2)
    first.weight.copy_(torch.einsum("ochw,cp->ophw", kernel, restore))
    first.bias.copy_(given["decoder.conv_in.conv.bias"] + kernel.sum((2, 3)) @ mean)
    for straight in (vae.quant_conv, vae.post_quant_conv):
        straight.weight.copy_(torch.eye(len(straight.weight)).view_as(straight.weight))
        straight.bias.zero_()
    for block in (vae.encoder.mid_block, vae.decoder.mid_block):  # the video autoencoder has no attention: begin without
        block.attentions[0].to_out[0].weight.zero_()
        block.attentions[0].to_out[0].bias.zero_()


@torch.no_grad()
def balance(vae: AutoencoderKL, count: int, size, device: str) -> list[float]:
    """Folds mean and standard deviation of each latent channel over training frames into the weights; returns the deviations."""
    rng, parts = random.Random(78), []
    for _ in range(max(1, count // 16)):
        x, _ = frames_of([sample(rng) for _ in range(16)], rng, size, device)
        parts.append(vae.encode(x).latent_dist.sample().float().transpose(0, 1).flatten(1))
    z = torch.cat(parts, 1)
    mean, std = z.mean(1), z.std(1)
    channels = len(std)
    vae.quant_conv.bias[:channels] -= mean
    vae.quant_conv.weight[:channels] /= std.view(-1, 1, 1, 1)
    vae.quant_conv.bias[:channels] /= std
    vae.quant_conv.bias[channels:] -= 2 * std.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight.flatten(1) @ mean
    vae.post_quant_conv.weight *= std.view(1, -1, 1, 1)
    return [round(v, 3) for v in std.tolist()]


@torch.no_grad()
def measure(vae: AutoencoderKL, count: int, size, device: str) -> dict:
    """PSNR over frames of held-out combinations, and over the pixels of the subject alone."""
    rng, total, subject, cover = random.Random(77), 0.0, 0.0, 0.0
    rounds = max(1, count // 16)
    for _ in range(rounds):
        x, mask = frames_of([sample(rng, "unseen") for _ in range(16)], rng, size, device)
        error = (vae.decode(vae.encode(x).latent_dist.mode()).sample.float().clamp(-1, 1) - x).square()
        total += error.mean().item()
        subject += (error.mean(1, keepdim=True) * mask).sum().item()
        cover += mask.sum().item()
    return {"psnr": round(psnr(total / rounds), 2), "psnr_subject": round(psnr(subject / cover), 2), "frames": 16 * rounds}


def loss_of(vae, reader, scenes, x, mask, a, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the mean squared error of the frames whose latents had little noise (none: NaN)."""
    grown = around(mask.unsqueeze(2)).squeeze(2)
    weight = 1 + (a.subject - 1) * grown
    weight = weight / weight.mean()
    share, most = a.strong_noise
    strong = torch.rand(len(x), 1, 1, 1, device=device) < share
    level = torch.where(strong, most * torch.rand(len(x), 1, 1, 1, device=device), a.latent_noise)
    cover = torch.nn.functional.avg_pool2d(mask, 2 ** (len(vae.config.block_out_channels) - 1))
    with autocast(device):
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        deviation = z.detach().std((0, 2, 3), keepdim=True)
        y = vae.decode(z + level * deviation * torch.randn_like(z)).sample
        read = 0.0 if a.decoder else reader(z.unsqueeze(2), labels_of(scenes, device), cover)
    y = y.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    mse = (y - x).square().mean((1, 2, 3)).detach()[~strong.flatten()].mean()
    return picture_loss(y, x, weight, a.square) + a.reader * read + a.kl * kl, mse


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae = build(a.channels, a.latent, a.size).to(device).train()
    reader = Reader(a.latent).to(device)
    if a.decoder:
        vae = AutoencoderKL.from_pretrained(a.decoder).float().to(device).train()
        for part in (vae.encoder, vae.quant_conv, reader):
            part.requires_grad_(False)
    elif a.video and not a.resume:
        from_video(vae, AutoencoderKLCogVideoX.from_pretrained(a.video).float().to(device), a.size, device)
    both = torch.nn.ModuleList([vae, reader])
    average = Average(vae, 0.998)
    # matrices are updated as such; the first and the last layers see or make colours and latents, not features
    inner = lambda name, p: p.dim() > 3 and name.startswith("0.") and not any(end in name for end in ("conv_in.", "conv_out.", "quant"))
    optimizer = optimizer_of(both, a.lr, inner, betas=(0.9, 0.99), weight_decay=1e-4)
    state, before, seen = State(a.state or os.path.join(a.out, "state", "image-vae")), 0.0, 0
    if a.resume and state.exists():
        record = state.load(vae, average, optimizer)
        before, seen = record["minutes"], record["steps"]
    clock = Clock(a.minutes, a.total or a.minutes, before, a.steps)
    rng = random.Random(a.seed + 1000 * seen + 7919 * team.rank)
    torch.manual_seed(a.seed + seen + 7919 * team.rank)
    print(f"image vae: {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters on {device}, {before:.1f} min before", flush=True)

    def save():
        if team.rank:
            return
        state.save(vae, average, optimizer, clock, {"steps": seen + clock.count})
        average.swap()
        export(vae, os.path.join(a.out, "vae"))
        average.swap()

    saved, running = time.time(), None
    while True:
        more, rate = team.agree(clock.tick(), learning_rate(a.lr, clock, a.warmup))
        if not more:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            scenes = [sample(rng) for _ in range(a.batch)]
            x, mask = frames_of(scenes, rng, a.size, device)
        optimizer.zero_grad()
        loss, mse = loss_of(vae, reader, scenes, x, mask, a, device)
        loss.backward()
        team.average_gradients(both)
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        average.update()
        if not mse.isnan():
            running = mse if running is None else torch.lerp(running, mse, 0.03)
        if not team.rank and (clock.count % 50 == 0 or 0 < a.steps <= 20):
            print(f"step {seen + clock.count} loss {loss.item():.4f} psnr {psnr(running.item()) if running is not None else 0:.2f} "
                  f"{clock.rate():.2f} it/s {time.process_time() / 60:.1f} core min", flush=True)
        if time.time() - saved > 150:
            save()
            saved = time.time()

    clock.count -= 1  # the tick that ended the loop
    if team.rank:
        return
    state.save(vae, average, optimizer, clock, {"steps": seen + clock.count})
    average.swap()
    vae.eval()
    before = {} if a.decoder else {"channel_std_before": balance(vae, a.evaluate, a.size, device)}
    result = measure(vae, a.evaluate, a.size, device) | before
    export(vae, os.path.join(a.out, "vae"))
    result |= {"steps": seen + clock.count, "minutes": round(clock.before + clock.spent(), 1), "device": device}
    with open(os.path.join(a.out, "image-vae.json"), "w") as file:
        json.dump(result, file, indent=1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

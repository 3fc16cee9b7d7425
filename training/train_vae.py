"""Trains the autoencoder: diffusers' AutoencoderKLCogVideoX, small. Writes a diffusers `vae` folder.

    python train_vae.py --out OUT --minutes 8                                    # one GPU
    torchrun --nproc-per-node 2 -- train_vae.py --out OUT --minutes 40 --batch 2 # two CPU cores
    python train_vae.py --start OUT/vae --out OUT2 --anchor 0.5 --minutes 8      # the latents stay (nearly) as they are

The subject is a twentieth of the pixels and most of what is looked at, so a pixel of it (and around it) counts `--subject`
times. Clips have 9 or 17 frames in turn: 17 frames are encoded and decoded in two pieces with carried caches, as whole
videos are. The latents are drawn from the posterior, plus a little more noise, which the decoder learns to ignore: what a
transformer makes is never exact.

A diffusion model sees latents through noise, and what has a small amplitude in them it sees last: the subject's shape, if
pixels alone decide. So in a part of the clips the noise is strong, and the encoder gives most room to what the loss counts
most; and a small network that reads colour and shape from latents under any noise trains along and is thrown away.

Shipped and measured are the averaged weights, with each latent channel brought to a standard deviation of one: the
encoder's last and the decoder's first layers are rescaled, which changes no picture, and a diffusion model then sees no
channel drown in noise before the others.
"""

import argparse
import copy
import json
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX

from bank import cover_of
from common import Average, Clock, State, Team, autocast, export, learning_rate, optimizer_of, psnr, setup
from render import render
from world import COLOURS, FPS, FRAMES, HEIGHT, SHAPES, WIDTH, Scene, sample


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True, help="folder: vae/ is written in it, and state/vae/ to resume from")
    p.add_argument("--state", default="", help="where the resumable state is (default: OUT/state/vae)")
    p.add_argument("--minutes", type=float, default=8, help="of this run")
    p.add_argument("--total", type=float, default=0, help="of all runs together, for the learning rate (default: --minutes)")
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--batch", type=int, default=16, help="clips of 9 frames; half as many of 17, but two or more on a CPU")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--muon", action="store_true", help="orthogonal updates of all convolutions but the first and the last")
    p.add_argument("--warmup", type=int, default=200, help="steps until the learning rate is reached, in each run")
    p.add_argument("--channels", type=int, nargs=4, default=[16, 32, 32, 64])
    p.add_argument("--latent", type=int, default=8, help="latent channels")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="height and width (tests)")
    p.add_argument("--subject", type=float, default=10.0, help="weight of the subject's pixels")
    p.add_argument("--kl", type=float, default=2e-4)
    p.add_argument("--start", help="the autoencoder to begin with")
    p.add_argument("--anchor", type=float, default=0.0,
                   help="weight of the latents' distance from those of --start, with which a transformer of these latents stays valid")
    p.add_argument("--square", type=float, default=2.0, help="weight of the squared error beside the absolute one")
    p.add_argument("--latent-noise", type=float, default=0.05, help="extra noise on the latents, in their standard deviation")
    p.add_argument("--strong-noise", type=float, nargs=2, default=[0.3, 0.5], metavar=("SHARE", "MOST"),
                   help="share of clips with more noise on the latents, and the most of it")
    p.add_argument("--reader", type=float, default=0.02, help="weight of reading colour and shape from noisy latents")
    p.add_argument("--eager", action="store_true", help="no CUDA graphs")
    p.add_argument("--channels-last", action="store_true")
    p.add_argument("--evaluate", type=int, default=32, help="whole held-out videos to measure at the end")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def build(a) -> AutoencoderKLCogVideoX:
    height, width = a.size
    return AutoencoderKLCogVideoX(block_out_channels=tuple(a.channels), latent_channels=a.latent, layers_per_block=1,
                                  norm_num_groups=8, sample_height=height, sample_width=width)


def around(mask: torch.Tensor) -> torch.Tensor:
    """The subject's coverage, grown by three pixels: its outline counts too."""
    b, _, t, h, w = mask.shape
    flat = F.max_pool2d(mask.transpose(1, 2).reshape(b * t, 1, h, w), 7, 1, 3)
    return flat.view(b, t, 1, h, w).transpose(1, 2)


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def picture_loss(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, square: float) -> torch.Tensor:
    """How far the made video `y` is from `x`, edges included; `weight` [B, 1, T, H, W] has mean one."""
    error = y - x
    loss = (error.abs() * weight).mean() + square * (error.square() * weight).mean()
    for slope, (made, true) in enumerate(zip(differences(y), differences(x))):
        near = weight[..., 1:, :] if slope == 0 else weight[..., :, 1:]
        loss = loss + ((made - true).abs() * near).mean()
    return loss


class Reader(torch.nn.Module):
    """Colour and shape of the subject in each latent cell, from latents with as much noise as there is latent, or less."""

    def __init__(self, latent: int):
        super().__init__()
        self.first = torch.nn.Conv3d(latent, 64, (1, 3, 3), padding=(0, 1, 1))
        self.last = torch.nn.Conv3d(64, len(COLOURS) + len(SHAPES), (1, 3, 3), padding=(0, 1, 1))

    def forward(self, z: torch.Tensor, labels: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy over the subject's cells; `z` [B, C, F, h, w], `labels` [B, 2] (colour, shape), `cover` [B, F, h, w]."""
        level = torch.rand(len(z), 1, 1, 1, 1, device=z.device)
        logits = self.last(F.silu(self.first(z + level * deviation(z) * torch.randn_like(z)))).float()
        loss = 0.0
        for part, label in zip(logits.split([len(COLOURS), len(SHAPES)], 1), labels.T):
            wanted = label.view(-1, 1, 1, 1).expand(-1, *part.shape[2:])
            loss = loss + (F.cross_entropy(part, wanted, reduction="none") * cover).sum() / cover.sum()
        return loss


def labels_of(scenes: list[Scene], device: str) -> torch.Tensor:
    return torch.tensor([[scene.label("colour"), scene.label("shape")] for scene in scenes], device=device)


def deviation(z: torch.Tensor) -> torch.Tensor:
    """Of each latent channel of a batch, not to be trained: noise in proportion to it cannot be outgrown."""
    return z.detach().std((0, 2, 3, 4), keepdim=True)


def loss_of(vae, helper, x, weight, cover, labels, level, a, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the plain mean squared error of each clip; `weight` [B, 1, T, H, W] has mean one, `level` [B, 1, 1, 1, 1]
    is the noise on the latents in their standard deviation. `helper` is a `Reader`, or with `--anchor` the autoencoder whose latents
    are to be kept."""
    with autocast(device):
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        y = vae.decode(z + level * deviation(z) * torch.randn_like(z)).sample
        if a.anchor:
            with torch.no_grad():
                held = helper.encode(x).latent_dist.mode()
            kept = a.anchor * (posterior.mode().float() - held.float()).square().mean()
        else:
            kept = a.reader * helper(z, labels, cover)
    y = y.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return picture_loss(y, x, weight, a.square) + kept + a.kl * kl, (y - x).square().mean((1, 2, 3, 4)).detach()


class Step:
    """Forward and backward on one shape of batch; on CUDA recorded once as a graph, because hundreds of small kernels cost
    more to start than to run. Falls back to plain calls if recording fails."""

    def __init__(self, vae, helper, a, device: str):
        self.vae, self.helper, self.a, self.device, self.graphs = vae, helper, a, device, {}
        self.parameters = [p for p in (*vae.parameters(), *helper.parameters()) if p.requires_grad]
        self.graphed = device == "cuda" and not a.eager

    def plain(self, *inputs):
        loss, mse = loss_of(self.vae, self.helper, *inputs, self.a, self.device)
        loss.backward()
        return loss.detach(), mse

    def __call__(self, *given):
        shape = given[0].shape
        if self.graphed and shape not in self.graphs:
            try:
                self.graphs[shape] = self.record(*given)
            except Exception as error:  # noqa: BLE001 - whatever a driver or a library refuses, training goes on
                print("no CUDA graph:", str(error).split("\n")[0], flush=True)
                torch.cuda.synchronize()
                self.graphed = False
        if not self.graphed:
            self.forget()
            return self.plain(*given)
        graph, inputs, outputs, grads = self.graphs[shape]
        for held, new in zip(inputs, given):
            held.copy_(new)
        graph.replay()
        for parameter, grad in zip(self.parameters, grads):
            parameter.grad = grad
        return outputs

    def forget(self):
        for parameter in self.parameters:
            parameter.grad = None

    def record(self, *given):
        inputs = tuple(part.clone() for part in given)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.forget()
                self.plain(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.plain(*inputs)
        return graph, inputs, outputs, [parameter.grad for parameter in self.parameters]


@torch.no_grad()
def deviations(vae, count: int, device: str, size, frames: int) -> torch.Tensor:
    """Standard deviation of each latent channel over training videos: [latent channels]."""
    rng, parts = random.Random(78), []
    for _ in range(count):
        z = vae.encode(render([sample(rng)], frames, *size, device=device).video).latent_dist.sample()
        parts.append(z.float().transpose(0, 1).flatten(1))
    return torch.cat(parts, 1).std(1)


@torch.no_grad()
def balance(vae, std: torch.Tensor):
    """Divides each latent channel by its `std`, in the weights. Everything that reads latents is a convolution: the
    decoder's first one, and those that make the norms' scales and shifts."""
    last = vae.encoder.conv_out.conv
    count = len(std)
    last.weight[:count] /= std.view(-1, 1, 1, 1, 1)
    last.bias[:count] /= std
    last.bias[count:] -= 2 * std.log()
    readers = [vae.decoder.conv_in.conv]
    for module in vae.decoder.modules():
        if hasattr(module, "conv_y") and hasattr(module, "conv_b"):
            readers += [module.conv_y.conv, module.conv_b.conv]
    for reader in readers:
        reader.weight *= std.view(1, -1, 1, 1, 1)


@torch.no_grad()
def measure(vae, count: int, device: str, size, frames: int, split: str = "unseen") -> dict:
    """PSNR over whole videos of held-out combinations, and over the pixels of the subject alone."""
    rng, total, subject, cover = random.Random(77), 0.0, 0.0, 0.0
    # in pairs: a batch of one takes PyTorch's slow way on a CPU
    count = max(1, count // 2)
    for _ in range(count):
        clip = render([sample(rng, split) for _ in range(2)], frames, *size, device=device)
        error = (vae.decode(vae.encode(clip.video).latent_dist.mode()).sample.float().clamp(-1, 1) - clip.video).square()
        total += error.mean().item()
        subject += (error.mean(1, keepdim=True) * clip.mask).sum().item()
        cover += clip.mask.sum().item()
    return {"psnr": round(psnr(total / count), 2), "psnr_subject": round(psnr(subject / cover), 2), "videos": 2 * count}


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae = (AutoencoderKLCogVideoX.from_pretrained(a.start).float() if a.start else build(a)).to(device).train()
    if a.anchor and not a.start:
        raise SystemExit("--anchor: to which latents? --start names an autoencoder")
    if a.start and vae.config.scaling_factor != 1.0:
        balance(vae, deviations(vae, 8, device, a.size, 9))
        vae.register_to_config(scaling_factor=1.0)
    if a.channels_last:
        vae = vae.to(memory_format=torch.channels_last_3d)
    helper = copy.deepcopy(vae).requires_grad_(False) if a.anchor else Reader(vae.config.latent_channels).to(device)
    both = torch.nn.ModuleList([vae, helper])
    average = Average(vae, 0.998 if a.start else 0.999)
    # the first and the last layers of encoder and decoder see or make colours and latents, not features
    inner = lambda name, p: p.dim() > 3 and name.startswith("0.") and not any(end in name for end in ("conv_in.", "conv_out."))
    optimizer = optimizer_of(both, a.lr, inner if a.muon else None, betas=(0.9, 0.99), weight_decay=1e-4, fused=device == "cuda")
    state, before, seen = State(a.state or os.path.join(a.out, "state", "vae")), 0.0, 0
    if a.resume and state.exists():
        record = state.load(vae, average, optimizer)
        before, seen = record["minutes"], record["steps"]
    clock = Clock(a.minutes, a.total or a.minutes, before, a.steps)
    rng = random.Random(a.seed + 1000 * seen + 7919 * team.rank)
    torch.manual_seed(a.seed + seen + 7919 * team.rank)
    print(f"vae: {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters on {device}, {before:.1f} min before", flush=True)

    def save():
        if team.rank:
            return
        state.save(vae, average, optimizer, clock, {"steps": seen + clock.count})
        average.swap()
        export(vae, os.path.join(a.out, "vae"))
        average.swap()

    step, saved, running = Step(vae, helper, a, device), time.time(), None
    while True:
        more, rate = team.agree(clock.tick(), learning_rate(a.lr, clock, a.warmup))
        if not more:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        # never one clip on a CPU: PyTorch's convolutions of a batch of one are several times slower there
        frames, batch = (9, a.batch) if clock.count % 2 else (17, max(2 if device == "cpu" else 1, a.batch // 2))
        with torch.no_grad():
            scenes = [sample(rng) for _ in range(batch)]
            start = [rng.random() * (FRAMES - frames) / FPS for _ in scenes]
            x, _, mask = render(scenes, frames, *a.size, device=device, start=start)
            weight = 1 + (a.subject - 1) * around(mask)
            weight = weight / weight.mean()
            share, most = a.strong_noise
            strong = torch.rand(batch, 1, 1, 1, 1, device=device) < share
            level = torch.where(strong, most * torch.rand(batch, 1, 1, 1, 1, device=device), a.latent_noise)
        loss, mse = step(x, weight, cover_of(mask), labels_of(scenes, device), level)
        team.average_gradients(both)
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        average.update()
        plain = mse[~strong.flatten()]
        if len(plain):
            running = plain.mean() if running is None else torch.lerp(running, plain.mean(), 0.03)
        if not team.rank and (clock.count % 50 == 0 or 0 < a.steps <= 20):
            print(f"step {seen + clock.count} loss {loss.item():.4f} psnr {psnr(running.item()) if running is not None else 0:.2f} "
                  f"{clock.rate():.2f} it/s", flush=True)
        if time.time() - saved > 150:
            save()
            saved = time.time()

    clock.count -= 1  # the tick that ended the loop
    if team.rank:
        return
    state.save(vae, average, optimizer, clock, {"steps": seen + clock.count})
    average.swap()
    vae.eval()
    frames = 17 if a.steps else FRAMES
    before = {}
    if not a.anchor:
        std = deviations(vae, a.evaluate, device, a.size, frames)
        balance(vae, std)
        vae.register_to_config(scaling_factor=1.0)
        before = {"channel_std_before": [round(v, 3) for v in std.tolist()]}
    result = measure(vae, a.evaluate, device, a.size, frames) | before
    export(vae, os.path.join(a.out, "vae"))
    result |= {"steps": seen + clock.count, "minutes": round(clock.before + clock.spent(), 1), "device": device}
    with open(os.path.join(a.out, "vae.json"), "w") as file:
        json.dump(result, file, indent=1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

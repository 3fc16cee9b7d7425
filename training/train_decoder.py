"""Trains the decoder of a finished autoencoder further, with the encoder and so the latent space as they are.

    python train_decoder.py --vae ../models/toyland/vae --out OUT --minutes 25 --bank-file BANK        # two CPU cores

What a decoder makes of the subject decides whether its colour and shape are seen at all, and a transformer that was
trained on these latents stays valid. Scenes are encoded once, as whole pictures, into a bank that grows while training
runs; most steps then decode a piece of the latents around the subject, where a pixel of work teaches most. A piece has
other group norms than a picture, so some steps decode whole pictures.

On a CPU a batch has at least two clips: a convolution of batch one with few channels takes PyTorch's own path instead of
oneDNN's, which is seven times slower.
"""

import argparse
import json
import os
import random
import time

import torch
from diffusers import AutoencoderKLCogVideoX

from bank import Bank
from common import Average, Clock, Muon, State, export, learning_rate, psnr, setup
from render import render
from train_vae import around, measure, picture_loss
from world import FRAMES, HEIGHT, WIDTH


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--vae", required=True, help="the autoencoder to begin with")
    p.add_argument("--out", required=True, help="folder: vae/ is written in it, and state/decoder/ to resume from")
    p.add_argument("--minutes", type=float, default=8, help="of this run")
    p.add_argument("--total", type=float, default=0, help="of all runs together, for the learning rate (default: --minutes)")
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--batch", type=int, default=8, help="pieces of 9 frames; half as many of 17, a quarter of whole pictures")
    p.add_argument("--piece", type=int, default=6, help="side of a piece, in latent cells")
    p.add_argument("--whole", type=float, default=0.2, help="share of steps that decode whole pictures")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--muon", action="store_true", help="orthogonal updates of the convolutions")
    p.add_argument("--bank", type=int, default=400, help="clips of 17 frames")
    p.add_argument("--bank-file", help="keeps the bank between runs and for the transformer")
    p.add_argument("--stills", type=int, default=0, help="single pictures in a bank of their own: many scenes for little time")
    p.add_argument("--still-share", type=float, default=0.7, help="share of steps that are on stills, twice --batch of them")
    p.add_argument("--still-file", help="keeps that bank between runs and for the transformer")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="height and width (tests)")
    p.add_argument("--subject", type=float, default=10.0, help="weight of the subject's pixels")
    p.add_argument("--latent-noise", type=float, default=0.05, help="noise on the latents, in their standard deviation")
    p.add_argument("--evaluate", type=int, default=16, help="whole held-out videos to measure at the end")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Pictures:
    """A bank with the pictures of its scenes, drawn when they are first asked for, in bytes: video [3, T, H, W] and the
    subject's mask [1, T, H, W]."""

    def __init__(self, bank: Bank):
        self.bank, self.drawn = bank, {}

    def piece(self, i: int, frames: int, side: int, rng: random.Random):
        """Latents [C, F, h, w], video and mask around the subject, or of everything if `side` is 0."""
        if i not in self.drawn:
            clip = render([self.bank.scenes[i]], self.bank.frames, *self.bank.size, device=self.bank.device)
            self.drawn[i] = ((clip.video[0] + 1) * 127.5).round().byte(), (clip.mask[0] * 255).round().byte()
        latent = (frames - 1) // 4 + 1
        z, (video, mask) = self.bank.z[i, :latent].float().transpose(0, 1), (part[:, :frames] for part in self.drawn[i])
        if side:
            cover = self.bank.cover(i, latent).mean(0)
            corner = []
            for axis, length in enumerate(cover.shape):
                along = cover.sum(1 - axis) + 1e-6
                centre = (along * torch.arange(length, device=along.device)).sum().item() / along.sum().item()
                corner.append(min(max(0, round(centre - side / 2 + rng.uniform(-1.2, 1.7))), max(0, length - side)))
            y, x = corner
            z = z[..., y:y + side, x:x + side]
            video, mask = (p[..., 8 * y:8 * (y + side), 8 * x:8 * (x + side)] for p in (video, mask))
        return z, video.float() / 127.5 - 1, mask.float() / 255


def main():
    a = arguments()
    device = setup(a.seed)
    vae = AutoencoderKLCogVideoX.from_pretrained(a.vae).float().to(device)
    vae.requires_grad_(False)
    decoder = vae.decoder.requires_grad_(True).train()
    average = Average(decoder, 0.995)
    adam = {"betas": (0.9, 0.99), "weight_decay": 1e-4, "fused": device == "cuda"}
    if a.muon:
        inner = lambda p: p.dim() > 1 and p.shape[0] >= 16
        optimizer = Muon(*([p for p in decoder.parameters() if inner(p) == wanted] for wanted in (True, False)), lr=a.lr, **adam)
    else:
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=a.lr, **adam)
    state, before, seen = State(os.path.join(a.out, "state", "decoder")), 0.0, 0
    if a.resume and state.exists():
        record = state.load(decoder, average, optimizer)
        before, seen = record["minutes"], record["steps"]
    rng = random.Random(a.seed + 1000 * seen)
    torch.manual_seed(a.seed + seen)
    bank = Bank(vae, a.size, 17, device, a.seed, a.bank_file)
    bank.fill(min(a.bank, 16))
    pictures, stills = Pictures(bank), Pictures(Bank(vae, a.size, 1, device, a.seed + 1, a.still_file))
    if a.stills:
        stills.bank.fill(a.stills)
        stills.bank.save()
    clock = Clock(a.minutes, a.total or a.minutes, before, a.steps)
    print(f"decoder: {sum(p.numel() for p in decoder.parameters()) / 1e6:.2f} M parameters on {device}, "
          f"{before:.1f} min before", flush=True)

    def save():
        state.save(decoder, average, optimizer, clock, {"steps": seen + clock.count})
        average.swap()
        export(vae, os.path.join(a.out, "vae"))
        average.swap()
        bank.save()

    saved, running = time.time(), {}
    while clock.tick():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(a.lr, clock, warmup=30)
        if len(bank) < a.bank:
            bank.fill(len(bank) + 4)
        still = a.stills and rng.random() < a.still_share
        side = a.piece if rng.random() > a.whole else 0
        frames, batch = (1, 2 * a.batch) if still else rng.choice([(9, a.batch), (17, a.batch // 2)])
        source = stills if still else pictures
        parts = [source.piece(rng.randrange(len(source.bank)), frames, side, rng)
                 for _ in range(max(2, batch if side else batch // 4))]
        z, x, mask = (torch.stack(values) for values in zip(*parts))
        z = z / vae.config.scaling_factor
        spread = z.std((0, 2, 3, 4), keepdim=True)
        z = z + a.latent_noise * spread * torch.randn_like(z)
        weight = 1 + (a.subject - 1) * around(mask)
        y = vae.decode(z).sample
        loss = picture_loss(y, x, weight / weight.mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        average.update()
        error = (((y.detach() - x).square().mean(1, keepdim=True) * mask).sum() / mask.sum()).item()
        name = f"{'piece' if side else 'whole'}{frames}"
        running[name] = error if name not in running else 0.8 * running[name] + 0.2 * error
        if clock.count % 10 == 0 or 0 < a.steps <= 20:
            numbers = " ".join(f"{k} {psnr(v):.2f}" for k, v in running.items())
            print(f"step {seen + clock.count} loss {loss.item():.4f} subject {numbers} bank {len(bank)} "
                  f"{clock.rate():.2f} it/s", flush=True)
        if time.time() - saved > 150:
            save()
            saved = time.time()
    clock.count -= 1
    save()
    average.swap()
    vae.eval()
    result = measure(vae, a.evaluate, device, a.size, 17 if a.steps else FRAMES)
    result |= {"steps": seen + clock.count, "minutes": round(clock.before + clock.spent(), 1), "device": device}
    with open(os.path.join(a.out, "decoder.json"), "w") as file:
        json.dump(result, file, indent=1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Trains the judge. Writes models/toyland-judge: f16 weights, config.json, and the measured accuracy.

    python train_judge.py --out ../models/toyland-judge --minutes 3                   # one GPU
    python train_judge.py --out ../models/toyland-judge --minutes 40 --frames 8000    # two CPU cores
    python train_judge.py --out ../models/toyland-judge --evaluate 2000               # only measure

Held-out combinations are not trained on. `--vae` mixes in reconstructions of an autoencoder (see judge_data.py).
"""

import argparse
import json
import os
import random
import time

import torch
import torch.nn.functional as F

import judge_data as data
from common import Clock, learning_rate, save_tensors, setup
from judge import EMBEDDING, SCENE, STRIDE, SUBJECT, WINDOW, Judge, load
from render import render
from world import ATTRIBUTES, FPS, FRAMES, HEIGHT, WIDTH, sample

NAMES = list(ATTRIBUTES)


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=3)
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--frames", type=int, default=20000, help="single frames in the bank")
    p.add_argument("--clips", type=int, default=0, help="half-size clips in the bank (default: an eighth of the frames)")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--moving", type=float, default=0.125, help="clips in a batch, as a share of its frames")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--vae", help="autoencoder folder, for reconstructions")
    p.add_argument("--reconstructions", help="file that keeps the reconstructions between runs")
    p.add_argument("--reconstructed", type=int, default=64, help="clips to reconstruct")
    p.add_argument("--resume", action="store_true", help="start from the weights in --out's state folder")
    p.add_argument("--shipped", action="store_true", help="go on from the weights in --out itself, which have no batch norm")
    p.add_argument("--state", default="", help="where the resumable weights are (default: OUT/state)")
    p.add_argument("--evaluate", type=int, default=0, help="only measure, on this many videos")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def frame_loss(judge: Judge, pictures, batch: dict) -> torch.Tensor:
    """`batch`: labels [B, 5], box [B, 4], cells [B, 12, 18], present [B], subject [B]."""
    out = judge.frames(pictures)
    present, subject = batch["present"], batch["subject"]
    belief = F.binary_cross_entropy_with_logits(out["belief"], (batch["cells"] > 0.5).float() * present.view(-1, 1, 1),
                                                reduction="none").mean((1, 2))
    spotted = F.binary_cross_entropy_with_logits(out["presence"], present, reduction="none")
    box = F.smooth_l1_loss(out["box"], batch["box"], beta=0.02, reduction="none").sum(-1) * present
    loss = 4 * belief.mean() + 0.2 * spotted.mean() + 5 * box.mean()
    for name in SUBJECT + SCENE:
        weight = subject if name in SUBJECT else torch.ones_like(subject)
        each = F.cross_entropy(out[name], batch["labels"][:, NAMES.index(name)], reduction="none", label_smoothing=0.02)
        loss = loss + (each * weight).mean()
    return loss


def motion_loss(judge: Judge, pictures, boxes, target) -> torch.Tensor:
    """Half-size clips [B, T, 3, 48, 72] with boxes that are as wrong as the judge's own will be."""
    b, t = pictures.shape[:2]
    wrong = torch.randn(b, 1, 2, device=boxes.device) * 0.01 + torch.randn(b, t, 2, device=boxes.device) * 0.004
    logits = judge.moves(judge.pairs(pictures), boxes[..., :2] + wrong)
    return F.cross_entropy(logits, target, label_smoothing=0.02)


def pick(bank: dict, index: torch.Tensor, device: str) -> dict:
    return {key: value[index].to(device) for key, value in bank.items() if key != "pictures"}


def train(a, device: str):
    rng, spoiler = random.Random(a.seed), torch.Generator().manual_seed(a.seed)
    judge = load(a.out).to(device) if a.shipped else Judge().to(device)
    if a.shipped:
        rng.seed(a.seed + 2)  # other scenes than the first time
    state = os.path.join(a.state or os.path.join(a.out, "state"), "judge.safetensors")
    if a.resume and os.path.exists(state):
        from safetensors.torch import load_file
        judge.load_state_dict(load_file(state))
        rng.seed(a.seed + 1)  # other scenes than the first time
    print(f"judge: {sum(p.numel() for p in judge.parameters())} parameters on {device}", flush=True)
    began = time.time()
    frames = data.frame_bank(a.frames, rng, device)
    clips = data.clip_bank(a.clips or a.frames // 8, rng, device, WINDOW)
    print(f"banks: {len(frames['pictures'])} frames, {len(clips['pictures'])} clips in {time.time() - began:.0f} s", flush=True)
    made = None
    if a.reconstructions and os.path.exists(a.reconstructions):
        made = torch.load(a.reconstructions, weights_only=True)
    elif a.vae:
        from diffusers import AutoencoderKLCogVideoX
        vae = AutoencoderKLCogVideoX.from_pretrained(a.vae).float().to(device).eval()
        made = data.reconstructions(vae, a.reconstructed, rng, device)
        if a.reconstructions:
            torch.save(made, a.reconstructions)
    if made is not None:
        print(f"reconstructions: {len(made['subject'])} clips, subject kept in {made['subject'].mean():.2f}", flush=True)

    optimizer = torch.optim.AdamW(judge.parameters(), lr=a.lr, weight_decay=1e-3)
    clock, mean = Clock(a.minutes, a.minutes, 0, a.steps), None
    judge.train()
    while clock.tick():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(a.lr, clock, warmup=100)
        index = torch.randint(len(frames["pictures"]), (a.batch,), generator=spoiler)
        batch, pictures = pick(frames, index, device), data.from_bytes(frames["pictures"][index], device)
        count = max(2, int(a.batch * a.moving))
        index = torch.randint(len(clips["pictures"]), (count,), generator=spoiler)
        moving, labels, boxes = data.from_bytes(clips["pictures"][index], device), clips["labels"][index], clips["box"][index]
        length = rng.randint(9, WINDOW) if made is None else made["pictures"].shape[1] if rng.random() < 0.3 else WINDOW
        begin = rng.randint(0, WINDOW - length)
        moving, boxes = moving[:, begin:begin + length], boxes[:, begin:begin + length]
        if rng.random() < 0.5:  # a clip backwards: right is left
            moving, boxes, labels = moving.flip(1), boxes.flip(1), labels.clone()
            swapped = torch.tensor([1, 0, 2, 3, 4])
            labels[:, 2] = swapped[labels[:, 2]]
        pictures = data.spoil(pictures, spoiler)
        moving = data.spoil(moving.flatten(0, 1), spoiler, 0.8).view_as(moving)
        if made is not None:
            index = torch.randint(len(made["subject"]), (max(2, a.batch // 8),), generator=spoiler)
            at = torch.randint(made["pictures"].shape[1], index.shape, generator=spoiler)
            extra = {"labels": made["labels"][index], "box": made["box"][index, at], "cells": made["cells"][index, at],
                     "present": torch.ones(len(index)), "subject": made["subject"][index]}
            pictures = torch.cat([pictures, data.from_bytes(made["pictures"][index, at], device)])
            batch = {key: torch.cat([batch[key], extra[key].to(device)]) for key in batch}
        loss = frame_loss(judge, pictures, batch) + motion_loss(judge, moving, boxes.to(device), labels[:, 2].to(device))
        if made is not None and length == made["pictures"].shape[1]:
            index = index[:4]
            small = F.avg_pool2d(data.from_bytes(made["pictures"][index], device).flatten(0, 1), 2)
            small = small.view(len(index), length, 3, HEIGHT // 2, WIDTH // 2)
            loss = loss + 0.5 * motion_loss(judge, small, made["box"][index].to(device), made["labels"][index, 2].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if clock.count % 100 == 0 or 0 < a.steps <= 50:
            print(f"step {clock.count} loss {mean:.4f} {clock.rate():.2f} it/s", flush=True)
        if clock.count % 500 == 0:
            save_tensors(dict(judge.state_dict()), state, torch.float32)
    save_tensors(dict(judge.state_dict()), state, torch.float32)
    ship(judge.eval().fold(), a.out)


def ship(judge: Judge, folder: str):
    save_tensors(judge.state_dict(), os.path.join(folder, "model.safetensors"))
    config = {"kind": "toyland-judge", "version": 1, "height": HEIGHT, "width": WIDTH, "fps": FPS, "embedding": EMBEDDING,
              "window": WINDOW, "stride": STRIDE, "attributes": ATTRIBUTES}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
        file.write("\n")


@torch.no_grad()
def evaluate(judge: Judge, videos: int, device: str, seed: int, frames: int = WINDOW, change=None, splits=("train", "unseen"),
             tag: str = "renders") -> dict:
    """Accuracy per attribute on fresh videos of `frames` frames, mean box overlap, and presence."""
    table = {}
    for split in splits:
        rng = random.Random(seed)
        right, overlap, present, absent = dict.fromkeys(NAMES, 0), [], [], []
        count = videos // len(splits)
        group = 16 if device == "cuda" else 4
        for i in range(count):
            if i % group == 0:
                scenes = [sample(rng, split) for _ in range(min(group, count - i))]
                begins = [rng.random() * (FRAMES - frames) / FPS for _ in scenes]
                clip = render(scenes, frames, device=device, start=begins)
                truths = data.relative(clip.boxes)
            scene, begin, truth = scenes[i % group], begins[i % group], truths[i % group]
            video = clip.video[i % group].transpose(0, 1)
            video = change(video) if change else video
            out = judge.judge(video)
            for name in NAMES:
                right[name] += int(out[name].argmax()) == scene.label(name)
            truth = torch.cat([truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2], -1)
            inside = (torch.minimum(truth, out["box"])[:, 2:] - torch.maximum(truth, out["box"])[:, :2]).clamp(min=0).prod(-1)
            area = lambda v: (v[:, 2:] - v[:, :2]).prod(-1)
            overlap.append((inside / (area(truth) + area(out["box"]) - inside)).mean().item())
            present.append((out["presence"] > 0.5).float().mean().item())
            if i % 10 == 0:
                empty = render([scene], 5, device=device, start=begin, opacity=[0.0]).video[0].transpose(0, 1)
                absent.append((judge.judge(change(empty) if change else empty)["presence"] > 0.5).float().mean().item())
        mean = lambda v: sum(v) / max(1, len(v))
        row = {name: right[name] / count for name in NAMES}
        row |= {"box_iou": mean(overlap), "present": mean(present), "present_without_subject": mean(absent), "videos": count}
        table[split] = {key: round(value, 4) for key, value in row.items()}
        print(tag, split, table[split], flush=True)
    return table


def main():
    a = arguments()
    device = setup(a.seed)
    if not a.evaluate:
        train(a, device)
        return
    judge = load(a.out).to(device)
    spoiler = torch.Generator().manual_seed(7)
    result = {"renders": evaluate(judge, a.evaluate, device, seed=10_000 + a.seed)}
    result["spoilt"] = evaluate(judge, a.evaluate // 4, device, 20_000 + a.seed, tag="spoilt",
                                change=lambda v: data.spoil(v, spoiler))
    if a.vae:
        from diffusers import AutoencoderKLCogVideoX
        vae = AutoencoderKLCogVideoX.from_pretrained(a.vae).float().to(device).eval()
        through = lambda v: vae.decode(vae.encode(v.transpose(0, 1)[None]).latent_dist.mode()).sample[0].transpose(0, 1).clamp(-1, 1)
        result["reconstructed"] = evaluate(judge, a.reconstructed, device, 30_000 + a.seed, 9, through, tag="reconstructed")
    with open(os.path.join(a.out, "accuracy.json"), "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()

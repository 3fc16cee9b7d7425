"""Measures a DreamVideo-2 folder in PyTorch: boxes followed, subjects recognised, strips of frames.

    python evaluate_subject.py --model OUT --captions 64 --sheet PICTURE

Captions do not say what moves: that is asked of the picture. Boxes are those of paths across the picture that no caption asks for. Ways:
with the subject and boxes at several weights outside the boxes, only the subject, only boxes, neither. "mIoU" compares the judge's box of
each frame with the one asked for, "CD" their centres, in units of the frame's diagonal.
"""

import argparse
import os
import random
import time

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import images
import subject
import videos
from common import setup
from evaluate_image import percent, sheet
from evaluate_video import changes, judged
from judge import load as load_judge
from world import HEIGHT, WIDTH, evaluation_set, unnamed


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="the folder")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=64)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=3.0)
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="(tests)")
    p.add_argument("--ways", nargs="*", default=["0.75", "0", "1", "subject", "boxes", "nothing"])
    p.add_argument("--sheet", help="a picture: rows of frames of the first 8 videos of the first way, boxes drawn")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def path(rng: random.Random, frames: int) -> list:
    """A box of a subject's size from one place to another, in the lower two thirds, where subjects are wont to be."""
    w = rng.uniform(0.14, 0.22)
    h = w * WIDTH / HEIGHT
    corner = lambda: (rng.uniform(0.02, 0.98 - w), rng.uniform(0.3, 0.95 - h))
    (ax, ay), (bx, by) = corner(), corner()
    at = lambda u: (ax + u * (bx - ax), ay + u * (by - ay))
    return [(x, y, x + w, y + h) for x, y in (at(i / (frames - 1)) for i in range(frames))]


def cut_out(scene, size) -> torch.Tensor:
    """The subject alone, from the first moment at which it is seen."""
    for k in range(12):
        x, mask = images.pictures([scene], [k / 2], size, "cpu")
        made = subject.placed(x[0], mask[0, 0])
        if made is not None:
            return made
    return torch.ones(3, *size)


@torch.no_grad()
def main():
    a = arguments()
    setup(a.seed)
    vae, text = images.load(a.model, AutoencoderKL, "vae"), images.load(a.model, CLIPTextModel, "text_encoder")
    captions, judge = clip_tokenizer.Captions(os.path.join(a.model, "tokenizer")), load_judge(a.judge)
    unet = images.load(a.model, UNet3DConditionModel, "unet")
    net = subject.load(unet, a.model)
    videos.hasten(unet)
    scenes, rng, generator, began = evaluation_set(a.captions), random.Random(a.seed), torch.Generator().manual_seed(a.seed), time.process_time()
    boxes = [path(rng, videos.CHUNK) for _ in scenes]
    texts = [unnamed(scene, rng, 0.0) for scene in scenes]
    noise = torch.randn(len(scenes), 4, videos.CHUNK, a.size[0] // 8, a.size[1] // 8, generator=generator)
    latents = images.latents(vae, torch.stack([cut_out(scene, a.size) for scene in scenes]), mode=True)
    print(f"{a.captions} captions, {a.steps} steps, guidance {a.guidance}", flush=True)
    for number, way in enumerate(a.ways):
        boxed, looked = way not in ("subject", "nothing"), way not in ("boxes", "nothing")
        outside, clips = float(way) if way[0].isdigit() else None, []
        for i in range(0, len(scenes), 4):
            count = len(scenes[i:i + 4])
            both = text(input_ids=captions.ids([""] * count + texts[i:i + 4])).last_hidden_state
            net.reference_attention.features = {}
            if looked:
                net.reference_attention.collect(unet, latents[i:i + 4], both[count:])
                held = {key: torch.cat([value, value]) for key, value in net.reference_attention.features.items()}
                net.reference_attention.features = held
            flat = [box for clip in boxes[i:i + 4] for box in clip] * 2 if boxed else None
            masks = torch.stack([subject.pixel_mask(box, *a.size) for box in flat]).unflatten(0, (2 * count, -1)) if boxed else None
            feature = net.motion_encoder(masks) if boxed else None
            scheduler = videos.schedule()
            scheduler.set_timesteps(a.steps)
            z = noise[i:i + 4]
            for t in scheduler.timesteps:
                made = net.predict(torch.cat([z, z]), t.expand(2 * count), both, flat, masks, feature, outside)
                empty, full = made.chunk(2)
                z = scheduler.step(empty + a.guidance * (full - empty), t, z).prev_sample
            clips.append(videos.decode(vae, z))
        made = torch.cat(clips)
        good, presence = judged(judge, made, scenes)
        seen = torch.stack([judge.judge(clip)["box"] for clip in made])
        wanted = torch.tensor(boxes)
        inner = (torch.minimum(seen[..., 2:], wanted[..., 2:]) - torch.maximum(seen[..., :2], wanted[..., :2])).clamp(min=0).prod(-1)
        area = lambda box: (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)
        iou = inner / (area(seen) + area(wanted) - inner).clamp(min=1e-9)
        scale = torch.tensor([WIDTH, HEIGHT]) / (WIDTH ** 2 + HEIGHT ** 2) ** 0.5
        middle = lambda box: (box[..., :2] + box[..., 2:]) / 2
        cd = ((middle(seen) - middle(wanted)) * scale).norm(dim=-1)
        print(f"{way}: mIoU {iou.mean():.3f}, CD {cd.mean():.3f}, colour {percent(good['colour'])}, shape {percent(good['shape'])}, place "
              f"{percent(good['place'])}, time {percent(good['time'])}, present {percent(presence > 0.5)}, change {changes(made).mean():.1f}", flush=True)
        if a.sheet and number == 0:
            rows = made[:8, ::3].clone()
            for k, clip in enumerate(rows):
                for j, frame in enumerate(clip):
                    x0, y0, x1, y1 = (int(v * s) for v, s in zip(boxes[k][3 * j], (WIDTH, HEIGHT, WIDTH, HEIGHT)))
                    frame[:, [y0, min(y1, HEIGHT - 1)], x0:x1] = torch.tensor([1.0, -1, -1]).view(3, 1, 1)
                    frame[:, y0:y1, [x0, min(x1, WIDTH - 1)]] = torch.tensor([1.0, -1, -1]).view(3, 1, 1)
            sheet([rows[:, i] for i in range(rows.shape[1])], a.sheet, across=min(8, len(rows)))
    print(f"{time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()

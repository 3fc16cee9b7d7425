"""The ablation of Text2Video-Zero on Toyland's image model, through the program: motion of the latents, attention to the first frame, both,
neither; how far the subject and the background stay themselves, apart.

    python evaluate_zero_shot.py --vidgen ../target/release/vidgen --captions 64 --work /tmp/ablation
    python evaluate_zero_shot.py --vidgen ../target/release/vidgen --captions 4 --work /tmp/ablation --strip strip.png

Consistency has VBench's form: the mean over frames k > 1 of (f_1 f_k + f_(k-1) f_k) / 2, f being unit features of the judge: of the
subject (the 32 numbers of a frame's embedding that colour and shape are read from), and of the background (the same for place and time, from
cells that the judge does not believe to be on the subject). Beside them two measures of pictures, in grey levels of 255, which no network
has a part in but for the box: of the subject, the mean difference of its box, resized, from that of the frame before and that of the first; of the
background, that of the pixels outside both boxes, where the picture may be moved as a whole (the move that makes it smallest, at a
fourth of the size). Last, how many pixels the middle of the subject's box moves from frame to frame. An interval is twice the standard error of the difference to "both" over captions. Flags after `--` go to `vidgen
generate`. Results go to standard output.
"""

import argparse
import os
import subprocess
import sys

import torch
import torch.nn.functional as F

from evaluate_control import read, strip
from evaluate_image import JUDGED, right
from judge import load as load_judge
from world import HEIGHT, WIDTH, article, evaluation_set, plain_caption

VARIANTS = {
    "both": [],
    "motion": ["--attn-proc", "none"],
    "attention": ["--motion", "none"],
    "neither": ["--motion", "none", "--attn-proc", "none"],
}
MEASURES = ("subject", "background", "subject picture", "background picture", "subject moves")
REACH = 7  # cells of four pixels that a picture may be moved by


def arguments() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vidgen", default="vidgen")
    p.add_argument("--model", default="toyland-image")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=64)
    p.add_argument("--frames", type=int, default=8)
    p.add_argument("--work", required=True, help="where videos go")
    p.add_argument("--short", action="store_true", help="captions that name the subject alone: place and time are left to each frame")
    p.add_argument("--strip", help="a picture: four frames of each of the variants, one below the other, of the first caption")
    return p.parse_args(words), more


def consistency(features: torch.Tensor) -> float:
    """Of unit features [T, D]."""
    return ((features[1:] @ features[0] + (features[1:] * features[:-1]).sum(1)) / 2).mean().item()


def features(judge, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Of the subject and of the background, unit vectors [T, 32], and what the judge sees."""
    seen = judge.frames(x)
    cells, on = judge.frame(x).flatten(2), (seen["belief"].flatten(1) > 0).float()  # [T, 64, cells], [T, cells]
    off = 1 - on
    background = (cells * off[:, None]).sum(-1) / off.sum(-1, keepdim=True).clamp(min=1)
    return F.normalize(seen["embedding"][:, :32], dim=1), F.normalize(judge.scene(background), dim=1), seen


def corners(box: torch.Tensor) -> list[int]:
    """A box as x0, y0, x1, y1 in pixels, inside the frame and not empty."""
    x, y, w, h = (box * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).tolist()
    x0, y0 = min(max(round(x - w / 2), 0), WIDTH - 8), min(max(round(y - h / 2), 0), HEIGHT - 8)
    return [x0, y0, max(min(round(x + w / 2), WIDTH), x0 + 8), max(min(round(y + h / 2), HEIGHT), y0 + 8)]


def subjects(x: torch.Tensor, boxes: list) -> torch.Tensor:
    """Their boxes as pictures of 24x24, [T, 3, 24, 24]."""
    crop = lambda frame, b: F.interpolate(frame[None, :, b[1]:b[3], b[0]:b[2]], (24, 24), mode="bilinear", antialias=True)
    return torch.cat([crop(frame, box) for frame, box in zip(x, boxes)])


def apart(one: torch.Tensor, one_off: torch.Tensor, other: torch.Tensor, other_off: torch.Tensor) -> float:
    """The mean difference of two small pictures [3, h, w] where both are background (`off` [h, w]), for the move that makes it smallest
    and leaves a third of the picture in common."""
    h, w = one.shape[-2:]
    best = float("inf")
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            rows, columns = slice(max(dy, 0), h + min(dy, 0)), slice(max(dx, 0), w + min(dx, 0))
            back_rows, back_columns = slice(max(-dy, 0), h + min(-dy, 0)), slice(max(-dx, 0), w + min(-dx, 0))
            common = one_off[rows, columns] * other_off[back_rows, back_columns]
            if common.sum() < h * w / 3:
                continue
            difference = (one[:, rows, columns] - other[:, back_rows, back_columns]).abs().mean(0)
            best = min(best, ((difference * common).sum() / common.sum()).item())
    return best


def measured(judge, x: torch.Tensor) -> tuple[list[float], dict]:
    subject, background, seen = features(judge, x)
    boxes = [corners(box) for box in seen["box"]]
    crops, small = subjects(x, boxes) * 127.5, F.avg_pool2d(x, 4) * 127.5
    off = torch.ones(len(x), HEIGHT, WIDTH)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        off[index, y0:y1, x0:x1] = 0
    off = (F.avg_pool2d(off[:, None], 4)[:, 0] == 1).float()
    of_subject = [((crops[k] - crops[k - 1]).abs().mean() + (crops[k] - crops[0]).abs().mean()).item() / 2 for k in range(1, len(x))]
    of_background = [(apart(small[k - 1], off[k - 1], small[k], off[k]) + apart(small[0], off[0], small[k], off[k])) / 2
                     for k in range(1, len(x))]
    mean = lambda values: sum(values) / len(values)
    centres = seen["box"][:, :2] * torch.tensor([WIDTH, HEIGHT])
    moves = (centres[1:] - centres[:-1]).norm(dim=1).mean().item()
    return [100 * consistency(subject), 100 * consistency(background), mean(of_subject), mean(of_background), moves], seen


@torch.no_grad()
def main():
    a, more = arguments()
    os.makedirs(a.work, exist_ok=True)
    judge, scenes = load_judge(a.judge), evaluation_set(a.captions)
    found = {name: [] for name in VARIANTS}
    as_asked = {name: {attribute: [] for attribute in JUDGED} for name in VARIANTS}
    rows = []
    for index, scene in enumerate(scenes):
        for name, flags in VARIANTS.items():
            caption = f"{article(scene.colour)} {scene.colour} {scene.shape}" if a.short else plain_caption(scene)
            made = os.path.join(a.work, f"{index:03}-{name}")
            command = [a.vidgen, "generate", caption, "--model", a.model, "--seed", str(index), *flags]
            command += ["--frames", str(a.frames), "--quiet", "-y", "-o", made + "/"]
            subprocess.run(command + more, check=True, stdout=subprocess.DEVNULL)
            x = read(made, a.frames)
            values, seen = measured(judge, x)
            found[name].append(values)
            for attribute in JUDGED:
                as_asked[name][attribute].append(right(seen, [scene] * a.frames, attribute).float().mean())
            if index == 0:
                rows.append([x[k] for k in range(0, a.frames, max(1, a.frames // 4))][:4])
        print(f"{caption!r}: " + "; ".join(
            f"{name} " + " ".join(f"{value:.1f}" for value in found[name][-1]) for name in VARIANTS), flush=True)
    all_found = {name: torch.tensor(values) for name, values in found.items()}
    print(f"{'':10}" + "".join(f"{name:>24}" for name in MEASURES) + "   as asked: " + ", ".join(JUDGED))
    for name, values in all_found.items():
        less = all_found["both"] - values
        error = 2 * less.std(0) / len(values) ** 0.5
        columns = "".join(f"{value:>15.2f} {f'+-{e:.2f}':>8}" for value, e in zip(values.mean(0).tolist(), error.tolist()))
        asked = ", ".join(f"{100 * torch.stack(as_asked[name][attribute]).mean().item():.1f}" for attribute in JUDGED)
        print(f"{name:10}{columns}   {asked}")
    if a.strip:
        strip(a.strip, rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Videos of Toyland that follow edges, made by the program: what `vidgen generate --control canny:` does, as the judge sees it.

    python evaluate_control.py --vidgen ../target/release/vidgen --captions 64 --work /tmp/control
    python evaluate_control.py --vidgen ../target/release/vidgen --captions 8 --work /tmp/control --strip strip.png

As `evaluate_image.py control`: the captions of an evaluation, and drawn videos of the same shape and place, but of another colour and on a
sunny day, whose edges are followed. Each caption is made with `--control canny:` and without, and the box in which the judge sees the
subject is compared with the drawn one; `vidgen eval --judge toyland` says whether the video is as the caption. Flags after `--` go to
`vidgen generate`. Results go to standard output.
"""

import argparse
import os
import random
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

import evaluate_edits
import images
from edges import canny
from evaluate_image import JUDGED, boxes_iou, followed, seen_by
from judge import load as load_judge
from judge_data import relative, to_bytes
from render import render
from world import Scene, evaluation_set, plain_caption


def arguments() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vidgen", default="vidgen")
    p.add_argument("--model", default="toyland-image")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=64)
    p.add_argument("--frames", type=int, default=4, help="of each video, at 8 a second")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--work", required=True, help="where videos go")
    p.add_argument("--strip", help="a picture of the first four: given, edges, with control, without")
    return p.parse_args(words), more


def read(folder: str, frames: int) -> torch.Tensor:
    """Frames `[T, 3, H, W]` in [-1, 1]."""
    pictures = [np.asarray(Image.open(os.path.join(folder, f"frame-{index:06}.png"))) for index in range(frames)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def strip(path: str, rows: list[list[torch.Tensor]], gap: int = 4):
    """`rows`: pictures [3, H, W] in [-1, 1] beside each other."""
    height, width = rows[0][0].shape[-2:]
    sheet = Image.new("RGB", (len(rows[0]) * (width + gap) - gap, len(rows) * (height + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(to_bytes(picture[None])[0].permute(1, 2, 0).numpy()), (x * (width + gap), y * (height + gap)))
    sheet.save(path)


@torch.no_grad()
def main():
    a, more = arguments()
    judge, rng = load_judge(a.judge), random.Random(a.seed)
    scenes = evaluation_set(a.captions)
    found = {name: [] for name in ("with", "without")}
    rows = []
    for index, scene in enumerate(scenes):
        drawn = Scene("red" if scene.colour != "red" else "blue", scene.shape, scene.motion, scene.place, "sunny", scene.seed)
        clip = render([drawn], a.frames, start=[images.moment(rng)])
        given = os.path.join(a.work, f"{index:03}-given")
        evaluate_edits.write(given, clip.video[0])
        pictures = clip.video[0].transpose(0, 1)
        edges = canny(to_bytes(pictures))
        shown = [pictures[0], (edges[0].float() / 127.5 - 1).expand(3, -1, -1)]
        for name in found:
            made = os.path.join(a.work, f"{index:03}-{name}")
            control = ["--control", f"canny:{given}"] if name == "with" else ["--motion", "none", "--frames", str(a.frames)]
            command = [a.vidgen, "generate", plain_caption(scene), "--model", a.model, "--seed", str(index), "--fps", "8", *control]
            subprocess.run(command + ["--quiet", "-y", "-o", made + "/"] + more, check=True, stdout=subprocess.DEVNULL)
            x = read(made, a.frames)
            iou = boxes_iou(seen_by(judge, x)["box"], relative(clip.boxes[0])).mean().item()
            found[name].append((iou, *followed(canny(to_bytes(x)), edges), evaluate_edits.seen(a, made, plain_caption(scene))))
            shown.append(x[0])
        rows.append(shown)
        print(f"{plain_caption(scene)!r}: IoU {found['with'][-1][0]:.3f} with, {found['without'][-1][0]:.3f} without", flush=True)
    mean = lambda values: sum(values) / len(values)
    for name, lines in found.items():
        seen = ", ".join(f"{what} {100 * mean([line[3][what] for line in lines]):.1f}" for what in JUDGED)
        print(f"{name}: box IoU {mean([line[0] for line in lines]):.3f}, wanted edges found {100 * mean([line[1] for line in lines]):.1f} %, "
              f"found edges wanted {100 * mean([line[2] for line in lines]):.1f} %; {seen}")
    if a.strip:
        strip(a.strip, rows[:4])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

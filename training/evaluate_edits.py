"""Edits of Toyland's videos by instruction, made and judged by the program: what `vidgen edit --instruct` does, as the judge sees it.

    python evaluate_edits.py --vidgen ../target/release/vidgen --edits 64 --work /tmp/edits
    python evaluate_edits.py --vidgen ../target/release/vidgen --edits 8 --work /tmp/edits --strip strip.png

Drawn videos of a few frames are changed by the plain instruction for one of colour, shape, place and time, half of them to held-out
combinations, and `vidgen eval --judge toyland` is asked whether each is as the scene after the edit. "Changed": the one that the
instruction names; "rest stays": all three others. Flags after `--` go to `vidgen edit`. Results go to standard output.
"""

import argparse
import json
import os
import random
import subprocess
import sys

import torch
from PIL import Image

import edits
from render import render
from world import plain_caption


def arguments() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vidgen", default="vidgen")
    p.add_argument("--model", default="toyland-image")
    p.add_argument("--edits", type=int, default=64)
    p.add_argument("--frames", type=int, default=8, help="of each video, at 8 a second")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--work", required=True, help="where videos go")
    p.add_argument("--strip", help="a picture: the first and the last frame of each of the first four, before and after")
    return p.parse_args(words), more


def write(folder: str, video: torch.Tensor):
    """Frames of `[3, T, H, W]` in [-1, 1] as pictures."""
    os.makedirs(folder, exist_ok=True)
    for index, frame in enumerate(((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()):
        Image.fromarray(frame).save(os.path.join(folder, f"frame-{index:06}.png"))


def seen(a, folder: str, caption: str) -> dict:
    """By attribute, whether it is as the caption says."""
    done = subprocess.run([a.vidgen, "eval", folder, "--judge", "toyland", "--json", "-p", caption], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    means = json.loads(done.stdout)["videos"][0]["metrics"]
    return {name: means[f"judge_{name}"] > 0.5 for name in edits.EDITED}


def strip(a, folders: list[tuple[str, str]]):
    rows = []
    for pair in folders:
        frames = [os.path.join(folder, f"frame-{index:06}.png") for index in (0, a.frames - 1) for folder in pair]
        rows.append([Image.open(path) for path in frames])
    width, height = rows[0][0].size
    gap = 4
    sheet = Image.new("RGB", (4 * width + 3 * gap, len(rows) * (height + gap) - gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (width + gap), y * (height + gap)))
    sheet.save(a.strip)


def main():
    a, more = arguments()
    rng = random.Random(a.seed + 3)
    asked = [edits.edit(rng, "unseen" if i % 2 else "train") for i in range(a.edits)]
    table, pairs = [], []
    for index, (before, after, kind) in enumerate(asked):
        given, made = (os.path.join(a.work, f"{index:03}-{name}") for name in ("given", "made"))
        write(given, render([before], a.frames).video[0])
        told = edits.instructions(before, after, kind)[0]
        command = [a.vidgen, "edit", given, "--instruct", told, "--model", a.model, "--seed", str(index), "--fps", "8"]
        subprocess.run(command + ["--quiet", "-y", "-o", made + "/"] + more, check=True, stdout=subprocess.DEVNULL)
        good = seen(a, made, plain_caption(after))
        table.append((kind, good))
        pairs.append((given, made))
        print(f"{plain_caption(before)!r}, {told!r}: " + ", ".join(f"{name} {'yes' if ok else 'NO'}" for name, ok in good.items()),
              flush=True)
    share = lambda values: f"{100 * sum(values) / max(1, len(values)):.1f} %"
    rest = [all(ok for name, ok in good.items() if name != kind) for kind, good in table]
    print(f"{len(table)} edits: changed {share([good[kind] for kind, good in table])}, rest stays {share(rest)}, "
          f"both {share([all(good.values()) for _, good in table])}")
    for name in edits.EDITED:
        told = [good[name] for kind, good in table if kind == name]
        kept = [good[name] for kind, good in table if kind != name]
        print(f"  {name}: changed {share(told)} of {len(told)}, stays {share(kept)} of {len(kept)}")
    if a.strip:
        strip(a, pairs[:4])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the pictures of README.md and docs/ again, with the program and the model inside it. Needs Pillow.

    scripts/pictures.py target/release/vidgen            # all of them, into docs/images
    scripts/pictures.py target/release/vidgen seasons    # one
"""

import pathlib
import subprocess
import sys
import tempfile

from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent
STORIES = ROOT / "benches" / "multiprompt" / "toyland"
BALL = "a red ball rolls to the right in a green meadow on a sunny day"


def run(vidgen: str, *words):
    subprocess.run([vidgen, *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def frames(folder: pathlib.Path) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def evenly(pictures: list, count: int) -> list:
    return [pictures[round(i * (len(pictures) - 1) / (count - 1))] for i in range(count)]


def grid(rows: list[list[Image.Image]], gap: tuple[int, int] = (2, 2), size=None, labels=()) -> Image.Image:
    """Pictures in rows, white between them; `labels` stand in front of the rows."""
    if size:
        rows = [[picture.resize(size, Image.Resampling.LANCZOS) for picture in row] for row in rows]
    width, height = rows[0][0].size
    left = 44 if labels else 0
    canvas = Image.new("RGB", (left + len(rows[0]) * (width + gap[0]) - gap[0], len(rows) * (height + gap[1]) - gap[1]), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            canvas.paste(picture, (left + x * (width + gap[0]), y * (height + gap[1])))
    for y, label in enumerate(labels):
        ImageDraw.Draw(canvas).text((2, y * (height + gap[1]) + height // 2 - 5), label, fill="black")
    return canvas


def seasons(vidgen: str, work: pathlib.Path) -> Image.Image:
    run(vidgen, "multi-prompt", ROOT / "prompts" / "seasons.txt", "--seed", 7, "-o", f"{work}/seasons/")
    return grid([frames(work / "seasons")[::18]])


def storyboards(vidgen: str, work: pathlib.Path) -> Image.Image:
    rows = []
    for file in ("colours.toml", "day-to-night.toml", "follow.yaml"):
        run(vidgen, "multi-prompt", "--script", ROOT / "prompts" / file, "-o", f"{work}/{file}/")
        rows.append(evenly(frames(work / file), 9))
    return grid(rows)


def transition(vidgen: str, work: pathlib.Path, story: str) -> Image.Image:
    """Twelve frames of a story, from the first to the last, made three ways and equally long."""
    made = {}
    for name, flag in {"ours": "attention", "blend": "blend", "isolated": "cut"}.items():
        length = ["--frames", len(made["ours"])] if made else []
        run(vidgen, "multi-prompt", STORIES / story, "--seed", 0, "--transition", flag, *length, "-o", f"{work}/{name}/")
        made[name] = frames(work / name)
    order = ["isolated", "blend", "ours"]
    return grid([evenly(made[name], 12) for name in order], size=(108, 72), labels=order)


def extend(vidgen: str, work: pathlib.Path) -> Image.Image:
    run(vidgen, "generate", BALL, "--seed", 7, "-o", work / "ball.mp4")
    run(vidgen, "extend", work / "ball.mp4", "--frames", 49, "-o", f"{work}/on/")
    run(vidgen, "extend", work / "ball.mp4", "a red ball rests in the snow", "--frames", 49, "-o", f"{work}/snow/")
    return grid([evenly(frames(work / name), 12) for name in ("on", "snow")], gap=(1, 4), size=(96, 64))


def editing(vidgen: str, work: pathlib.Path) -> Image.Image:
    run(vidgen, "generate", BALL, "--seed", 7, "-o", work / "ball.mp4")
    rows = []
    for i, swap in enumerate(("sunny day=>starry night", "green meadow=>desert", "red=>blue")):
        run(vidgen, "edit", work / "ball.mp4", "--swap", swap, "--side-by-side", "-o", f"{work}/{i}/")
        made = frames(work / str(i))
        rows.append([made[0], made[-1]])
    return grid(rows, gap=(8, 8))


def attention_maps(vidgen: str, work: pathlib.Path) -> Image.Image:
    run(vidgen, "generate", BALL, "--seed", 7, "-o", work / "ball.mp4")
    words = [part for word in ("red ball", "green meadow", "sunny day") for part in ("--words", word)]
    run(vidgen, "attn-map", work / "ball.mp4", *words, "--layers", 4, "-o", f"{work}/maps/")
    made = sorted((work / "maps").glob("**/*.png"))
    assert len(made) == 1, f"one picture of maps expected: {made}"
    return Image.open(made[0]).convert("RGB")


PICTURES = {
    "seasons": seasons,
    "storyboards": storyboards,
    "transition-place": lambda *a: transition(*a, "place/02-red-car.txt"),
    "transition-time": lambda *a: transition(*a, "time/01-orange-ball.txt"),
    "transition-subject": lambda *a: transition(*a, "subject/01-blue-car.txt"),
    "extend": extend,
    "editing": editing,
    "attention-maps": attention_maps,
}


def main():
    vidgen, *chosen = sys.argv[1:] or [str(ROOT / "target" / "release" / "vidgen")]
    for name in chosen or PICTURES:
        with tempfile.TemporaryDirectory() as work:
            picture = PICTURES[name](vidgen, pathlib.Path(work))
        path = ROOT / "docs" / "images" / f"{name}.png"
        picture.save(path, optimize=True)
        print(path.relative_to(ROOT), *picture.size)


if __name__ == "__main__":
    main()

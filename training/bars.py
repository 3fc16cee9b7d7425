#!/usr/bin/env python3
"""Measures a model against Toyland's bars with the program itself: captions -> `vidgen batch` -> `vidgen eval --judge toyland`.

    python bars.py --captions 32                                   # the model in the binary, its own steps and guidance
    python bars.py --model OUT --steps 6 8 10 16 --guidance 3 4 6  # a folder; every pair of the two

The captions are those of ../models/toyland-judge/captions.json, in their order; every second one names a combination that is
never trained on, and such are counted apart. Video n has seed n. What is finished is kept: the same command goes on where it
stopped, and more captions or settings add to what is there. Videos of other weights are never mixed in: vidgen batch sees
from their records that they are not what is asked for, and says so. Needs Python alone.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BARS = {"colour": 0.95, "shape": 0.85, "motion": 0.80, "place": 0.97, "time": 0.97, "present": 0.95}


def arguments():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--vidgen", default=os.path.join(HERE, "..", "target", "release", "vidgen"))
    p.add_argument("--model", default="toyland", help="as --model of vidgen (default: %(default)s)")
    p.add_argument("--captions", type=int, default=256, help="how many of the list (default: %(default)s, all)")
    p.add_argument("--steps", type=int, nargs="+", default=[0], help="0: the model's own")
    p.add_argument("--guidance", type=float, nargs="+", default=[0.0], help="0: the model's own")
    p.add_argument("--flags", default="", help="more flags of vidgen batch, as '--device cuda --scheduler dpmpp-2m-sde'")
    p.add_argument("--out", default=os.path.join(HERE, "..", "out", "bars"), help="where videos and results are kept")
    return p.parse_args()


def fail(message: str):
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def call(a, *words: str, text: str | None = None, keep: bool = True) -> str:
    try:
        done = subprocess.run([a.vidgen, *words], input=text, stdout=subprocess.PIPE if keep else subprocess.DEVNULL, text=True)
    except OSError as error:
        fail(f"{a.vidgen}: {error.strerror}; make build makes it, --vidgen names another")
    if done.returncode:
        raise SystemExit(done.returncode)  # the program has said why
    return done.stdout or ""


def measure(a, rows: list[dict], steps: int, guidance: float) -> list[dict]:
    """The row of each caption with what the judge says: questions that were answered right, and the share of frames with a
    subject."""
    settings = ({"steps": steps} if steps else {}) | ({"guidance_scale": guidance} if guidance else {})
    name = "-".join([f"{steps or 'own'}-steps", f"{guidance:g}-guidance" if guidance else "own-guidance",
                     *a.flags.replace("--", "").split()])
    folder = os.path.join(a.out, name.replace("/", "_"))
    os.makedirs(folder, exist_ok=True)
    jobs = [{"id": f"{i:03}", "command": "generate", "model": a.model, "prompt": row["caption"], "seed": i, **settings}
            for i, row in enumerate(rows)]
    call(a, "batch", "-", "--output-root", folder, "--manifest", "embed", *a.flags.split(),
         text="".join(json.dumps(job) + "\n" for job in jobs), keep=False)
    kept = os.path.join(folder, "judged.json")
    judged = {}
    if os.path.exists(kept):
        with open(kept) as file:
            judged = json.load(file)
    files = [os.path.join(folder, f"{i:03}.mp4") for i in range(len(rows))]
    time_of = lambda file: f"{os.path.getmtime(file):.3f}"
    new = [file for file in files if judged.get(os.path.basename(file), {}).get("time") != time_of(file)]
    if new:
        for video in json.loads(call(a, "eval", *new, "--judge", "toyland", "--json"))["videos"]:
            judged[os.path.basename(video["file"])] = {"time": time_of(video["file"]), "metrics": video["metrics"]}
        with open(kept + ".part", "w") as file:
            json.dump(judged, file, indent=1)
        os.replace(kept + ".part", kept)
    return [row | judged[os.path.basename(file)]["metrics"] for row, file in zip(rows, files)]


def means(rows: list[dict]) -> dict:
    key = lambda name: name if name == "present" else f"judge_{name}"
    return {name: sum(row[key(name)] for row in rows) / max(1, len(rows)) for name in BARS} | {"videos": len(rows)}


def line(label: list[str], values: dict) -> str:
    return f"{label[0]:>6} {label[1]:>8}  {label[2]:7}" + "".join(f"{100 * values[name]:9.1f}" for name in BARS)


def main():
    a = arguments()
    with open(os.path.join(HERE, "..", "models", "toyland-judge", "captions.json")) as file:
        rows = json.load(file)
    if not 0 < a.captions <= len(rows):
        fail(f"--captions {a.captions}: give 1 to {len(rows)}")
    rows = rows[:a.captions]
    a.out = os.path.join(a.out, os.path.basename(os.path.normpath(a.model)))
    results = []
    header = f"{'steps':>6} {'guidance':>8}  {'captions':7}" + "".join(f"{name:>9}" for name in BARS)
    for steps in a.steps:
        for guidance in a.guidance:
            found = measure(a, rows, steps, guidance)
            table = {"all": means(found)} | {kind: means([row for row in found if row["unseen"] == unseen])
                                             for kind, unseen in (("seen", False), ("unseen", True))}
            margin = min(table["all"][name] - bar for name, bar in BARS.items())
            results.append({"steps": steps or None, "guidance": guidance or None, "margin": round(margin, 4), **table})
            if len(results) == 1:
                print(header + f"   of {len(rows)} captions, in %")
            for kind, values in table.items():
                if values["videos"]:
                    first = kind == "all"
                    print(line([str(steps or "own") if first else "", f"{guidance or 'own'}" if first else "", kind], values), flush=True)
    print(line(["", "", "bar"], BARS))
    with open(os.path.join(a.out, f"bars-{len(rows)}.json"), "w") as file:
        json.dump({"model": a.model, "captions": len(rows), "flags": a.flags, "bars": BARS, "results": results}, file, indent=1)
    held = [result for result in results if result["margin"] >= 0]
    if held:
        best = min(held, key=lambda result: (result["steps"] or 0, -result["margin"]))
        print(f"fewest steps that keep the bars: {best['steps'] or 'the own'}, guidance {best['guidance'] or 'its own'}")
    else:
        best = max(results, key=lambda result: result["margin"])
        print(f"no setting keeps the bars; the nearest misses by {-100 * best['margin']:.1f} points: "
              f"{best['steps'] or 'own'} steps, guidance {best['guidance'] or 'own'}")


if __name__ == "__main__":
    main()

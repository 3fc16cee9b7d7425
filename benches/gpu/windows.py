"""Item 3: three prompts with DiTCtrl's sharing beside the reference's schedule, which runs every pair of windows as a batch.

The reference is the loop of tests/reference/ditctrl.py around diffusers' modules. All its steps cost the same, so it is
measured over the first of them and scaled (REFERENCE_STEPS, 10). Goal: at most 190 s, and 2.5 times as fast.
"""

import os

from bench import ROUNDS, SMOKE, STORY, WORK, Diffusers, Report, gigabytes, median, model, ratio, vidgen

STEPS, HEIGHT, WIDTH = (4, 32, 48) if SMOKE else (50, 480, 720)
OVERLAP, TRANSITIONS = (2, 1) if SMOKE else (9, 2)
LAYERS, SHARING = (range(1, 3), range(1, 3)) if SMOKE else (range(25, 30), range(2, 25))
UNTIL = int(os.environ.get("REFERENCE_STEPS") or (2 if SMOKE else 10))


def main():
    folder = model("cogvideox-2b")
    words = [word for prompt in STORY for word in ("-p", prompt)]
    words += ["--model", folder, "--dtype", "f16", "--steps", STEPS, "--size", f"{WIDTH}x{HEIGHT}", "--seed", 7]
    words += ["--overlap", OVERLAP, "--transition-windows", TRANSITIONS, "--scheduler", "ddim", "--blend", "repo"]
    words += ["--attn-proc", f"kv-share:layers={LAYERS[0]}-{LAYERS[-1]},steps={SHARING[0]}-{SHARING[-1]}"]
    words += ["--text-cache", "off", "-o", WORK / "windows.y4m"]
    child = Diffusers(folder, "float32" if SMOKE else "float16")
    what = dict(prompts=STORY, overlap=OVERLAP, transitions=TRANSITIONS, layers=[*LAYERS], steps=[*SHARING], of=STEPS,
                height=HEIGHT, width=WIDTH)
    child.ask("windows", **what, until=1)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(vidgen("multi-prompt", *words))
        measured = child.ask("windows", **what, until=UNTIL)
        theirs.append(dict(measured, seconds=measured["seconds"] * STEPS / UNTIL))
    for row in ours:
        row["seconds"] = row["phases"]["encode"] + row["phases"]["denoise"]  # the reference's loop decodes nothing
    report = Report(3, f"three prompts, {STEPS} steps {WIDTH}x{HEIGHT}, overlap {OVERLAP}, {TRANSITIONS} transition windows",
                    ["", "seconds", "peak GB", "vidgen is faster by"])
    report.row("vidgen", f"{median(ours):.2f}", gigabytes(median(ours, "peak")), "")
    report.row("reference schedule, diffusers' modules", f"{median(theirs):.2f}", gigabytes(median(theirs, "peak")),
               f"{ratio(theirs, ours):.2f}x")
    report.row("vidgen, whole process", f"{median(ours, 'whole'):.2f}", "", "")
    report.goal("at most 190 s", median(ours) <= 190)
    report.goal("2.5 times as fast as the reference schedule", ratio(theirs, ours) >= 2.5)
    report.note(f"seconds: text and denoising; the reference's measured over {UNTIL} of {STEPS} steps")
    report.raw = dict(vidgen=ours, reference=theirs)
    report.write()
    child.close()


if __name__ == "__main__":
    main()

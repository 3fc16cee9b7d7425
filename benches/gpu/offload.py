"""Item 6: CogVideoX-5B in bf16 within budgets, and memory that does not grow with the video.

Goals: with `--max-vram 6GB` and `12GB` the device has no more in use than that (its context apart); 1201 frames take no more than 145.
"""

from bench import CUDA, PROMPT, SMOKE, STORY, WORK, Report, gigabytes, model, vidgen

SIZE, FRAMES = ("48x32", 9) if SMOKE else ("720x480", 49)
LENGTHS = (57, 105) if SMOKE else (145, 1201)
# beside what vidgen knows of: the driver's context and the libraries' buffers
CONTEXT = 1.0e9


def main():
    folder = model("cogvideox-5b", "--no-text")
    base = ["--model", folder, "--dtype", "f32" if SMOKE else "bf16", "--seed", 7, "--size", SIZE, "-o", WORK / "offload.y4m"]
    report = Report(6, f"CogVideoX-5B, {SIZE}", ["run", "frames", "seconds a step", "peak GB"])
    budgets = [None] if SMOKE else [None, "12GB", "6GB"]
    cases = [("--offload none", ["--offload", "none"], None)]
    cases += [(f"--offload block --max-vram {b}" if b else "--offload block", ["--offload", "block", *(["--max-vram", b] if b else [])], b)
              for b in budgets]
    cases.append(("--offload disk", ["--offload", "disk"], None))
    steps = 2
    peaks = {}
    for name, words, budget in cases:
        run = vidgen("generate", PROMPT, *base, *words, "--steps", steps, "--frames", FRAMES)
        peaks[name] = run["peak"]
        report.row(name, FRAMES, f"{run['phases']['denoise'] / steps:.2f}", gigabytes(run["peak"]))
        report.raw[name] = run
        if budget:
            limit = float(budget.removesuffix("GB")) * 1e9
            report.goal(f"{name} keeps to it", run["peak"] <= limit + CONTEXT)
    story = [word for prompt in STORY for word in ("-p", prompt)]
    long = []
    for frames in LENGTHS:
        run = vidgen("multi-prompt", *story, *base, "--offload", "block", "--steps", 1, "--frames", frames)
        long.append(run["peak"])
        report.row("three prompts, --offload block", frames, f"{run['phases']['denoise']:.2f}", gigabytes(run["peak"]))
        report.raw[f"{frames} frames"] = run
    report.goal(f"{LENGTHS[1]} frames take at most a twentieth more memory than {LENGTHS[0]}", long[1] <= 1.05 * long[0])
    report.goal("blocks from the host's memory: at most a tenth slower than resident ones",
                report.raw["--offload block"]["phases"]["denoise"] <= 1.1 * report.raw["--offload none"]["phases"]["denoise"])
    report.note("peak: " + ("what the device had in use" if CUDA else "of the process, host copies too"))
    report.write()


if __name__ == "__main__":
    main()

"""Item 5: where the time goes. vidgen under NVIDIA's `nsys`, kernel by kernel; diffusers under PyTorch's profiler."""

import csv
import io
import shutil
import subprocess

from bench import CUDA, PROMPT, SMOKE, WORK, Diffusers, Report, model, vidgen

WHAT = dict(steps=1, frames=9, height=32, width=48) if SMOKE else dict(steps=3, frames=49, height=480, width=720)
TOP = 15


def ours(folder):
    """Rows of (name, calls, seconds, share); none where nsys or a GPU is missing."""
    if not CUDA or not shutil.which("nsys"):
        return []
    path = WORK / "kernels"
    nsys = ["nsys", "profile", "--trace=cuda", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true", f"--output={path}"]
    vidgen("generate", PROMPT, "--model", folder, "--dtype", "f16", "--steps", WHAT["steps"], "--frames", WHAT["frames"], "--seed", 7,
           "--size", f"{WHAT['width']}x{WHAT['height']}", "-o", WORK / "kernels.y4m", wrap=nsys)
    stats = ["nsys", "stats", "--report=cuda_gpu_kern_sum", "--format=csv", "--quiet", "--force-export=true", f"{path}.nsys-rep"]
    text = subprocess.run(stats, check=True, capture_output=True, text=True).stdout
    table = csv.DictReader(io.StringIO(text[text.index("Time (%)"):]))
    return [(r["Name"], int(r["Instances"]), int(r["Total Time (ns)"]) / 1e9, float(r["Time (%)"]) / 100) for r in table][:TOP]


def main():
    folder = model("cogvideox-2b")
    report = Report(5, f"kernels of {WHAT['steps']} steps and a decode of CogVideoX-2B", ["program", "kernel", "calls", "seconds", "share"])
    rows = {"vidgen": ours(folder)}
    child = Diffusers(folder, "float32" if SMOKE else "float16")
    child.ask("clip", prompt=PROMPT, **WHAT)
    theirs = child.ask("profile", prompt=PROMPT, top=TOP, **WHAT)["kernels"]
    child.close()
    rows["diffusers"] = [(r["name"], r["calls"], r["seconds"], r["share"]) for r in theirs]
    for program, all_of in rows.items():
        for name, calls, seconds, share in all_of:
            report.row(program, name.replace("|", "\\|")[:90], calls, f"{seconds:.4f}", f"{share:.1%}")
    if not rows["vidgen"]:
        report.note("vidgen was not profiled: that needs a GPU and nsys (NVIDIA Nsight Systems) in PATH")
    report.raw = rows
    report.write()


if __name__ == "__main__":
    main()

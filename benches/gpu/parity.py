"""Item 1: the same latents on the device as on the CPU, small models and one full layer of 2B, in f32 and in bf16.

One step without guidance, so that what differs is one pass through the network, not what steps and guidance make of it."""

import subprocess
import sys

import bench
from bench import DEVICE, ROOT, SMOKE, WORK, Report, model, vidgen
from safetensors.torch import load_file

LIMITS = {"f32": 1e-4, "bf16": 2e-2}


def tiny(kind):
    folder = WORK / kind
    if not (folder / "model_index.json").exists():
        words = [sys.executable, ROOT / "tests/reference/tiny.py", "save", kind, folder]
        subprocess.run(words, check=True, stdout=sys.stderr)
    return folder


def latents(folder, words, device, dtype):
    path = WORK / f"{device.replace(':', '')}-{dtype}.safetensors"
    vidgen("generate", bench.PROMPT, "--model", folder, *words, "--steps", 1, "--guidance-scale", 1, "--seed", 7, "--dtype", dtype, "--text-cache", "off",
           "--save-latents", path, "-o", WORK / "parity.y4m", device=device)
    return load_file(path)["latents"].double()


def main():
    report = Report(1, f"parity of {DEVICE} with the CPU in f32", ["model", "numbers", "relative L2", "limit"])
    small = ["--frames", 9, "--size", "64x48"]
    cases = [(kind, tiny(kind), small) for kind in ("tiny-2b", "tiny-5b", "tiny-1.5")]
    full = small if SMOKE else ["--frames", 49, "--size", "720x480"]
    cases.append(("one layer of 2B", model("cogvideox-2b", "--layers", "1"), full))
    for name, folder, words in cases:
        want = latents(folder, words, "cpu", "f32")
        for dtype, limit in LIMITS.items():
            got = latents(folder, words, DEVICE, dtype)
            distance = float((got - want).norm() / want.norm())
            report.row(name, dtype, f"{distance:.2e}", f"{limit:.0e}")
            report.raw[f"{name} {dtype}"] = distance
            report.goal(f"{name} in {dtype} within {limit:.0e}", distance <= limit)
    report.write()


if __name__ == "__main__":
    main()

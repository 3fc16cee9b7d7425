"""Golden of the judge: what the PyTorch module of training/judge.py says of two videos, with the shipped weights.

    python tests/reference/judge.py          # writes tests/golden/judge.safetensors; again after each training of the judge

`clip` is a rendered scene at a quarter of the size (stored, as bytes: 20 frames of 24x36), so that resizing and two
windows are in it. `pattern` is 9 frames of 96x144 by a formula that the Rust test repeats.
"""

import os
import random
import sys

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(ROOT, "training"))

from judge import load  # noqa: E402
from render import render  # noqa: E402
from world import ATTRIBUTES, HEIGHT, WIDTH, sample  # noqa: E402

OUTPUTS = [*ATTRIBUTES, "box", "presence", "embedding"]


def pattern() -> torch.Tensor:
    """[9, H, W, 3] bytes."""
    t, i = torch.arange(9).view(9, 1), torch.arange(HEIGHT * WIDTH * 3).view(1, -1)
    return ((t * 31 + i * 7 + i // 1000) % 251).to(torch.uint8).view(9, HEIGHT, WIDTH, 3)


def main():
    judge = load(os.path.join(ROOT, "models", "toyland-judge"))
    clip = render([sample(random.Random(4))], 20, 24, 36).video[0].permute(1, 2, 3, 0)  # [T, H, W, 3]
    clip = ((clip + 1) * 127.5).round().to(torch.uint8).contiguous()
    tensors = {"clip/frames": clip}
    for name, frames in (("clip", clip), ("pattern", pattern())):
        # in float64: where an odd picture makes the softmax sharp, float32 itself is some 1e-5 off
        out = judge.double().judge(frames.permute(0, 3, 1, 2).double() / 127.5 - 1)
        tensors |= {f"{name}/{key}": out[key].float().contiguous() for key in OUTPUTS}
        print(name, {key: values[int(out[key].argmax())] for key, values in ATTRIBUTES.items()})
    save_file(tensors, os.path.join(ROOT, "tests", "golden", "judge.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

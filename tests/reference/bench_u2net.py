#!/usr/bin/env python3
"""Speed of `vidgen mask` beside onnxruntime on the same network and two cores, in turns: both meet whatever else the machine does.

    python tests/reference/bench_u2net.py U2NETP.onnx target/release/vidgen [ROUNDS]

Prints the median seconds of a 320 x 320 picture for each, and their ratio. vidgen's time is that of the whole mask (preparing,
network, resizing), onnxruntime's that of the network alone. Needs numpy, onnxruntime and pillow.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

THREADS = 2
PICTURES = 8


def main():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    random = np.random.default_rng(7)
    blocks = random.integers(0, 256, (PICTURES, 10, 10, 3), dtype=np.uint8)
    pictures = [Image.fromarray(block).resize((320, 320), Image.Resampling.BICUBIC) for block in blocks]
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, picture in enumerate(pictures):
            picture.save(Path(folder) / f"{index:03}.png")
        for _ in range(int(sys.argv[3]) if len(sys.argv) > 3 else 5):
            for picture in pictures:
                x = (np.array(picture, dtype=np.float32) / 255).transpose(2, 0, 1)[None]
                begun = time.perf_counter()
                session.run(None, {name: x})
                theirs.append(time.perf_counter() - begun)
            command = [sys.argv[2], "mask", folder, "--json", "--threads", str(THREADS), "--progress", "none"]
            ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["seconds_per_frame"])
    onnx, vidgen = statistics.median(theirs), statistics.median(ours)
    print(f"onnxruntime {onnx * 1000:.0f} ms, vidgen {vidgen * 1000:.0f} ms: {onnx / vidgen:.2f} times onnxruntime's speed")


if __name__ == "__main__":
    main()

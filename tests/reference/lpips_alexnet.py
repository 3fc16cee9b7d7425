"""Goldens of LPIPS: what PyPI's lpips 0.1.4 says of pairs of pictures, on small random weights and on the published ones.

    python tests/reference/lpips_alexnet.py LPIPS-ALEXNET.safetensors    # the file that scripts/metrics makes

Writes tests/golden/lpips.safetensors: a network of few channels with its distances (`small.*`), and the distances of the real one
(`real.distances`), which a test compares where its file is at hand. The pictures follow from a formula that the Rust test repeats.
Needs torch, torchvision, lpips 0.1.4, safetensors.
"""

import sys
from pathlib import Path

import lpips
import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = [(64, 64), (97, 61), (144, 96)]  # width, height
WIDTHS = [6, 8, 10, 7, 5]


def picture(width: int, height: int, kind: str) -> torch.Tensor:
    """[1, 3, H, W] in -1..1 of bytes."""
    i = torch.arange(width * height * 3)
    x, y, c = i // 3 % width, i // 3 // width, i % 3
    byte = (x * 5 + y * 3 * (c + 1) + (x * y) // 7 + c * 60) % 256
    if kind == "other":
        byte = (x * 4 + y * 3 * (c + 1) + ((x + 3) * y) // 6 + c * 50) % 256
    if kind == "noisy":
        byte = (byte + i * 7919 % 37 - 18).clamp(0, 255)
    return (byte.view(height, width, 3).permute(2, 0, 1)[None].float() / 127.5) - 1


def network(weights: dict[str, torch.Tensor]) -> lpips.LPIPS:
    """lpips's own modules; their convolutions are replaced, so that few channels will do."""
    net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    convolutions = [(stage, i) for stage in ["slice1", "slice2", "slice3", "slice4", "slice5"]
                    for i, layer in getattr(net.net, stage)._modules.items() if isinstance(layer, torch.nn.Conv2d)]
    forms = [(11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
    for index, ((stage, at), (kernel, stride, padding)) in enumerate(zip(convolutions, forms)):
        weight = weights[f"conv{index}.weight"]
        layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, padding)
        layer.weight.data, layer.bias.data = weight, weights[f"conv{index}.bias"]
        getattr(net.net, stage)._modules[at] = layer
        head = torch.nn.Conv2d(weight.shape[0], 1, 1, bias=False)
        head.weight.data = weights[f"lin{index}.weight"]
        net.lins[index].model[-1] = head
    net.chns = [weights[f"conv{index}.weight"].shape[0] for index in range(5)]
    return net


@torch.no_grad()
def distances(net: lpips.LPIPS) -> torch.Tensor:
    pairs = []
    for width, height in SIZES:
        a, other, noisy = (picture(width, height, kind) for kind in ("plain", "other", "noisy"))
        pairs += [net(a, b).item() for b in (other, torch.roll(a, 1, 3), noisy)]
    return torch.tensor(pairs)


def main():
    torch.manual_seed(5)
    small, channels = {}, 3
    for index, (width, kernel) in enumerate(zip(WIDTHS, [11, 5, 3, 3, 3])):
        small[f"conv{index}.weight"] = torch.randn(width, channels, kernel, kernel) / (channels * kernel**2) ** 0.5 * 1.5
        small[f"conv{index}.bias"] = torch.randn(width) * 0.1
        small[f"lin{index}.weight"] = torch.rand(1, width, 1, 1)
        channels = width
    golden = {f"small.{name}": tensor.contiguous() for name, tensor in small.items()}
    golden["small.distances"] = distances(network(small))
    real = network(load_file(sys.argv[1]))
    golden["real.distances"] = distances(real)
    published = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    heads = [getattr(published, f"lin{index}").model[-1].weight for index in range(5)]
    assert all((head == lin.model[-1].weight).all() for head, lin in zip(heads, real.lins)), "heads are not lpips 0.1.4's"
    print(golden["small.distances"], golden["real.distances"])
    save_file(golden, GOLDEN / "lpips.safetensors")


if __name__ == "__main__":
    main()

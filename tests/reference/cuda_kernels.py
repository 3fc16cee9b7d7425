"""Runs the source of the CUDA kernels (crates/nn/src/cuda/kernels/*.py) on the CPU and compares it with torch; needs no GPU.

    python tests/reference/cuda_kernels.py

Triton's interpreter executes the very functions that are compiled to the PTX in the repository, block by block, with the block
sizes of the PTX files and at sizes that leave ragged ends; also with the strides in which a network hands them over. Writes
nothing. What it cannot check is the compiler and the launch: `make cuda-check` reads the PTX, the tests of crates/nn/src/cuda read the
launches, and `vidgen doctor` compares on the GPU.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import math
import pathlib
import re
import sys
import tarfile

import numpy as np
import torch
import torch.nn.functional as F
from triton.runtime import interpreter

KERNELS = pathlib.Path(__file__).parents[2] / "crates/nn/src/cuda/kernels"
sys.path.insert(0, str(KERNELS))
import attention  # noqa: E402
import group_norm  # noqa: E402
import rows  # noqa: E402

torch.manual_seed(0)
LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def bf16_dot(dot):
    """The interpreter keeps bf16 as 16-bit integers and multiplies those in `dot`: here they are widened first."""

    def widened(x):
        if x.data.dtype != np.uint16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

    return lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


interpreter.InterpreterBuilder.create_dot = bf16_dot(interpreter.InterpreterBuilder.create_dot)


def truth(access):
    """The interpreter widens `mask & (flag != 0)` where `flag` is an argument; its loads want truth values all the same."""

    def with_truth(self, pointers, mask, *rest):
        mask.data = mask.data.astype(bool)
        return access(self, pointers, mask, *rest)

    return with_truth


interpreter.InterpreterBuilder.create_masked_load = truth(interpreter.InterpreterBuilder.create_masked_load)


def blocks(name: str) -> dict[str, int]:
    """The block sizes of a PTX file, from its first line."""
    with tarfile.open(KERNELS / "ptx.tar.gz") as archive, archive.extractfile(f"{name}.ptx") as file:
        return {key: int(value) for key, value in re.findall(r"([A-Z]\w*)=(\d+)", file.readline().decode())}


def close(what: str, got: torch.Tensor, want: torch.Tensor, limit: float) -> None:
    distance = ((got.double() - want.double()).norm() / want.double().norm()).item()
    print(f"{what}: {distance:.1e}", flush=True)
    assert got.shape == want.shape and distance <= limit, f"{what}: relative L2 {distance:.1e} > {limit:.0e}"


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def check_attention(dtype, head, arch, b, n, lq, lk, dim):
    sizes = blocks(f"attention_{head}_{NAMES[dtype]}.{arch}")
    # queries, keys and values as one projection leaves them: [B, L, 3, N, D], heads and tokens exchanged by strides
    q = torch.randn(b, lq, 3, n, dim, dtype=dtype)[:, :, 0].transpose(1, 2)
    kv = torch.randn(b, lk, 3, n, dim, dtype=dtype)
    k, v = kv[:, :, 1].transpose(1, 2), kv[:, :, 2].transpose(1, 2)
    k = k[:1].expand(b, n, lk, dim) if b > 1 else k  # keys that all rows share: a batch stride of zero
    scale = 2.0 / math.sqrt(dim)
    out, sums = torch.zeros(b, lq, n, dim, dtype=dtype), torch.zeros(b, n, lq)
    strides = [x.stride(i) for x in (q, k, v) for i in range(3)]
    attention.attention[(cdiv(lq, sizes["BLOCK_M"]), b * n)](
        q, k, v, out, sums, scale / math.log(2), n, lq, lk, dim, *strides, **sizes
    )
    scores = q.float() @ k.float().transpose(2, 3) * scale
    what = f"attention_{head}_{NAMES[dtype]}.{arch} {b}x{n}x{lq} on {lk}, {dim}"
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale)
    close(what, out.transpose(1, 2).float(), want, LIMITS[dtype])
    close(what + " log-sum-exp", sums, scores.logsumexp(-1), 1e-5)

    sizes = blocks(f"probe_{NAMES[dtype]}.sm_80")
    columns = torch.randint(0, lk, (min(lk, 21),), dtype=torch.int32).to(torch.uint32)
    out = torch.zeros(b, n, lq, len(columns))
    grid = (cdiv(lq, sizes["BLOCK_M"]), cdiv(len(columns), sizes["BLOCK_J"]), b * n)
    attention.probe[grid](
        q, k, columns, sums, out, scale, n, lq, lk, len(columns), dim, *strides[:6], **sizes
    )
    close(f"probe {what}", out, scores.softmax(-1)[..., columns.long()], 1e-4)


def check_rows(dtype, b, length, dim, first, weighted, biased, parts):
    what = f"{b}x{length}x{dim} {NAMES[dtype]}, {first} first, {parts} parts"
    x, residual = torch.randn(2, b, length, dim, dtype=dtype).add(2.0).unbind(0)
    weight, bias = torch.randn(2, dim, dtype=dtype).unbind(0)
    maps = torch.randn(b, 4 * dim, dtype=dtype).chunk(4, 1)  # with a batch stride of 4 D
    y = F.layer_norm(x.float(), (dim,), weight.float() if weighted else None, bias.float() if biased else None, 1e-5)
    shift, scale, gate = torch.zeros(3, b, length, dim).unbind(0)
    for part, (start, end) in enumerate([(0, first), (first, length)]):
        if part < parts:
            shift[:, start:end] = maps[2 * part].float()[:, None]
            scale[:, start:end] = maps[2 * part + 1].float()[:, None]
        gate[:, start:end] = maps[part].float()[:, None]
    out = torch.zeros_like(x)
    sizes = blocks(f"layer_norm_modulate_{NAMES[dtype]}.sm_80")
    rows.layer_norm_modulate[(b * length,)](
        x, weight, bias, *maps, out, length, dim, first, parts, int(weighted), int(biased), *[4 * dim] * 4, 1e-5, **sizes
    )
    close(f"layer_norm_modulate {what}", out.float(), y * (1 + scale) + shift, LIMITS[dtype])
    sizes = blocks(f"gate_residual_{NAMES[dtype]}.sm_80")
    rows.gate_residual[(b * length, cdiv(dim, sizes["BLOCK"]))](
        residual, x, maps[0], maps[1], out, length, dim, first, 4 * dim, 4 * dim, **sizes
    )
    close(f"gate_residual {what}", out.float(), residual.float() + gate * x.float(), LIMITS[dtype])
    sizes = blocks(f"bias_gelu_{NAMES[dtype]}.sm_80")
    rows.bias_gelu[(b * length, cdiv(dim, sizes["BLOCK"]))](x, bias, out, dim, **sizes)
    want = F.gelu(x.float() + bias.float(), approximate="tanh")
    close(f"bias_gelu {what}", out.float(), want, LIMITS[dtype])
    rows.bias_gelu[(b * length, cdiv(dim, sizes["BLOCK"]))](x * 12 - 24, bias, out, dim, **sizes)
    close("bias_gelu far out", out.float(), F.gelu((x * 12 - 24).float() + bias.float(), approximate="tanh"), LIMITS[dtype])


def check_heads(dtype, half, b, n, length, dim, text, rotate):
    x = torch.randn(b, length, 3, n, dim, dtype=dtype)[:, :, 1].transpose(1, 2)
    weight, bias = torch.randn(2, dim, dtype=dtype).unbind(0)
    cos, sin = torch.randn(2, max(length - text, 1), dim // 2).unbind(0)
    out = torch.zeros(b, length, n, dim, dtype=dtype)
    sizes = blocks(f"qk_norm_rope_{2 * half}_{NAMES[dtype]}.sm_80")
    rows.qk_norm_rope[(cdiv(b * n * length, sizes["ROWS"]),)](
        x, weight, bias, cos, sin, out, b * length * n, n, length, dim, text, int(rotate),
        x.stride(0), x.stride(1), x.stride(2), 1e-6, **sizes,
    )  # fmt: skip
    want = F.layer_norm(x.float(), (dim,), weight.float(), bias.float(), 1e-6)
    if rotate:
        even, odd = want[:, :, text:, 0::2], want[:, :, text:, 1::2]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        want = torch.cat([want[:, :, :text], turned[:, :, : length - text]], 2)
    what = f"qk_norm_rope_{2 * half} {b}x{n}x{length}x{dim} {NAMES[dtype]}, {text} of text, rotate {rotate}"
    close(what, out.transpose(1, 2).float(), want, LIMITS[dtype])


def check_group(dtype, t, c, h, w, groups, silu, times):
    x = torch.randn(t, c, h, w, dtype=dtype).add(3.0)
    weight, bias = torch.randn(2, c, dtype=dtype).unbind(0)
    size = c // groups * h * w
    sizes = blocks(f"group_moments_{NAMES[dtype]}.sm_80")
    pieces = cdiv(size, sizes["PIECE"])
    moments, totals = torch.zeros(groups, t * pieces, 2), torch.zeros(groups, 2)
    group_norm.group_moments[(pieces, t, groups)](x, moments, size, pieces, groups, **sizes)
    group_norm.group_totals[(groups,)](moments, totals, size, pieces, t, 1e-6, **blocks("group_totals.sm_80"))
    shape = (2, c, h // times, w // times) if times else (1, 1, 1, 1)
    scale, shift = torch.randn(2, *shape, dtype=dtype).unbind(0)
    frames = torch.randint(0, 2, (t,), dtype=torch.int32).to(torch.uint32)
    out = torch.zeros_like(x)
    sizes = blocks(f"group_apply_{NAMES[dtype]}.sm_80")
    group_norm.group_apply[(t * c, cdiv(h * w, sizes["BLOCK"]))](
        x, totals, weight, bias, scale, shift, frames, out, c, c // groups, h * w, h, w, shape[2], shape[3], int(silu),
        int(times > 0), **sizes,
    )  # fmt: skip
    # the autoencoder's norm sees [1, C, T, H, W]
    want = F.group_norm(x.float().transpose(0, 1)[None], groups, weight.float(), bias.float(), 1e-6)[0].transpose(0, 1)
    if times:
        grown = [F.interpolate(m.float(), scale_factor=times, mode="nearest")[frames.long()] for m in (scale, shift)]
        want = want * grown[0] + grown[1]
    want = F.silu(want) if silu else want
    what = f"group norm {t}x{c}x{h}x{w} in {groups} {NAMES[dtype]}, silu {silu}, times {times}"
    close(what, out.float(), want, LIMITS[dtype])


def main() -> None:
    for dtype in (torch.float16, torch.bfloat16) if "rows" not in sys.argv else ():
        for head, dims in {64: (64, 40), 80: (80, 72), 96: (96,), 128: (128, 104), 160: (160, 136)}.items():
            for dim in dims:
                check_attention(dtype, head, "sm_80", 1, 2, 150, 201, dim)
        for head in (64, 128):
            check_attention(dtype, head, "sm_90a", 2, 1, 130, 300, head)
    check_attention(torch.float16, 64, "sm_80", 1, 1, 3, 5, 8)
    check_attention(torch.float16, 64, "sm_80", 2, 3, 128, 128, 64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        check_rows(dtype, 2, 5, 192, 2, True, True, 2)
        check_rows(dtype, 1, 3, 1920, 0, False, False, 2)
        check_rows(dtype, 1, 2, 48, 2, True, False, 1)
        check_rows(dtype, 2, 2, 1024, 1, False, True, 0)
        check_heads(dtype, 32, 2, 3, 7, 64, 2, True)
        check_heads(dtype, 32, 1, 2, 5, 24, 5, True)
        check_heads(dtype, 64, 1, 2, 9, 128, 0, True)
        check_heads(dtype, 64, 2, 1, 4, 96, 1, False)
        check_group(dtype, 2, 8, 6, 8, 4, True, 2)
        check_group(dtype, 1, 4, 72, 160, 2, False, 0)
        check_group(dtype, 3, 8, 16, 24, 1, True, 8)
        check_group(dtype, 2, 8, 5, 9, 2, True, 0)
    print("all equal")


main()

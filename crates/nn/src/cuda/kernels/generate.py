#!/usr/bin/env python3
"""Compiles the kernels beside this file to PTX, without a GPU:

    pip install triton==3.9.0 numpy && python3 crates/nn/src/cuda/kernels/generate.py [--check] [PART OF A NAME]

They go into `ptx.tar.gz`; those that are not compiled stay as they are in it. With --check nothing is written: the files must be
what their source compiles to.

A file is `KERNEL[_HEAD]_DTYPE.sm_80.ptx` or `.sm_90a.ptx`, in the order of the names and without a date. Its first line says what a launch needs to know and the text does not:
its name, the number of warps, the dynamic shared memory in bytes, and the block sizes. PTX 8.0 is what drivers from 525 (CUDA 12.0) on
read; sm_80 text runs on every GPU from Ampere on, sm_90a text on Hopper alone.
"""

import gzip
import io
import pathlib
import re
import sys
import tarfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import attention  # noqa: E402
import group_norm  # noqa: E402
import rows  # noqa: E402

ARCHIVE = HERE / "ptx.tar.gz"
PTX_VERSION = 80
SHORT = {"fp16": "f16", "bf16": "bf16", "fp32": "f32"}

# head: (D0, D1), then per GPU: BLOCK_M, BLOCK_N, warps, stages. Shared memory stays below the 99 KiB of consumer GPUs on
# sm_80 and below the 227 KiB of Hopper on sm_90a.
HEADS = {
    64: ((64, 0), {80: (128, 64, 4, 3), 90: (128, 128, 8, 2)}),
    80: ((64, 16), {80: (128, 32, 8, 3)}),
    96: ((64, 32), {80: (128, 32, 8, 3)}),
    128: ((128, 0), {80: (128, 32, 8, 3), 90: (128, 128, 8, 2)}),
    160: ((128, 32), {80: (128, 32, 8, 3)}),
}

# The alignment in numbers or bytes that a launch guarantees; see `launch.rs`.
POINTER, EIGHT = 16, 8


def compile_one(name, kernel, types, constants, divisible, capability, warps, stages):
    """`types`: the arguments in order, `*T` for tensors; `divisible`: multiples that integers are guaranteed to be."""
    names = kernel.arg_names
    signature = {arg: types.get(arg, "constexpr") for arg in names}
    assert set(names) == set(types) | set(constants), set(names) ^ (set(types) | set(constants))
    attrs = {}
    for i, arg in enumerate(names):
        multiple = POINTER if signature[arg].startswith("*") else divisible.get(arg)
        if multiple:
            attrs[(i,)] = [["tt.divisibility", multiple]]
    options = {"num_warps": warps, "num_stages": stages, "ptx_version": PTX_VERSION, "enable_fp_fusion": True}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attrs), target=GPUTarget("cuda", capability, 32), options=options
    )
    arch = "sm_90a" if capability == 90 else f"sm_{capability}"
    head = f"// vidgen: entry={kernel.__name__} warps={warps} shared={compiled.metadata.shared}"
    head += "".join(f" {key}={value}" for key, value in constants.items())
    return f"{name}.{arch}.ptx", head + "\n" + stripped(compiled.asm["ptx"]), compiled.metadata.shared


def stripped(ptx: str) -> str:
    """Without debug information, comments and indentation."""
    ptx = ptx.split("\t.section\t.debug")[0]
    lines = [re.sub(r"\s*//.*$", "", line).rstrip() for line in ptx.splitlines()]
    return "\n".join(line.strip() for line in lines if line and not re.match(r"\s*\.(loc|file)\b", line)) + "\n"


def jobs():
    strides = ("qb", "qn", "ql", "kb", "kn", "kl", "vb", "vn", "vl")
    for dtype in ("fp16", "bf16"):
        steps = {arg: "i32" if arg[1] == "l" else "i64" for arg in strides}  # rows of a head lie within 2^31 numbers
        for head, ((d0, d1), tiles) in HEADS.items():
            types = {arg: f"*{dtype}" for arg in ("q", "k", "v", "out")} | {"sums": "*fp32", "scale_log2": "fp32"}
            types |= {arg: "i32" for arg in ("heads", "queries", "keys", "dim")} | steps
            for capability, (m, n, warps, stages) in tiles.items():
                constants = {"BLOCK_M": m, "BLOCK_N": n, "D0": d0, "D1": d1}
                yield (
                    f"attention_{head}_{SHORT[dtype]}", attention.attention, types, constants,
                    {arg: EIGHT for arg in strides + ("dim",)}, capability, warps, stages,
                )  # fmt: skip
        types = {"q": f"*{dtype}", "k": f"*{dtype}", "columns": "*u32", "sums": "*fp32", "out": "*fp32", "scale": "fp32"}
        types |= {arg: "i32" for arg in ("heads", "queries", "keys", "count", "dim")} | {arg: steps[arg] for arg in strides[:6]}
        constants = {"BLOCK_M": 64, "BLOCK_J": 16, "BLOCK_D": 32}
        multiples = {arg: EIGHT for arg in strides[:6] + ("dim",)}
        yield f"probe_{SHORT[dtype]}", attention.probe, types, constants, multiples, 80, 4, 2
    for dtype in ("fp16", "bf16", "fp32"):
        t, f = f"*{dtype}", "*fp32"

        def job(kernel, types, constants, divisible, warps=4, t=dtype):
            name = f"{kernel.__name__}_{SHORT[t]}"
            return name, kernel, types, constants, {arg: EIGHT for arg in divisible}, 80, warps, 1

        pointers = {arg: t for arg in ("x", "weight", "bias", "shift0", "scale0", "shift1", "scale1", "out")}
        ints = {arg: "i32" for arg in ("length", "dim", "first", "parts", "weighted", "biased")}
        steps = {arg: "i64" for arg in ("shift0_b", "scale0_b", "shift1_b", "scale1_b")}
        yield job(
            rows.layer_norm_modulate, pointers | ints | steps | {"eps": "fp32"}, {"BLOCK": 1024}, ("dim", *steps)
        )
        pointers = {arg: t for arg in ("residual", "x", "gate0", "gate1", "out")}
        ints = {arg: "i32" for arg in ("length", "dim", "first")} | {"gate0_b": "i64", "gate1_b": "i64"}
        yield job(rows.gate_residual, pointers | ints, {"BLOCK": 1024}, ("dim", "gate0_b", "gate1_b"))
        yield job(rows.bias_gelu, {"x": t, "bias": t, "out": t, "dim": "i32"}, {"BLOCK": 1024}, ("dim",))
        pointers = {"x": t, "weight": t, "bias": t, "cos": f, "sin": f, "out": t}
        ints = {"rows": "i64"} | {arg: "i32" for arg in ("heads", "length", "dim", "text", "rotate")}
        steps = {arg: "i64" for arg in ("xb", "xn", "xl")}
        for half in (32, 64):
            name, *rest = job(
                rows.qk_norm_rope, pointers | ints | steps | {"eps": "fp32"}, {"ROWS": 8, "HALF": half}, ("dim", *steps)
            )
            yield name.replace("rope_", f"rope_{2 * half}_"), *rest
        sizes = {arg: "i32" for arg in ("size", "pieces", "groups")}
        yield job(
            group_norm.group_moments, {"x": t, "moments": f} | sizes, {"PIECE": 16384, "BLOCK": 2048}, ("size",)
        )
        pointers = {"x": t, "totals": f, "weight": t, "bias": t, "scale": t, "shift": t, "frames": "*u32", "out": t}
        ints = ("channels", "per_group", "size", "height", "width", "rows", "columns", "silu", "condition")
        yield job(group_norm.group_apply, pointers | {arg: "i32" for arg in ints}, {"BLOCK": 1024}, ("size",))
        name, *rest = job(group_norm.group_apply, pointers | {arg: "i32" for arg in ints}, {"BLOCK": 1024}, ())
        yield name.replace("apply_", "apply_odd_"), *rest
    types = {"moments": "*fp32", "totals": "*fp32", "size": "i32", "pieces": "i32", "frames": "i32", "eps": "fp32"}
    yield "group_totals", group_norm.group_totals, types, {"PIECE": 16384, "BLOCK": 1024}, {}, 80, 4, 1


def kept() -> dict[str, str]:
    if not ARCHIVE.exists():
        return {}
    with tarfile.open(ARCHIVE) as archive:
        return {file.name: archive.extractfile(file).read().decode() for file in archive}


def keep(files: dict[str, str]) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            entry, text = tarfile.TarInfo(name), files[name].encode()  # no date, no owner
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    ARCHIVE.write_bytes(gzip.compress(raw.getvalue(), 9, mtime=0))


def main() -> None:
    if triton.__version__ != "3.9.0":
        print(f"generate: the files in the repository are of triton 3.9.0, this is {triton.__version__}", file=sys.stderr)
    words = [word for word in sys.argv[1:] if word != "--check"]
    files, found = kept(), {}
    for job in jobs():
        if not words or words[0] in job[0]:
            name, text, shared = compile_one(*job)
            found[name] = text
            print(f"{name}: {len(text)} bytes, {shared} bytes of shared memory", flush=True)
    if "--check" not in sys.argv:
        # a whole run also drops what no job makes any more
        keep(files | found if words else found)
        return
    other = [name for name in found if files.get(name) != found[name]]
    if not words:
        other += [name for name in files if name not in found]
    if other:
        sys.exit(f"generate: not what the source compiles to: {' '.join(other)}")


main()

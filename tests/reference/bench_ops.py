"""Speed of vidgen's operations beside PyTorch's, in turns on the same inputs' sizes; prints a table.

    cargo bench -p vidgen-nn --no-run          # prints the path of the program
    python tests/reference/bench_ops.py target/.../nn-... [--threads 2] [--only conv] [--rounds 9] [--json FILE]

Each case runs alternately in both programs, after a pause that lets the other one's threads fall asleep; short ones for some 50 ms
in a row, of which the least call counts: threads come to processors of their own only after a while. The figures are medians, the
ratio is PyTorch's time over vidgen's (above 1: vidgen is faster). On a machine that others use at the same time, `--threads 1
--processor-time` compares what both compute, not how long they wait.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("program")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--only", default="")
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--json")
parser.add_argument("--processor-time", action="store_true")
options = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options.threads)
os.environ["CANDLE_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402  (after the number of threads is set)
import torch.nn.functional as F  # noqa: E402

torch.set_num_threads(options.threads)
torch.set_grad_enabled(False)


# Each maker gives PyTorch's call and the floating-point operations of one call (0: bound by memory, no rate is shown).
def conv3d(cin, cout, t, h, w):
    x, weight, bias = torch.randn(1, cin, t + 2, h, w), torch.randn(cout, cin, 3, 3, 3), torch.randn(cout)
    return lambda: F.conv3d(x, weight, bias, padding=(0, 1, 1)), 54 * cin * cout * t * h * w


def conv2d(cin, cout, t, h, w, k, stride):
    x, weight, bias = torch.randn(t, cin, h, w), torch.randn(cout, cin, k, k), torch.randn(cout)
    padding = k // 2 if stride == 1 else 0
    flops = 2 * k * k * cin * cout * t * (h // stride) * (w // stride)
    return lambda: F.conv2d(x, weight, bias, stride=stride, padding=padding), flops


def upsampled(cin, cout, t, h, w):
    x, weight, bias = torch.randn(t, cin, h, w), torch.randn(cout, cin, 3, 3), torch.randn(cout)
    return lambda: F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1), 72 * cin * cout * t * h * w


def in_bf16(name, maker):
    """What a maker gives, on numbers of bf16."""

    def made(**sizes):
        torch.set_default_dtype(torch.bfloat16)
        try:
            return maker(**sizes)
        finally:
            torch.set_default_dtype(torch.float32)

    made.__name__ = name
    return made


conv2d_bf16 = in_bf16("conv2d_bf16", conv2d)
conv3d_bf16, upsampled_bf16 = in_bf16("conv3d_bf16", conv3d), in_bf16("upsampled_bf16", upsampled)


def group_norm_silu(t, c, h, w, groups):
    x, weight, bias = torch.randn(1, c, t, h, w), torch.randn(c), torch.randn(c)
    return lambda: F.silu(F.group_norm(x, groups, weight, bias, 1e-6)), 0


def group_norm_frames(t, c, h, w, groups):
    x, weight, bias = torch.randn(t, c, h, w), torch.randn(c), torch.randn(c)
    return lambda: F.silu(F.group_norm(x, groups, weight, bias, 1e-5)), 0


def spatial_norm_silu(t, c, h, w, groups, times):
    """As diffusers' CogVideoXSpatialNorm3D does it, but for the two 1x1 convolutions, which are left out on both sides."""
    x, weight, bias = torch.randn(1, c, t, h, w), torch.randn(c), torch.randn(c)
    scale, shift = torch.randn(1, c, 1, h // times, w // times), torch.randn(1, c, 1, h // times, w // times)

    def call():
        wide = [F.interpolate(x, size=(t, h, w)) for x in (scale, shift)]
        return F.silu(F.group_norm(x, groups, weight, bias, 1e-6) * wide[0] + wide[1])

    return call, 0


def sdpa(b, n, l, d):
    q, k, v = torch.randn(b, l, 3, n, d).unbind(2)
    # diffusers transposes, and joins the heads again afterwards
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, n * d), 4 * b * n * l * l * d


def cross(b, n, l, keys, d):
    q, k, v = (torch.randn(b, tokens, n, d).transpose(1, 2) for tokens in (l, keys, keys))
    return lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, l, n * d), 4 * b * n * l * keys * d


def linear(rows, **sizes):
    x, weight, bias = torch.randn(rows, sizes["in"]), torch.randn(sizes["out"], sizes["in"]), torch.randn(sizes["out"])
    return lambda: F.linear(x, weight, bias), 2 * rows * sizes["in"] * sizes["out"]


def linear_gelu(rows, **sizes):
    call, flops = linear(rows, **sizes)
    return lambda: F.gelu(call(), approximate="tanh"), flops


def linear_geglu(rows, **sizes):
    call, flops = linear(rows, **sizes)

    def gated():
        value, gate = call().chunk(2, dim=-1)
        return value * F.gelu(gate)

    return gated, flops


linear_geglu_bf16 = in_bf16("linear_geglu_bf16", linear_geglu)
sdpa_bf16, linear_bf16 = in_bf16("sdpa_bf16", sdpa), in_bf16("linear_bf16", linear)


def gelu_tanh(count):
    x = torch.rand(count) * 2 - 1
    return lambda: F.gelu(x, approximate="tanh"), 0


def geglu(rows, width):
    x = torch.rand(rows, 2 * width) * 2 - 1

    def call():
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    return call, 0


def silu(count):
    x = torch.rand(count) * 2 - 1
    return lambda: F.silu(x), 0


def qk_norm(b, n, l, d):
    x, weight, bias = torch.randn(b, l, n, d).transpose(1, 2), torch.randn(d), torch.randn(d)
    return lambda: F.layer_norm(x, (d,), weight, bias, 1e-6), 0


def qk_norm_rope(b, n, l, d):
    x, weight, bias = torch.randn(b, l, n, d).transpose(1, 2), torch.randn(d), torch.randn(d)
    cos, sin = torch.randn(l, d), torch.randn(l, d)

    def call():
        y = F.layer_norm(x, (d,), weight, bias, 1e-6)
        even, odd = y.reshape(b, n, l, d // 2, 2).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(3)
        return y.float() * cos + turned.float() * sin

    return call, 0


def layer_norm_modulate(b, l, d, text):
    x, weight, bias = torch.randn(b, l, d), torch.randn(d), torch.randn(d)
    scale, shift = torch.randn(2, b, 1, d), torch.randn(2, b, 1, d)

    def call():  # diffusers keeps text and video apart
        y = F.layer_norm(x[:, text:], (d,), weight, bias, 1e-5) * (1 + scale[0]) + shift[0]
        z = F.layer_norm(x[:, :text], (d,), weight, bias, 1e-5) * (1 + scale[1]) + shift[1]
        return y, z

    return call, 0


def gate_residual(b, l, d, text):
    residual, x, gate = torch.randn(b, l, d), torch.randn(b, l, d), torch.randn(2, b, 1, d)

    def call():
        return residual[:, text:] + gate[0] * x[:, text:], residual[:, :text] + gate[1] * x[:, :text]

    return call, 0


def unet_cases():
    for make in (conv2d, conv2d_bf16):
        for cin, cout, side in [
            (320, 320, 64), (640, 320, 64), (640, 640, 32), (1280, 640, 32), (1280, 1280, 16), (2560, 1280, 16), (1280, 1280, 8),
        ]:
            yield make, dict(cin=cin, cout=cout, t=2, h=side, w=side, k=3, stride=1)
        yield make, dict(cin=320, cout=320, t=2, h=65, w=65, k=3, stride=2)
        yield make, dict(cin=320, cout=320, t=2, h=64, w=64, k=1, stride=1)
    yield upsampled, dict(cin=640, cout=640, t=2, h=32, w=32)
    for channels, side in [(320, 64), (640, 32), (1280, 16)]:
        tokens = side * side
        yield group_norm_frames, dict(t=2, c=channels, h=side, w=side, groups=32)
        yield geglu, dict(rows=2 * tokens, width=4 * channels)
        yield sdpa, dict(b=2, n=8, l=tokens, d=channels // 8)
        yield sdpa_bf16, dict(b=2, n=8, l=tokens, d=channels // 8)
        yield cross, dict(b=2, n=8, l=tokens, keys=77, d=channels // 8)
        for make in (linear_geglu, linear_geglu_bf16):
            yield make, {"rows": 2 * tokens, "in": channels, "out": 8 * channels}
        for make in (linear, linear_bf16):
            yield make, {"rows": 2 * tokens, "in": channels, "out": channels}
            yield make, {"rows": 2 * tokens, "in": 4 * channels, "out": channels}


CASES = [
    # Toyland's decoder, 8 output frames at a time as diffusers cuts them
    (conv3d, dict(cin=16, cout=16, t=8, h=96, w=144)),
    (conv3d, dict(cin=32, cout=16, t=8, h=96, w=144)),
    (conv3d, dict(cin=16, cout=3, t=8, h=96, w=144)),
    (conv3d, dict(cin=32, cout=32, t=8, h=48, w=72)),
    (conv3d, dict(cin=64, cout=32, t=4, h=24, w=36)),
    (conv3d, dict(cin=64, cout=64, t=2, h=12, w=18)),
    (conv3d, dict(cin=8, cout=64, t=2, h=12, w=18)),
    (conv2d, dict(cin=32, cout=16, t=8, h=96, w=144, k=1, stride=1)),
    (conv2d, dict(cin=8, cout=64, t=2, h=12, w=18, k=1, stride=1)),
    (conv2d, dict(cin=16, cout=16, t=8, h=97, w=145, k=3, stride=2)),
    (upsampled, dict(cin=32, cout=32, t=8, h=48, w=72)),
    (upsampled, dict(cin=64, cout=64, t=4, h=12, w=18)),
    (conv3d_bf16, dict(cin=16, cout=16, t=8, h=96, w=144)),
    (conv3d_bf16, dict(cin=32, cout=16, t=8, h=96, w=144)),
    (conv3d_bf16, dict(cin=32, cout=32, t=8, h=48, w=72)),
    (conv3d_bf16, dict(cin=64, cout=64, t=2, h=12, w=18)),
    (upsampled_bf16, dict(cin=32, cout=32, t=8, h=48, w=72)),
    (group_norm_silu, dict(t=8, c=16, h=96, w=144, groups=8)),
    (group_norm_silu, dict(t=2, c=64, h=12, w=18, groups=8)),
    (spatial_norm_silu, dict(t=8, c=16, h=96, w=144, groups=8, times=8)),
    (spatial_norm_silu, dict(t=8, c=32, h=48, w=72, groups=8, times=4)),
    (spatial_norm_silu, dict(t=2, c=64, h=12, w=18, groups=8, times=1)),
    # Toyland's transformer
    (sdpa, dict(b=1, n=3, l=734, d=64)),
    (sdpa, dict(b=2, n=3, l=734, d=64)),
    (linear, {"rows": 1468, "in": 192, "out": 576}),
    (linear, {"rows": 734, "in": 192, "out": 192}),
    (linear, {"rows": 1468, "in": 768, "out": 192}),
    (linear_gelu, {"rows": 1468, "in": 192, "out": 768}),
    (linear, {"rows": 1, "in": 128, "out": 1152}),
    (linear_bf16, {"rows": 1468, "in": 192, "out": 576}),
    (linear_bf16, {"rows": 734, "in": 192, "out": 192}),
    (linear_bf16, {"rows": 1468, "in": 768, "out": 192}),
    (linear_bf16, {"rows": 1, "in": 128, "out": 1152}),
    (sdpa_bf16, dict(b=2, n=3, l=734, d=64)),
    (qk_norm, dict(b=2, n=3, l=734, d=64)),
    (qk_norm_rope, dict(b=2, n=3, l=734, d=64)),
    (layer_norm_modulate, dict(b=2, l=734, d=192, text=32)),
    (gate_residual, dict(b=2, l=734, d=192, text=32)),
    (gelu_tanh, dict(count=2 * 734 * 768)),
    (silu, dict(count=1 << 20)),
    # CogVideoX-2B's transformer
    (sdpa, dict(b=1, n=2, l=17776, d=64)),
    (linear, {"rows": 17776, "in": 1920, "out": 1920}),
    (linear_gelu, {"rows": 4444, "in": 1920, "out": 7680}),
    (linear, {"rows": 4444, "in": 7680, "out": 1920}),
    (linear, {"rows": 1, "in": 512, "out": 11520}),
    (linear_bf16, {"rows": 4444, "in": 1920, "out": 7680}),
    (linear_bf16, {"rows": 4444, "in": 7680, "out": 1920}),
    (linear_bf16, {"rows": 1, "in": 512, "out": 11520}),
    (sdpa_bf16, dict(b=1, n=2, l=17776, d=64)),
    (qk_norm_rope, dict(b=1, n=30, l=17776, d=64)),
    (layer_norm_modulate, dict(b=1, l=17776, d=1920, text=226)),
    (gate_residual, dict(b=1, l=17776, d=1920, text=226)),
    (gelu_tanh, dict(count=17776 * 1920)),
    # CogVideoX-2B's decoder
    (conv3d, dict(cin=128, cout=128, t=2, h=480, w=720)),
    (conv3d, dict(cin=256, cout=256, t=2, h=120, w=180)),
    (conv3d, dict(cin=512, cout=512, t=2, h=60, w=90)),
    (upsampled, dict(cin=256, cout=256, t=2, h=120, w=180)),
    (conv3d_bf16, dict(cin=256, cout=256, t=2, h=120, w=180)),
    (conv2d, dict(cin=256, cout=128, t=2, h=240, w=360, k=1, stride=1)),
    (group_norm_silu, dict(t=2, c=128, h=480, w=720, groups=32)),
    (spatial_norm_silu, dict(t=2, c=128, h=480, w=720, groups=32, times=8)),
    # a UNet of Stable Diffusion 1.5 at 512 x 512, both halves of the guidance
    *unet_cases(),
]


clock = time.process_time if options.processor_time else time.perf_counter


def seconds(call):
    start = clock()
    call()
    return clock() - start


server = subprocess.Popen([options.program, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def ask(line):
    server.stdin.write(line + "\n")
    answer = server.stdout.readline()
    if not answer:
        sys.exit(f"the program stopped at: {line}")
    return answer.split()


def run(times):
    """The least of some calls in a row."""
    return float(ask(f"run {times}")[1 if options.processor_time else 0])


rows = []
kind = "processor time" if options.processor_time else "time"
print(f"PyTorch {torch.__version__}, {options.threads} threads, {kind}, medians of {options.rounds} rounds in turns")
print(f"{'operation':64} {'vidgen ms':>10} {'torch ms':>10} {'GFLOP/s':>8} {'torch':>8} {'ratio':>6}")
for maker, sizes in CASES:
    name = maker.__name__ + " " + " ".join(f"{key}={value}" for key, value in sizes.items())
    if not re.search(options.only, name):
        continue
    theirs, flops = maker(**sizes)
    ask(json.dumps({"op": maker.__name__, **sizes}))
    theirs(), run(1)  # PyTorch makes its kernels at the first call
    first = seconds(theirs) + run(1)
    rounds = max(3, min(options.rounds, int(20 / first)))
    repeat = max(1, min(500, int(0.1 / first)))
    mine, other = [], []
    for _ in range(rounds):
        time.sleep(0.02)
        mine.append(run(repeat + 1))
        time.sleep(0.02)
        other.append(min(seconds(theirs) for _ in range(repeat + 1)))
    mine, other = statistics.median(mine), statistics.median(other)
    rates = [f"{flops / time / 1e9:8.0f}" if flops else f"{'':8}" for time in (mine, other)]
    print(f"{name:64} {mine * 1e3:10.3f} {other * 1e3:10.3f} {rates[0]} {rates[1]} {other / mine:6.2f}", flush=True)
    rows.append(dict(name=name, vidgen=mine, torch=other, flops=flops))
if options.json:
    with open(options.json, "w") as file:
        json.dump(rows, file, indent=1)

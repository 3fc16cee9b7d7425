"""Speed of one step of a whole UNet beside diffusers', in turns on the same sizes and random weights; prints `ratio X`, diffusers'
seconds over vidgen's (above 1: vidgen is faster).

    cargo bench --bench unet --no-run
    python tests/reference/bench_unet.py unet3d f32 [--threads 2] [--rounds 3] [--size medium]
    python tests/reference/bench_unet.py unet2d bf16
    python tests/reference/bench_unet.py stream f32 --size small

`unet2d`: Stable Diffusion 1.5's at 512x512, both halves of the guidance. `unet3d`: ModelScope's form at 256x256, 16 frames, both
halves; `stream`: four steps of a chunk of StreamingT2V that goes on from the frames before it (CAM, the main UNet with mergers and mixers, guidance),
against the plain PyTorch of training/streaming.py with the released program's double work left out: both halves in one pass, the frames before
looked at once. `small` has there the form of models/toyland-stream (144x96). Else `medium` has half its widths (the default), `full` its own, `small` a fourth of them on 4 frames. `small` is for trying
the script. Weights are held by both programs: 2 x 3.5 GB for unet2d in f32, 2 x 1.5 GB for unet3d medium. The figures are medians of
alternating runs after one that is not counted, on a machine that should be idle. On one that others use at the same time, `--threads 1
--processor-time` compares what both compute, not how long they wait.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("network", choices=["unet2d", "unet3d", "stream"])
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("--size", choices=["small", "medium", "full"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--processor-time", action="store_true")
parser.add_argument("--program", help="the bench target `unet` [default: the newest in target/release]")
options = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options.threads)
os.environ["CANDLE_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402  (after the number of threads is set)
from diffusers import UNet2DConditionModel, UNet3DConditionModel  # noqa: E402

torch.set_num_threads(options.threads)
torch.set_grad_enabled(False)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
size = options.size or ("full" if options.network == "unet2d" else "medium")


def program():
    if options.program:
        return options.program
    built = [path for path in (ROOT / "target").glob("release/deps/unet-*") if not path.suffix and os.access(path, os.X_OK)]
    if not built:
        sys.exit("build it first: cargo bench --bench unet --no-run")
    return max(built, key=lambda path: path.stat().st_mtime)


def case():
    if options.network == "stream" and size == "small":
        config = dict(block_out_channels=[48, 48], norm_num_groups=8, layers_per_block=1, cross_attention_dim=64, attention_head_dim=8,
                      down_block_types=["CrossAttnDownBlock3D", "DownBlock3D"], up_block_types=["UpBlock3D", "CrossAttnUpBlock3D"])
        return dict(config=config, frames=16, height=12, width=18, tokens=32, image=4, channels=[8, 16, 24, 32])
    part = {"small": 4, "medium": 2, "full": 1}[size]
    widths = [channels // part for channels in (320, 640, 1280, 1280)]
    config = dict(block_out_channels=widths, norm_num_groups=32 // part, layers_per_block=2)
    if options.network == "unet2d":
        side = 64 if size != "small" else 16
        return dict(config=dict(config, cross_attention_dim=768, attention_head_dim=8), frames=1, height=side, width=side)
    frames, side = (4, 16) if size == "small" else (16, 32)
    more = dict(image=16, channels=[c // part for c in (32, 96, 256, 512)]) if options.network == "stream" else {}
    return dict(config=dict(config, cross_attention_dim=1024, attention_head_dim=64 // part), frames=frames, height=side, width=side, **more)


STEPS, BEFORE = 4, 8
asked = dict(dict(tokens=77), **case(), op=options.network, dtype=options.dtype)
frames, height, width = asked["frames"], asked["height"], asked["width"]
dtype = torch.float32 if options.dtype == "f32" else torch.bfloat16
torch.manual_seed(0)
text = torch.randn(2, asked["tokens"] + asked.get("image", 0), asked["config"]["cross_attention_dim"], dtype=dtype)
if options.network == "unet2d":
    model = UNet2DConditionModel(**asked["config"]).to(dtype).eval()
    latents = torch.randn(2, 4, height, width, dtype=dtype)
elif options.network == "stream":
    sys.path.insert(0, str(ROOT / "training"))
    import streaming as net

    base = UNet3DConditionModel(**asked["config"])
    model, cam = net.streaming_unet(base, asked["tokens"], asked["image"]), net.StreamingCAM(base, asked["channels"], BEFORE)
    asked |= dict(config=net.settings_of(model), cam=cam.settings, steps=STEPS)
    model, cam = model.to(dtype).eval(), cam.to(dtype).eval()
    for name, weight in model.named_parameters():  # what training begins with switches everything off
        if name.endswith("alpha") or ".proj_out." in name:
            weight.data.normal_(std=0.02)
    latents = torch.randn(1, 4, frames, height, width, dtype=dtype)
    pixels = torch.randn(1, BEFORE, 3, 8 * height, 8 * width, dtype=dtype)
else:
    model = UNet3DConditionModel(**asked["config"]).to(dtype).eval()
    latents = torch.randn(2, 4, frames, height, width, dtype=dtype)
print(f"{options.network} {options.dtype} {size}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, "
      f"{frames} frames of {8 * height}x{8 * width}, {options.threads} threads, {'processor ' if options.processor_time else ''}time, PyTorch {torch.__version__}", flush=True)

server = subprocess.Popen([program(), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def ask(line):
    server.stdin.write(line + "\n")
    answer = server.stdout.readline()
    if not answer:
        sys.exit(f"the program stopped at: {line}")
    return answer.strip()


def used():
    """Seconds that the program has computed."""
    fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours():
    before = used()
    elapsed = float(ask("run"))
    return used() - before if options.processor_time else elapsed


def chunk():
    """A chunk's steps."""
    z, time = latents, torch.tensor([501])
    seen = cam.controlnet_cond_embedding(pixels.flatten(0, 1)).repeat(2, 1, 1, 1)
    for _ in range(STEPS):
        both = z.repeat(2, 1, 1, 1, 1)
        memory = net.features(cam, both[:, :, :BEFORE], time.repeat(2), text[:, :asked["tokens"]], seen)
        low, high = net.predict(model, both, time.repeat(2), text, memory).chunk(2)
        z = 0.99 * z + 0.01 * (low + 7.5 * (high - low))
    return z


def theirs():
    clock = time.process_time if options.processor_time else time.perf_counter
    start = clock()
    chunk() if options.network == "stream" else model(latents, torch.tensor(501.0), text)
    return clock() - start


ask(json.dumps(asked))
theirs(), ask("run")
mine, other = [], []
for _ in range(options.rounds):
    time.sleep(0.1)  # the other one's threads fall asleep
    mine.append(ours())
    time.sleep(0.1)
    other.append(theirs())
server.stdin.close()
server.wait()
mine, other = statistics.median(mine), statistics.median(other)
print(f"vidgen {mine:.3f} s, {'PyTorch' if options.network == 'stream' else 'diffusers'} {other:.3f} s")
print(f"ratio {other / mine:.2f}")

"""Speed of one step of a whole denoiser beside diffusers', in turns on the same sizes and random weights; or of a whole video of
Text2Video-Zero. Prints `ratio X`, diffusers' seconds over vidgen's (above 1: vidgen is faster).

    cargo bench --bench unet --no-run
    python tests/reference/bench_unet.py unet3d f32 [--threads 2] [--rounds 3] [--size medium]
    python tests/reference/bench_unet.py unet2d bf16
    python tests/reference/bench_unet.py stream f32 --size small
    cargo build --release && python tests/reference/bench_unet.py zero f32 --steps 10
    python tests/reference/bench_unet.py stiv f32

`unet2d`: Stable Diffusion 1.5's at 512x512, both halves of the guidance. `unet3d`: ModelScope's form at 256x256, 16 frames, both
halves; `stiv`: one pass of STIV's transformer of 12 layers of 768 on latents of 16 frames of 32x32, beside plain PyTorch
(training/stiv.py); `stream`: four steps of a chunk of StreamingT2V that goes on from the frames before it (CAM, the main UNet with mergers and mixers, guidance),
against the plain PyTorch of training/streaming.py with the released program's double work left out: both halves in one pass, the frames before
looked at once. `small` has there the form of models/toyland-stream (144x96). Else `medium` has half its widths (the default), `full` its own, `small` a fourth of them on 4 frames. `small` is for trying
the script. `zero`: 8 frames of 256x256 by the program, from a checkpoint of Stable Diffusion 1.5's shapes, which is written with random
weights, and by diffusers' `TextToVideoZeroPipeline`, in the loop over chunks that its documentation has (each with its anchor) and in one call, which is told as
well; loading is counted for neither, and the motion begins before the first step as the program has it in 10 steps. Weights are held by both programs: 2 x 3.5 GB for unet2d in f32, 2 x 1.5 GB for unet3d medium. The figures are medians of
alternating runs after one that is not counted, on a machine that should be idle. On one that others use at the same time, `--threads 1
--processor-time` compares what both compute, not how long they wait.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("network", choices=["unet2d", "unet3d", "stream", "zero", "stiv"])
parser.add_argument("dtype", choices=["f32", "bf16"])
parser.add_argument("--size", choices=["small", "medium", "full"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--processor-time", action="store_true")
parser.add_argument("--steps", type=int, default=10, help="of zero")
parser.add_argument("--work", help="a folder for the checkpoint of zero, which is kept there [default: a temporary one]")
parser.add_argument("--program", help="the bench target `unet`, or for zero vidgen [default: the newest in target/release]")
options = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options.threads)
os.environ["CANDLE_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402  (after the number of threads is set)
from diffusers import UNet2DConditionModel, UNet3DConditionModel  # noqa: E402

torch.set_num_threads(options.threads)
torch.set_grad_enabled(False)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
size = options.size or ("full" if options.network in ("unet2d", "zero", "stiv") else "medium")


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
    if options.network == "stiv":
        config = dict(num_layers=12, num_attention_heads=12 // part, attention_head_dim=64, in_channels=4, out_channels=4,
                      caption_channels=1280, pooled_projection_dim=1280, temporal_gate=True, rope_axes_dim=[32, 32],
                      sample_size=[16, 32, 32])
        return dict(config=config, frames=16, height=32, width=32)
    widths = [channels // part for channels in (320, 640, 1280, 1280)]
    config = dict(block_out_channels=widths, norm_num_groups=32 // part, layers_per_block=2)
    if options.network == "unet2d":
        side = 64 if size != "small" else 16
        return dict(config=dict(config, cross_attention_dim=768, attention_head_dim=8), frames=1, height=side, width=side)
    frames, side = (4, 16) if size == "small" else (16, 32)
    more = dict(image=16, channels=[c // part for c in (32, 96, 256, 512)]) if options.network == "stream" else {}
    return dict(config=dict(config, cross_attention_dim=1024, attention_head_dim=64 // part), frames=frames, height=side, width=side, **more)


def write_checkpoint(folder: pathlib.Path):
    """Stable Diffusion 1.5's tensors with random weights, and a tokenizer beside them."""
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import single_file
    from safetensors.torch import save_file

    shapes = (single_file.unet((320, 640, 1280, 1280), 2, 768, False) | single_file.vae((128, 256, 512, 512), 2)
              | single_file.clip(768, 3072, 12, 49408, 77))
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith(".bias"):
            tensors[name] = torch.zeros(shape)
        elif len(shape) == 1:
            tensors[name] = torch.ones(shape)
        elif not name.endswith("position_ids"):
            tensors[name] = torch.randn(shape) * (shape[0] / torch.Size(shape).numel()) ** 0.5
    save_file(tensors, folder / "sd15.safetensors")
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROOT / "tests" / "golden" / "clip" / name, folder / "tokenizer" / name)


def zero():
    """A whole video, by both."""
    from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoZeroPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    program = options.program or ROOT / "target" / "release" / "vidgen"
    frames, side, steps = 8, 256, options.steps
    clock = time.process_time if options.processor_time else time.perf_counter
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(options.work or stack.enter_context(tempfile.TemporaryDirectory()))
        if not (folder / "sd15.safetensors").exists():
            write_checkpoint(folder)
        unet = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8)
        blocks = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                                  set_alpha_to_one=False, steps_offset=1)
        tokenizer = CLIPTokenizer(str(folder / "tokenizer/vocab.json"), str(folder / "tokenizer/merges.txt"), model_max_length=77)
        pipe = TextToVideoZeroPipeline(vae.eval(), text.eval(), tokenizer, unet.eval(), scheduler, None, None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)

        def call(frame_ids):
            # the anchor takes one step alone, as in vidgen's run of 10 steps
            pipe("a red ball", video_length=len(frame_ids), frame_ids=frame_ids, height=side, width=side, num_inference_steps=steps,
                 t0=steps - 2, t1=steps - 1, guidance_scale=7.5, generator=torch.Generator().manual_seed(0), output_type="np")

        def loop(chunk=8):
            starts = list(range(0, frames, chunk - 1))
            for index, start in enumerate(starts):
                end = starts[index + 1] if index + 1 < len(starts) else frames
                call([0] + list(range(start, end)))

        def timed(what):
            start = clock()
            what()
            return clock() - start

        def ours():
            words = ["generate", "a red ball", "--model", folder / "sd15.safetensors", "--size", f"{side}x{side}", "--frames", frames]
            words += ["--steps", steps, "--motion-steps", f"{1000 // steps * (steps - 2) + 1}..{1000 // steps * (steps - 1) + 1}", "--guidance-scale", 7.5, "--seed", 0, "--threads", options.threads]
            words += ["--dtype", options.dtype, "--text-cache", "off", "--json", "-y", "-o", folder / "out.gif"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run([str(word) for word in [program, *words]], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            facts = json.loads(done.stdout)["manifest"]["run"]
            seconds, used = facts["seconds"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            # processor time is that of the whole process, reading weights included
            spent = used if options.processor_time else sum(seconds[part] for part in ("encode", "denoise", "decode", "mux"))
            print(f"  vidgen {spent:.1f} s ({ {part: round(value, 1) for part, value in seconds.items()} }), "
                  f"peak {facts['peak_memory'] / 2**30:.2f} GiB", flush=True)
            return spent

        print(f"zero {options.dtype}: {frames} frames of {side}x{side}, {steps} steps, {options.threads} threads, "
              f"{'processor ' if options.processor_time else ''}time, PyTorch {torch.__version__}", flush=True)
        mine, looped, once = [], [], []
        for _ in range(options.rounds):
            mine.append(ours())
            once.append(timed(lambda: call(list(range(frames)))))
            looped.append(timed(loop))
            print(f"  diffusers {once[-1]:.1f} s in one call, {looped[-1]:.1f} s in its loop, peak so far "
                  f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB", flush=True)
    mine, looped, once = (statistics.median(values) for values in (mine, looped, once))
    print(f"vidgen {mine:.1f} s, diffusers {looped:.1f} s in its loop, {once:.1f} s in one call ({once / mine:.2f})")
    print(f"ratio {looped / mine:.2f}")


if options.network == "zero":
    sys.exit(zero())

STEPS, BEFORE = 4, 8
asked = dict(dict(tokens=77), **case(), op=options.network, dtype=options.dtype)
frames, height, width = asked["frames"], asked["height"], asked["width"]
dtype = torch.float32 if options.dtype == "f32" else torch.bfloat16
torch.manual_seed(0)
told = asked["config"].get("cross_attention_dim", asked["config"].get("caption_channels"))
text = torch.randn(2, asked["tokens"] + asked.get("image", 0), told, dtype=dtype)
if options.network == "stiv":
    sys.path.insert(0, str(ROOT / "training"))
    import stiv

    model = stiv.StivTransformer3DModel(**asked["config"]).to(dtype).eval()
    latents = torch.randn(1, 4, frames, height, width, dtype=dtype)
    told = text[:1], torch.randn(1, 1280, dtype=dtype), None, torch.tensor([[256.0, 256, 0, 0, 1, 16]])
elif options.network == "unet2d":
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
    if options.network == "stiv":
        model(latents, torch.tensor([0.5]), *told)
    else:
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
print(f"vidgen {mine:.3f} s, {'PyTorch' if options.network in ('stream', 'stiv') else 'diffusers'} {other:.3f} s")
print(f"ratio {other / mine:.2f}")

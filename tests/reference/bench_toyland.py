"""Toyland end to end beside diffusers: the same folder, prompt, steps, threads, on this machine, in alternating runs.

    cargo build --release
    python tests/reference/bench_toyland.py [--runs 5] [--steps 10] [--threads 2] [--no-bf16] [--story]

Prints medians and the median of the paired ratios. vidgen is timed as a whole process: start, load, text, denoise, decode, x264; in f32
and with --dtype bf16.
diffusers is timed twice: the pipeline call alone (imported, loaded and warmed up, no video file), and the whole process.
`--no-bf16` leaves out diffusers under autocast, which takes minutes for a clip on a processor without AVX-512. `--story`: three
prompts with DiTCtrl's blending and sharing in one video of 145 frames, beside the reference's schedule (the loop of ditctrl.py,
which runs every pair of windows as a batch) around diffusers' modules, with its decoder behind it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROMPT = "a red ball rolls to the right in a green meadow on a sunny day"

STORY = ["a red ball rolls to the right in a green meadow on a sunny day", "a red ball rolls to the right in the desert at sunset",
         "a red ball rolls to the right in the snow at night"]
OVERLAP, TRANSITIONS, LAYERS, SHARING = 6, 1, [5], [0, 1, 2, 3, 4]

CLIP = """
def run(steps):
    return pipe({prompt!r}, num_frames=49, num_inference_steps=steps, guidance_scale=6.0, max_sequence_length=32,
                generator=torch.Generator().manual_seed(7), output_type="np").frames
"""

WINDOWS = """
sys.path.insert(0, {reference!r})
import ditctrl, torch.nn.functional as F
class Fused(ditctrl.Share):
    attend = staticmethod(F.scaled_dot_product_attention)
state = dict(sharing=False)
for layer, block in enumerate(pipe.transformer.transformer_blocks):
    block.attn1.processor = Fused(state) if layer in {layers} else ditctrl.CogVideoXAttnProcessor2_0()
def run(steps):
    embeds = [pipe._get_t5_prompt_embeds([prompt], max_sequence_length=32) for prompt in {story}]
    texts = ditctrl.window_texts(embeds, {transitions})
    latents = ditctrl.loop(pipe, "ddim", texts, {overlap}, {sharing}, "repo", state, (12, 18), {steps}, steps)
    return pipe.video_processor.postprocess_video(pipe.decode_latents(latents), output_type="np")
"""

CHILD = """
import json, resource, sys, time
import torch
torch.set_num_threads({threads})
from diffusers import CogVideoXPipeline
pipe = CogVideoXPipeline.from_pretrained({model!r}, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
{run}
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled={bf16}):
    run(1)
    start = time.time()
    run({steps})
    print(json.dumps(dict(seconds=time.time() - start, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)))
"""


def vidgen(args, folder, dtype="f32"):
    what = ["generate", PROMPT]
    if args.story:
        what = ["multi-prompt", *(word for prompt in STORY for word in ("-p", prompt)), "--blend", "repo",
                "--overlap", str(OVERLAP), "--transition-windows", str(TRANSITIONS),
                "--attn-proc", f"kv-share:layers={LAYERS[0]}-{LAYERS[-1]},steps={SHARING[0]}-{SHARING[-1]}"]
    command = [ROOT / "target/release/vidgen", *what, "--steps", str(args.steps), "--seed", "7", "-y", "--dtype", dtype,
               "--threads", str(args.threads), "--progress", "none", "--json", "--text-cache", "off", "-o", f"{folder}/ball.mp4"]
    start = time.time()
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    seconds = time.time() - start
    said = json.loads(out)
    run = said["manifest"]["run"]
    return dict(seconds=seconds, peak=run["peak_memory"], phases=run["seconds"], frames=said["frames"])


def diffusers(args, bf16=False):
    run = (WINDOWS if args.story else CLIP).format(
        prompt=PROMPT, steps=args.steps, reference=str(ROOT / "tests/reference"), story=STORY, layers=LAYERS,
        transitions=TRANSITIONS, overlap=OVERLAP, sharing=SHARING)
    text = CHILD.format(threads=args.threads, model=str(ROOT / "models/toyland"), run=run, steps=args.steps, bf16=bf16)
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    start = time.time()
    out = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True, env=env).stdout
    return dict(json.loads(out.splitlines()[-1]), whole=time.time() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--story", action="store_true")
    args = parser.parse_args()
    ours, ours_halved, theirs, halves = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.runs):
            ours.append(vidgen(args, folder))
            ours_halved.append(vidgen(args, folder, "bf16"))
            theirs.append(diffusers(args))
            if not args.no_bf16:
                halves.append(diffusers(args, bf16=True))
    median = lambda rows, key: statistics.median(row[key] for row in rows)
    ratio = lambda rows, key, of: statistics.median(b[key] / a["seconds"] for a, b in zip(of, rows))
    print(f"toyland, {ours[0]['frames']} frames 96x144, {args.steps} steps, {args.threads} threads, load {os.getloadavg()[0]:.1f}, medians of {args.runs}")
    print("| | seconds | peak memory | vidgen is faster by | with --dtype bf16 by |")
    print("|---|---|---|---|---|")
    for name, rows in [("f32", ours), ("--dtype bf16", ours_halved)]:
        print(f"| vidgen {name}, whole process with MP4 | {median(rows, 'seconds'):.2f} | {median(rows, 'peak') / 1e6:.0f} MB | | |")
    for name, rows in [("diffusers f32", theirs)] + ([("diffusers, bf16 autocast", halves)] if halves else []):
        for what, key, peak in [("pipeline call only", "seconds", f"{median(rows, 'peak') / 1e6:.0f} MB"), ("whole process, no file", "whole", "")]:
            ratios = f"{ratio(rows, key, ours):.2f}x | {ratio(rows, key, ours_halved):.2f}x"
            print(f"| {name}, {what} | {median(rows, key):.2f} | {peak} | {ratios} |")
    for name, rows in [("f32", ours), ("bf16", ours_halved)]:
        phases = {key: statistics.median(row["phases"][key] for row in rows) for key in rows[0]["phases"]}
        print(f"vidgen {name} by phase:", ", ".join(f"{key} {value:.2f}" for key, value in phases.items()))


if __name__ == "__main__":
    main()

"""diffusers as a process that loads a model once and then does what it reads, a JSON object on a line each, from standard
input: `Diffusers` in bench.py talks to it.

    python benches/gpu/diffusers_child.py FOLDER DTYPE DEVICE [--compile]
"""

import json
import pathlib
import resource
import sys
import time

import torch
import torch.nn.functional as F
from diffusers import CogVideoXPipeline

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "tests/reference"


class Child:
    def __init__(self, folder, dtype, device, compiled):
        self.device = torch.device(device)
        began = time.time()
        self.pipe = CogVideoXPipeline.from_pretrained(folder, dtype=getattr(torch, dtype)).to(self.device)
        self.wait()
        self.load = time.time() - began
        self.pipe.set_progress_bar_config(disable=True)
        self.length = self.pipe.transformer.config.max_text_seq_length
        if compiled:
            self.pipe.transformer = torch.compile(self.pipe.transformer, mode="max-autotune-no-cudagraphs", fullgraph=True)
            self.pipe.vae.decode = torch.compile(self.pipe.vae.decode)

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work):
        cuda = self.device.type == "cuda"
        self.wait()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.time()
        with torch.no_grad():
            work()
        self.wait()
        seconds = time.time() - began
        peak = torch.cuda.max_memory_reserved() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return dict(seconds=seconds, peak=peak)

    def generate(self, prompt, steps, frames, height, width):
        return self.pipe(prompt, num_frames=frames, num_inference_steps=steps, guidance_scale=6.0, height=height, width=width,
                         max_sequence_length=self.length, generator=torch.Generator().manual_seed(7), output_type="pt")

    def clip(self, **what):
        return self.timed(lambda: self.generate(**what))

    def decode(self, latent_frames, height, width):
        shape = (1, latent_frames, self.pipe.transformer.config.in_channels, height // 8, width // 8)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(self.device, self.pipe.vae.dtype)
        return self.timed(lambda: self.pipe.decode_latents(latents))

    def encode(self, prompt):
        return self.timed(lambda: self.pipe._get_t5_prompt_embeds([prompt], max_sequence_length=self.length))

    def windows(self, prompts, overlap, transitions, layers, steps, of, until, height, width):
        """The loop of tests/reference/ditctrl.py, with PyTorch's fused attention where that has the plain formula."""
        sys.path.insert(0, str(REFERENCE))
        import ditctrl

        class Fused(ditctrl.Share):
            attend = staticmethod(F.scaled_dot_product_attention)

        state = dict(sharing=False)
        for layer, block in enumerate(self.pipe.transformer.transformer_blocks):
            block.attn1.processor = Fused(state) if layer in layers else ditctrl.CogVideoXAttnProcessor2_0()

        def work():
            embeds = [self.pipe._get_t5_prompt_embeds([p], max_sequence_length=self.length) for p in prompts]
            texts = ditctrl.window_texts(embeds, transitions)
            ditctrl.loop(self.pipe, "ddim", texts, overlap, steps, "repo", state, (height // 8, width // 8), of, until)

        return self.timed(work)

    def profile(self, top, **what):
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile, torch.no_grad():
            self.generate(**what)
            self.wait()
        time_of = lambda row: row.self_device_time_total if self.device.type == "cuda" else row.self_cpu_time_total
        rows = sorted(profile.key_averages(), key=time_of, reverse=True)
        total = sum(map(time_of, rows)) or 1
        return dict(kernels=[dict(name=row.key, calls=row.count, seconds=time_of(row) / 1e6, share=time_of(row) / total)
                             for row in rows[:top]])


def main():
    folder, dtype, device, *compiled = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print where they like
    child = Child(folder, dtype, device, bool(compiled))
    print(json.dumps(dict(seconds=child.load)), file=answers, flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        print(json.dumps(getattr(child, what.pop("do"))(**what)), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Measures a STIV folder in PyTorch: what Toyland's judge sees, how far given frames are left behind, strips of frames.

    python evaluate_stiv.py --model OUT text --captions 24 --sheet PICTURE
    python evaluate_stiv.py --model OUT image --captions 64
    python evaluate_stiv.py --model OUT grid --captions 32
    python evaluate_stiv.py --model OUT tasks --captions 32

`text` makes videos of captions alone. `image` gives the first frame of a rendered scene, and compares guidance without the image (jit)
with guidance that keeps it (cfg), with renormalisation and without. `grid` has scales of image and text (sit). `tasks` gives
the first four frames, both ends, or every second frame, and compares what comes between with the frames that were given.
"Change" is the mean squared difference of neighbouring frames, in levels; PSNR is of a frame against the rendered one through the
autoencoder.
"""

import argparse
import os
import time

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

import clip_tokenizer
import images
import stiv
import videos
from common import psnr, setup
from evaluate_image import sheet
from evaluate_video import changes, judged, line
from judge import load as load_judge
from render import render
from train_stiv import CLIP, FIRST, given_frames
from world import HEIGHT, WIDTH, evaluation_set, plain_caption


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=["text", "image", "grid", "tasks"])
    p.add_argument("--model", required=True, help="the folder")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=32)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=3.0)
    p.add_argument("--shift", type=float, default=2.0)
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="(tests)")
    p.add_argument("--sheet", help="a picture: a row of frames for each of the first 8 videos")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Model:
    def __init__(self, folder: str, a):
        self.vae, self.text = images.load(folder, AutoencoderKL, "vae"), images.load(folder, CLIPTextModel, "text_encoder")
        self.captions, self.a = clip_tokenizer.Captions(os.path.join(folder, "tokenizer")), a
        self.net = stiv.load(os.path.join(folder, "transformer"))

    @torch.no_grad()
    def clips(self, texts: list[str], z: torch.Tensor, given: torch.Tensor, noise: torch.Tensor, **how) -> torch.Tensor:
        """Clips [B, F, 3, H, W] of texts and of latents `z` [B, 4, F, h, w] whose frames `given` [F] are kept."""
        parts = []
        for i in range(0, len(texts), 4):
            some = slice(i, i + 4)
            made = self.text(input_ids=self.captions.ids([""] * len(texts[some]) + texts[some]))
            tokens, pooled = made.last_hidden_state.chunk(2), made.pooler_output.chunk(2)
            count, frames = len(texts[some]), noise.shape[2]
            micro = torch.tensor([[{"stride": 1, "frames": frames}[key] for key in self.net.config["micro_conditions"]]] * count)

            def predict(x, t, full, mask):
                return self.net(x, torch.full((count,), float(t)), tokens[full], pooled[full], mask, micro)

            options = {"steps": self.a.steps, "scale": self.a.guidance, "shift": self.a.shift} | how
            parts.append(videos.decode(self.vae, stiv.sample(predict, noise[some], z[some], given.expand(count, -1), **options)))
        return torch.cat(parts)


def rendered(scenes, size) -> torch.Tensor:
    """Clips [B, F, 3, H, W] that scenes begin with."""
    return torch.cat([render([scene], CLIP, *size, device="cpu", start=[0.0]).video.transpose(1, 2) for scene in scenes])


def quality(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the frames that were not given."""
    return psnr((made - wanted).square().mean().item())


def main():
    a = arguments()
    setup(a.seed)
    model, judge, began = Model(a.model, a), load_judge(a.judge), time.process_time()
    scenes, generator = evaluation_set(a.captions), torch.Generator().manual_seed(a.seed)
    texts = [plain_caption(scene) for scene in scenes]
    noise = torch.randn(len(texts), 4, CLIP, a.size[0] // 8, a.size[1] // 8, generator=generator)
    print(f"{a.kind}, {a.captions} captions, {a.steps} steps, guidance {a.guidance}, shift {a.shift}", flush=True)

    def told(name: str, made: torch.Tensor, more: str = ""):
        print(f"{name}: {line(*judged(judge, made, scenes), scenes)}; change {changes(made).mean():.1f}{more}", flush=True)

    shown = None
    if a.kind == "text":
        shown = model.clips(texts, torch.zeros_like(noise), given_frames("t2v", CLIP), noise)
        told("text", shown)
    else:
        truth = rendered(scenes, a.size)
        z = images.latents(model.vae, truth.flatten(0, 1), mode=True).unflatten(0, (-1, CLIP)).transpose(1, 2)
        seen = videos.decode(model.vae, z)
        told("rendered, through the autoencoder", seen)
    if a.kind in ("image", "grid"):
        given, wanted = given_frames("ti2v", CLIP), slice(1, None)
        ways = {f"{mode}{', renorm ' + renorm if renorm != 'off' else ''}": dict(mode=mode, renorm=renorm)
                for mode in ("jit", "cfg") for renorm in ("off", "full", "clamp")}
        if a.kind == "grid":
            ways = {f"image {si} text {s}": dict(mode="sit", image_scale=si, scale=s) for si in (1.0, 1.5, 3.0, 6.0) for s in (1.5, 3.0, 6.0)}
        for name, how in ways.items():
            made = model.clips(texts, z, given, noise, **how)
            shown = made if shown is None else shown
            first = quality(made[:, :1], seen[:, :1])
            told(name, made, f"; PSNR of frame 0 {first:.1f}, of frame 1 {quality(made[:, 1:2], seen[:, 1:2]):.1f}, of all {quality(made[:, wanted], seen[:, wanted]):.1f}")
    if a.kind == "tasks":
        for task in (f"predict{FIRST}", "interp", "tup2"):
            given = given_frames(task, CLIP)
            made = model.clips(texts, z, given, noise, mode="jit")
            shown = made if task == "interp" else shown
            nearest = torch.stack([min(given.nonzero().flatten(), key=lambda k: abs(k - i)) for i in torch.arange(CLIP)])
            copied = quality(seen[:, nearest][:, ~given], seen[:, ~given])
            told(task, made, f"; PSNR of the others {quality(made[:, ~given], seen[:, ~given]):.2f}, of the nearest given frame in their place {copied:.2f}")
    print(f"{time.process_time() - began:.0f} s")
    if a.sheet:
        rows = shown[:8, ::3]
        sheet([rows[:, i] for i in range(rows.shape[1])], a.sheet, across=min(8, len(rows)))


if __name__ == "__main__":
    main()

"""Measures the models of clips and of streams in PyTorch, and draws strips of frames.

    python evaluate_video.py --model OUT clip --captions 32 --steps 20 --guidance 3 --sheet PICTURE
    python evaluate_video.py --model OUT stream --captions 16 --chunks 5
    python evaluate_video.py --model OUT denoise --captions 16

A stream is made three times from the same first chunks and the same noise: as it is, without the anchor, and without CAM (every chunk
a clip of its own, by the first chunk's UNet). Its seams are the places where chunks meet; all differences are of neighbouring frames,
squared, in levels 0..255. `denoise` says how well clips of other scenes are denoised, at five levels of noise, with CAM and without.
"""

import argparse
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

import clip_tokenizer
import images
import streaming
import train_stream
import videos
from common import setup
from evaluate_image import percent, sheet
from judge import load as load_judge
from judge_data import from_bytes
from world import ATTRIBUTES, HEIGHT, WIDTH, evaluation_set, held_out, plain_caption


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=["clip", "stream", "denoise"])
    p.add_argument("--model", required=True, help="the folder; its autoencoder, text encoder and tokenizer too")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=32)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=3.0)
    p.add_argument("--first-guidance", type=float, help="of a stream's first chunk (default: --guidance)")
    p.add_argument("--frames", type=int, default=videos.CHUNK, help="of a clip")
    p.add_argument("--chunks", type=int, default=5, help="of a stream")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="(tests)")
    p.add_argument("--sheet", help="a picture: a row of frames for each of the first 8 videos")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Model:
    """A folder's networks, and DDIM."""

    def __init__(self, folder: str, steps: int, streams: bool):
        self.vae, self.text = images.load(folder, AutoencoderKL, "vae"), images.load(folder, CLIPTextModel, "text_encoder")
        self.captions = clip_tokenizer.Captions(os.path.join(folder, "tokenizer"))
        self.base = images.load(folder, UNet3DConditionModel, "base_unet" if streams else "unet")
        self.steps = steps
        if streams:
            self.unet, self.cam, self.resampler = (net.eval().requires_grad_(False) for net in streaming.load(folder, self.base))
            self.tower = images.load(folder, CLIPVisionModelWithProjection, "image_encoder")

    @torch.no_grad()
    def embed(self, texts: list[str]) -> torch.Tensor:
        """The empty text, then the texts: [2B, L, D]."""
        return self.text(input_ids=self.captions.ids([""] * len(texts) + texts)).last_hidden_state

    def anchor_tokens(self, anchors: torch.Tensor) -> torch.Tensor:
        """Tokens of grey, then of the anchors [B, 3, H, W]: [2B, image, D]."""
        x = streaming.prepared(torch.cat([torch.zeros_like(anchors), anchors]), self.tower.config.image_size)
        return self.resampler(self.tower(pixel_values=x).image_embeds)

    @torch.no_grad()
    def sample(self, predict, noise: torch.Tensor, guidance: float, eta: float, generator=None) -> torch.Tensor:
        """Latents; `predict(both, t)` gives the halves without and with the text, one after the other."""
        scheduler = videos.schedule()
        scheduler.set_timesteps(self.steps)
        z = noise
        for t in scheduler.timesteps:
            empty, full = predict(torch.cat([z, z]), t).chunk(2)
            z = scheduler.step(empty + guidance * (full - empty), t, z, eta=eta, generator=generator).prev_sample
        return z

    def clip(self, texts: list[str], noise: torch.Tensor, guidance: float) -> torch.Tensor:
        """Clips [B, F, 3, H, W] of the plain UNet."""
        text = self.embed(texts)
        return videos.decode(self.vae, self.sample(lambda z, t: self.base(z, t, text).sample, noise, guidance, 0.0))

    @torch.no_grad()
    def chunk(self, texts, before, anchors, noise, guidance: float, generator) -> torch.Tensor:
        """The chunk after the frames `before` [B, S, 3, H, W]; `anchors` [B, 3, H, W], or none."""
        text, frames = self.embed(texts), before.shape[1]
        tokens = text if anchors is None else torch.cat([text, self.anchor_tokens(anchors)], 1)
        seen = self.cam.controlnet_cond_embedding(torch.cat([before, before]).flatten(0, 1))

        def predict(z, t):
            times = t.expand(len(z))
            memory = streaming.features(self.cam, z[:, :, :frames], times, text, seen)
            return streaming.predict(self.unet, z, times, tokens, memory)

        return videos.decode(self.vae, self.sample(predict, noise, guidance, 1.0, generator))


@torch.no_grad()
def judged(judge, clips: torch.Tensor, scenes) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Whether the judge sees what the scenes say, [B] for each attribute, and the subject's presence in each frame, [B, F]."""
    if clips.shape[-2:] != (HEIGHT, WIDTH):
        clips = F.interpolate(clips.flatten(0, 1), (HEIGHT, WIDTH)).unflatten(0, clips.shape[:2])
    seen = [judge.judge(clip) for clip in clips]
    good = {name: torch.tensor([s[name].argmax().item() == scene.label(name) for s, scene in zip(seen, scenes)]) for name in ATTRIBUTES}
    return good, torch.stack([s["presence"] for s in seen])


def line(good: dict[str, torch.Tensor], presence: torch.Tensor, scenes) -> str:
    unseen = torch.tensor([held_out(*scene.combination()) for scene in scenes])
    words = [f"{name} {percent(g)} ({percent(g[~unseen])} seen, {percent(g[unseen])} held out)" for name, g in good.items()]
    return ", ".join(words) + f", present {percent(presence > 0.5)}"


def changes(clips: torch.Tensor) -> torch.Tensor:
    """Mean squared differences of neighbouring frames, [B, F-1], in levels."""
    return ((clips[:, 1:] - clips[:, :-1]) * 127.5).square().mean((2, 3, 4))


def clip(a, model: Model, judge, scenes, texts, generator):
    noise = torch.randn(len(texts), 4, a.frames, a.size[0] // 8, a.size[1] // 8, generator=generator)
    made = torch.cat([model.clip(texts[i:i + 4], noise[i:i + 4], a.guidance) for i in range(0, len(texts), 4)])
    print(f"clip, {line(*judged(judge, made, scenes), scenes)}; change of neighbouring frames {changes(made).mean():.1f}", flush=True)
    return made


def stream(a, model: Model, judge, scenes, texts, generator):
    """Prints a line for each way; returns the streams as they are."""
    before = model.cam.settings["num_frames"]
    noise = torch.randn(a.chunks, len(texts), 4, videos.CHUNK, a.size[0] // 8, a.size[1] // 8, generator=generator)
    first = model.clip(texts, noise[0], a.guidance if a.first_guidance is None else a.first_guidance)
    ways = {"CAM and anchor": 0, "CAM": 1, "neither": 2}
    kept = None
    for name, way in ways.items():
        own, parts, last = torch.Generator().manual_seed(a.seed + 1), [first], first
        for k in range(1, a.chunks):
            if way == 2:
                last = model.clip(texts, noise[k], a.guidance)
            else:
                last = model.chunk(texts, last[:, -before:], first[:, 0] if way == 0 else None, noise[k], a.guidance, own)
            parts.append(last[:, before:])
        made = torch.cat(parts, 1)
        kept = made if kept is None else kept
        change = changes(made)
        seams = torch.zeros(change.shape[1], dtype=torch.bool)
        seams[videos.CHUNK - 1::videos.CHUNK - before] = True
        last_good, last_presence = judged(judge, parts[-1], scenes)
        print(f"{name}: seams {change[:, seams].mean():.1f}, inside {change[:, ~seams].mean():.1f} (the first chunk "
              f"{changes(first).mean():.1f}); whole: {line(*judged(judge, made, scenes), scenes)}; last chunk: "
              f"{line(last_good, last_presence, scenes)}", flush=True)
    return kept


@torch.no_grad()
def denoise(a, model: Model, _judge, scenes, texts, _generator):
    """Prints the error of v in the frames that CAM has seen and in the new ones."""
    before, side = model.cam.settings["num_frames"], model.tower.config.image_size
    rows = train_stream.maker(model.vae, a.size, side, 0.0, "cpu", lambda _: scenes.pop(0))(random.Random(a.seed), len(texts))
    text, alphas = model.embed(texts)[len(texts):], videos.schedule().alphas_cumprod
    tokens = torch.cat([text, model.resampler(model.tower(pixel_values=rows["anchor"].float()).image_embeds)], 1)
    pixels, z = from_bytes(rows["before"], "cpu"), rows["z"].float()
    for level in (100, 300, 500, 700, 900):
        t, alpha, noise = torch.full((len(z),), level), alphas[level], torch.randn_like(z)
        noisy, v = alpha.sqrt() * z + (1 - alpha).sqrt() * noise, alpha.sqrt() * noise - (1 - alpha).sqrt() * z
        memory, words = model.cam(noisy[:, :, :before], t, text, pixels), []
        made = {"CAM and anchor": streaming.predict(model.unet, noisy, t, tokens, memory),
                "CAM": streaming.predict(model.unet, noisy, t, text, memory),
                "neither": streaming.predict(model.unet, noisy, t, text), "first chunk's UNet": model.base(noisy, t, text).sample}
        for name, value in made.items():
            error = (value - v).square().mean((0, 1, 3, 4))
            words.append(f"{name} {error[:before].mean():.4f} and {error[before:].mean():.4f}")
        print(f"t {level}, seen and new: {', '.join(words)}", flush=True)


def main():
    a = arguments()
    setup(a.seed)
    model, judge = Model(a.model, a.steps, a.kind != "clip"), load_judge(a.judge)
    scenes, generator = evaluation_set(a.captions), torch.Generator().manual_seed(a.seed)
    texts, began = [plain_caption(s) for s in scenes], time.process_time()
    print(f"{a.kind}, {a.captions} captions, {a.steps} steps, guidance {a.guidance}")
    made = {"clip": clip, "stream": stream, "denoise": denoise}[a.kind](a, model, judge, scenes, texts, generator)
    print(f"{time.process_time() - began:.0f} s")
    if a.sheet and made is not None:
        every = max(1, made.shape[1] // 6)
        rows = made[:8, ::every]
        sheet([rows[:, i] for i in range(rows.shape[1])], a.sheet, across=min(8, len(rows)))


if __name__ == "__main__":
    main()

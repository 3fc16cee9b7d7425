"""Measures the image models in PyTorch, and draws sheets of what they make.

    python evaluate_image.py --model OUT text --captions 64 --steps 20 50 --guidance 3 7.5
    python evaluate_image.py --model OUT control --captions 64
    python evaluate_image.py --model OUT instruct --captions 64

Half of the captions name held-out combinations, and half of the edits lead to one. The judge sees each picture as a single frame.
"""

import argparse
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import edits
import images
from common import setup
from edges import canny
from judge import load as load_judge
from judge_data import relative, to_bytes
from render import render
from world import HEIGHT, WIDTH, Scene, evaluation_set, held_out, plain_caption

JUDGED = ("colour", "shape", "place", "time")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("kind", choices=["text", "control", "instruct"])
    p.add_argument("--model", required=True, help="the folder of the image model")
    p.add_argument("--judge", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "toyland-judge"))
    p.add_argument("--captions", type=int, default=64, help="or edits")
    p.add_argument("--steps", type=int, nargs="+", default=[20])
    p.add_argument("--guidance", type=float, nargs="+", help="default: 7.5, with a control 9")
    p.add_argument("--image-guidance", type=float, nargs="+", default=[1.5])
    p.add_argument("--weight", type=float, default=1.0, help="of the control")
    p.add_argument("--scheduler", choices=["ddim", "euler-ancestral"], help="default: ddim, for edits euler-ancestral")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="(tests)")
    p.add_argument("--sheet", help="a picture of the first 24, with the last settings")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    a.guidance = a.guidance or [9.0 if a.kind == "control" else 7.5]
    a.scheduler = a.scheduler or ("euler-ancestral" if a.kind == "instruct" else "ddim")
    return a


class Model:
    """The folder's autoencoder, text encoder and a UNet of it (`unet` or `instruct/unet`)."""

    def __init__(self, folder: str, unet: str = "unet"):
        self.vae, self.text = images.load(folder, AutoencoderKL, "vae"), images.load(folder, CLIPTextModel, "text_encoder")
        self.unet = images.load(folder, UNet2DConditionModel, unet)
        self.captions = clip_tokenizer.Captions(os.path.join(folder, "tokenizer"))

    def scheduler(self, kind: str, steps: int):
        base = images.schedule()
        made = base if kind == "ddim" else EulerAncestralDiscreteScheduler.from_config(base.config, timestep_spacing="linspace")
        made.set_timesteps(steps)
        return made

    @torch.no_grad()
    def embed(self, texts: list[str]) -> torch.Tensor:
        return self.text(input_ids=self.captions.ids(texts)).last_hidden_state

    @torch.no_grad()
    def sample(self, texts, noise, guidance: float, scheduler, control=None) -> torch.Tensor:
        """Latents like `noise` [B, 4, h, w]. `control` is (ControlNet, pictures in [0, 1], weight)."""
        both = torch.cat([self.embed([""] * len(texts)), self.embed(texts)])
        z = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            given, more = scheduler.scale_model_input(torch.cat([z, z]), t), {}
            if control:
                net, picture, weight = control
                down, mid = net(given, t, both, torch.cat([picture, picture]), conditioning_scale=weight, return_dict=False)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            empty, full = self.unet(given, t, both, **more).sample.chunk(2)
            z = self.step(scheduler, empty + guidance * (full - empty), t, z)
        return z

    @torch.no_grad()
    def edit(self, texts, picture, noise, guidance: float, image_guidance: float, scheduler) -> torch.Tensor:
        """Latents of the edited pictures [B, 3, H, W] in [-1, 1]."""
        nothing = self.embed([""] * len(texts))
        texts = torch.cat([self.embed(texts), nothing, nothing])
        seen = self.vae.encode(picture).latent_dist.mode()
        seen = torch.cat([seen, seen, torch.zeros_like(seen)])
        z = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            given = torch.cat([scheduler.scale_model_input(torch.cat([z] * 3), t), seen], 1)
            full, image, empty = self.unet(given, t, texts).sample.chunk(3)
            z = self.step(scheduler, empty + guidance * (full - image) + image_guidance * (image - empty), t, z)
        return z

    @staticmethod
    def step(scheduler, made, t, z):
        return scheduler.step(made, t, z).prev_sample

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.vae.decode(part / self.vae.config.scaling_factor).sample for part in z.split(16)]).clamp(-1, 1)


@torch.no_grad()
def seen_by(judge, x: torch.Tensor) -> dict[str, torch.Tensor]:
    if x.shape[-2:] != (HEIGHT, WIDTH):
        x = F.interpolate(x, (HEIGHT, WIDTH))
    return judge.frames(x)


def right(seen: dict, scenes: list[Scene], name: str) -> torch.Tensor:
    """Whether the judge sees what the scenes say, [B]."""
    return seen[name].argmax(-1) == torch.tensor([scene.label(name) for scene in scenes])


def percent(values: torch.Tensor) -> str:
    return f"{100 * values.float().mean().item():.1f}"


def line(seen: dict, scenes: list[Scene]) -> str:
    unseen = torch.tensor([held_out(*scene.combination()) for scene in scenes])
    words = []
    for name in JUDGED:
        good = right(seen, scenes, name)
        words.append(f"{name} {percent(good)} ({percent(good[~unseen])} seen, {percent(good[unseen])} held out)")
    return ", ".join(words) + f", present {percent(seen['presence'] > 0)}"


def sheet(rows: list[torch.Tensor], path: str, across: int = 6):
    """`rows`: pictures [B, 3, H, W] in [-1, 1] to be put one below the other, in groups."""
    from PIL import Image

    groups = torch.cat(rows, 2)[:24]
    groups = torch.cat([groups, groups.new_zeros(-len(groups) % across, *groups.shape[1:])])
    grid = torch.cat([torch.cat(list(groups[i:i + across]), 2) for i in range(0, len(groups), across)], 1)
    Image.fromarray(to_bytes(grid).permute(1, 2, 0).numpy()).save(path)


def boxes_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Of boxes [B, 4] as centre x, y, width, height."""
    corners = lambda b: (b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    (a0, a1), (b0, b1) = corners(one), corners(other)
    both = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(1)
    return both / (one[:, 2:].prod(1) + other[:, 2:].prod(1) - both)


def followed(made: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """The shares of wanted edges with a made one beside them, and of made ones with a wanted one: [B, 1, H, W], 255 or 0."""
    near = lambda e: F.max_pool2d((e > 0).float(), 3, 1, 1)
    share = lambda e, others: ((e > 0) * near(others)).sum().item() / max(1, (e > 0).sum().item())
    return share(wanted, made), share(made, wanted)


def text(a, model: Model, judge, steps: int, guidance: float):
    scenes, generator = evaluation_set(a.captions), torch.Generator().manual_seed(a.seed)
    noise = torch.randn(len(scenes), 4, a.size[0] // 8, a.size[1] // 8, generator=generator)
    x = model.decode(model.sample([plain_caption(s) for s in scenes], noise, guidance, model.scheduler(a.scheduler, steps)))
    return line(seen_by(judge, x), scenes), [x]


def control(a, model: Model, judge, steps: int, guidance: float):
    """Edges of other scenes than the captions' in all but shape and place: colour and time come from the caption alone."""
    net = images.load(a.model, ControlNetModel, "controlnet")
    scenes, generator, rng = evaluation_set(a.captions), torch.Generator().manual_seed(a.seed), random.Random(a.seed)
    clip = render([Scene("red" if s.colour != "red" else "blue", s.shape, s.motion, s.place, "sunny", s.seed) for s in scenes], 1, *a.size,
                  start=[images.moment(rng) for _ in scenes])
    edges = canny(to_bytes(clip.video[:, :, 0]))
    picture = (edges.float() / 255).expand(-1, 3, -1, -1)
    noise = torch.randn(len(scenes), 4, a.size[0] // 8, a.size[1] // 8, generator=generator)
    texts, words = [plain_caption(s) for s in scenes], []
    again = model.decode(images.latents(model.vae, clip.video[:, :, 0], mode=True))
    recall, precision = followed(canny(to_bytes(again)), edges)
    words.append(f"\n  through the autoencoder: wanted edges found {100 * recall:.1f} %, found edges wanted {100 * precision:.1f} %")
    for name, given in (("without", None), ("with", (net, picture, a.weight))):
        x = model.decode(model.sample(texts, noise, guidance, model.scheduler(a.scheduler, steps), given))
        seen = seen_by(judge, x)
        recall, precision = followed(canny(to_bytes(x)), edges)
        iou = boxes_iou(seen["box"], relative(clip.boxes[:, 0] * (HEIGHT / a.size[0])))
        words.append(f"\n  {name}: wanted edges found {100 * recall:.1f} %, found edges wanted {100 * precision:.1f} %, "
                     f"box IoU {iou.mean().item():.3f}; {line(seen, scenes)}")
    return "".join(words), [picture * 2 - 1, x]


def instruct(a, model: Model, judge, steps: int, guidance: float):
    rng, generator = random.Random(a.seed + 3), torch.Generator().manual_seed(a.seed)
    asked = [edits.edit(rng, "unseen" if i % 2 else "train") for i in range(a.captions)]
    before, after, kinds = ([row[i] for row in asked] for i in range(3))
    x, _ = images.pictures(before, [images.moment(rng) for _ in asked], a.size, "cpu")
    texts = [edits.instructions(*row)[0] for row in asked]
    noise = torch.randn(len(asked), 4, a.size[0] // 8, a.size[1] // 8, generator=generator)
    words = []
    for image_guidance in a.image_guidance:
        torch.manual_seed(a.seed)
        y = model.decode(model.edit(texts, x, noise, guidance, image_guidance, model.scheduler(a.scheduler, steps)))
        seen = seen_by(judge, y)
        good = torch.stack([right(seen, after, name) for name in JUDGED], 1)
        which = torch.tensor([JUDGED.index(kind) for kind in kinds])
        changed, rest = good.gather(1, which[:, None])[:, 0], good.clone()
        rest[torch.arange(len(which)), which] = True
        each = ", ".join(f"{name} {percent(changed[which == i])}" for i, name in enumerate(JUDGED))
        stay = ", ".join(f"{name} {percent(good[which != i, i])}" for i, name in enumerate(JUDGED))
        words.append(f"\n  image guidance {image_guidance}: changed {percent(changed)} ({each}), rest stays {percent(rest.all(1))} ({stay}), "
                     f"both {percent(good.all(1))}")
    return "".join(words), [x, y]


def main():
    a = arguments()
    setup(a.seed)
    judge = load_judge(a.judge)
    model = Model(a.model, "instruct/unet" if a.kind == "instruct" else "unet")
    for steps in a.steps:
        for guidance in a.guidance:
            began = time.process_time()
            words, rows = {"text": text, "control": control, "instruct": instruct}[a.kind](a, model, judge, steps, guidance)
            print(f"{a.kind}, {a.captions}, {a.scheduler}, {steps} steps, guidance {guidance}: {words}; "
                  f"{time.process_time() - began:.0f} s", flush=True)
    if a.sheet:
        sheet(rows, a.sheet)


if __name__ == "__main__":
    main()

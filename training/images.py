"""What the stages of the image models share: banks of stills, the noise schedule, the networks, the loop, the folder.

The networks are those of Stable Diffusion 1.x, small: CLIP text encoder, UNet2DConditionModel, ControlNetModel, and an
InstructPix2Pix UNet with eight input channels. v-prediction on Stable Diffusion's betas.
"""

import argparse
import json
import math
import os
import random
import time
from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import clip_tokenizer
from common import Average, Clock, State, Team, autocast, export, learning_rate, optimizer_of
from render import render
from world import FPS, FRAMES, HEIGHT, WIDTH

WIDTHS, TEXT = (48, 48), 64
_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def arguments(parser: argparse.ArgumentParser, state: str) -> argparse.Namespace:
    """The options of every stage beside its own."""
    p = parser
    p.add_argument("--out", required=True, help="the model's folder")
    p.add_argument("--state", help=f"folder of the resumable state (default: OUT/state/{state})")
    p.add_argument("--minutes", type=float, default=8.0, help="of this run, the bank included")
    p.add_argument("--total", type=float, help="minutes of all runs together, for the learning rate (default: --minutes)")
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--warmup", type=int, default=50, help="steps until the learning rate is reached, in each run")
    p.add_argument("--average", type=float, default=0.998, help="decay of the moving average, in a step")
    p.add_argument("--bank", type=int, default=16000, help="stills")
    p.add_argument("--first", type=int, default=1500, help="stills to begin with; the others come while training goes on")
    p.add_argument("--grow", type=int, default=32, help="stills more in every fourth step, up to --bank")
    p.add_argument("--bank-file", help="keeps the bank between runs")
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="height and width (tests)")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    a.state = a.state or os.path.join(a.out, "state", state)
    return a


def schedule() -> DDIMScheduler:
    return DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
                         steps_offset=1, prediction_type="v_prediction")


def text_encoder(vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=TEXT, intermediate_size=2 * TEXT, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=clip_tokenizer.LENGTH, hidden_act="quick_gelu", projection_dim=TEXT, attention_dropout=0.0,
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1))


def unet(size, inputs: int = 4, latent: int = 4) -> UNet2DConditionModel:
    """Attention on the cells of the latents and in the middle, as Stable Diffusion's upper levels and its last have it. Residual
    branches and the output start as zero."""
    net = UNet2DConditionModel(
        sample_size=(size[0] // 8, size[1] // 8), in_channels=inputs, out_channels=latent, block_out_channels=WIDTHS,
        layers_per_block=1, down_block_types=_BLOCKS[0], up_block_types=_BLOCKS[1], cross_attention_dim=TEXT,
        attention_head_dim=3, norm_num_groups=8)
    for name, module in net.named_modules():
        if name.endswith(("conv2", "conv_out", "proj_out")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return net


def controlnet(net: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the UNet's downward half for pictures of edges."""
    return ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 8, 16, 16))


def inner(name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter is updated as a matrix: those inside blocks, not the first and last layers or tables."""
    outer = ("conv_in.", "conv_out.", "time_embedding.", "embeddings.", "head.", "cond_embedding.", "controlnet_")
    return parameter.dim() >= 2 and not any(part in name for part in outer)


def pictures(scenes, starts, size, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The frame of each scene at its start: pictures [B, 3, H, W] in [-1, 1] and masks of the subject [B, 1, H, W]."""
    clip = render(scenes, 1, *size, device=device, start=starts)
    return clip.video[:, :, 0], clip.mask[:, :, 0]


@torch.no_grad()
def latents(vae: AutoencoderKL, x: torch.Tensor, mode: bool = False) -> torch.Tensor:
    with autocast(x.device.type):
        posterior = vae.encode(x).latent_dist
    z = posterior.mode() if mode else posterior.sample()
    return z.float() * vae.config.scaling_factor


def moment(rng: random.Random) -> float:
    """A time in a clip, in seconds."""
    return rng.random() * (FRAMES - 1) / FPS


class Bank:
    """Rows of tensors that were made once. `make(rng, count)` gives a dictionary of tensors and, under "notes", a list of plain
    values; rows of all calls are kept one after the other."""

    def __init__(self, make: Callable, seed: int, file: str | None):
        self.make, self.file, self.rng = make, file, random.Random(seed + 17)
        self.tensors, self.notes, self.saved = {}, [], 0
        if file and os.path.exists(file):
            held = torch.load(file, weights_only=True)
            self.notes = held.pop("notes")
            self.tensors, self.saved = held, len(self.notes)
            self.rng.seed(seed + 17 + len(self.notes))

    def __len__(self) -> int:
        return len(self.notes)

    def grow(self, count: int):
        """To `count` rows."""
        parts = [self.tensors] if self.tensors else []
        while len(self) < count:
            made = self.make(self.rng, min(32, count - len(self)))
            self.notes += made.pop("notes")
            parts.append(made)
        self.tensors = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def save(self):
        if self.file and len(self) > self.saved:
            self.saved = len(self)
            partial = f"{self.file}.{os.getpid()}.partial"
            torch.save(self.tensors | {"notes": self.notes}, partial)
            os.replace(partial, self.file)

    def rows(self, count: int) -> tuple[dict, list]:
        index = torch.randint(len(self), (count,))
        return {key: value[index] for key, value in self.tensors.items()}, [self.notes[i] for i in index.tolist()]


def noised(z: torch.Tensor, alphas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Time steps spread over the batch, the noisy latents, v, and alpha as [B, 1, 1, 1]."""
    place = (torch.arange(len(z)) + torch.rand(len(z))) / len(z)
    t = (place * 1000).long().clamp(max=999)
    alpha = alphas[t].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    return t, alpha.sqrt() * z + (1 - alpha).sqrt() * noise, alpha.sqrt() * noise - (1 - alpha).sqrt() * z, alpha


def error_of(made: torch.Tensor, v: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return ((made.float() - v).square() * weight).mean() / weight.mean()


@dataclass
class Stage:
    """What the loop needs to know of a stage."""

    name: str
    net: torch.nn.Module  # all that is trained
    loss: Callable  # () -> the loss, and a line for the log
    write: Callable  # writes the model's folder, with the weights that `net` holds then
    bank: Bank
    rows: str = "stills"  # what the bank holds, for the log
    inner: Callable = inner  # (name, parameter) -> whether it is updated as a matrix


def run(a: argparse.Namespace, team: Team, stage: Stage) -> dict:
    """Trains until the time is over; returns what was done."""
    average = Average(stage.net, a.average)
    optimizer = optimizer_of(stage.net, a.lr, stage.inner, betas=(0.9, 0.98), weight_decay=0.01)
    state, before, done = State(a.state), 0.0, 0
    if a.resume and state.exists():
        record = state.load(stage.net, average, optimizer)
        before, done = record["minutes"], record["steps"]
    print(f"{stage.name}: {sum(p.numel() for p in stage.net.parameters() if p.requires_grad) / 1e6:.2f} M parameters, "
          f"{done} steps in {before:.1f} min before", flush=True)
    began = time.time()
    stage.bank.grow(max(len(stage.bank), min(a.first, a.bank)))
    if not team.rank:
        stage.bank.save()
    print(f"bank: {len(stage.bank)} {stage.rows}, {time.time() - began:.0f} s", flush=True)
    torch.manual_seed(a.seed + done + 7919 * team.rank)
    clock = Clock(max(0.1, a.minutes - (time.time() - began) / 60), a.total or a.minutes, before, a.steps)

    def save():
        if team.rank:
            return
        state.save(stage.net, average, optimizer, clock, {"steps": done + clock.count})
        average.swap()
        stage.write()
        average.swap()

    saved, running = time.time(), None
    while True:
        more, rate = team.agree(clock.tick(), learning_rate(a.lr, clock, a.warmup))
        if not more:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, line = stage.loss()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        team.average_gradients(stage.net)
        torch.nn.utils.clip_grad_norm_([p for p in stage.net.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        average.update()
        if clock.count % 4 == 0 and len(stage.bank) < a.bank:
            stage.bank.grow(min(a.bank, len(stage.bank) + a.grow))
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if not team.rank and (clock.count % 50 == 0 or 0 < a.steps <= 20):
            if not math.isfinite(running):
                raise SystemExit(f"the loss is {running} at step {done + clock.count}; the last state is in {state.folder}")
            print(f"step {done + clock.count} loss {running:.4f} {line} {clock.rate():.2f} it/s, {len(stage.bank)} {stage.rows}, "
                  f"{time.process_time() / 60:.1f} core min", flush=True)
        if time.time() - saved > 150:
            save()
            if not team.rank:
                stage.bank.save()
            saved = time.time()
    clock.count -= 1
    save()
    if not team.rank:
        stage.bank.save()
    return {"steps": done + clock.count, "minutes": round(clock.before + clock.spent(), 1), "loss": running, "batch": a.batch,
            "processes": team.size, stage.rows: len(stage.bank), "core_minutes": round(time.process_time() / 60, 1)}


def load(folder: str, kind, name: str, device: str = "cpu"):
    """A part of a folder, in f32, not to be trained."""
    return kind.from_pretrained(os.path.join(folder, name)).float().to(device).eval().requires_grad_(False)


def write_json(path: str, value: dict):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        json.dump(value, file, indent=1)


def write_index(folder: str, name: str, class_name: str, scheduler: str = "DDIMScheduler", from_parent=()):
    """model_index.json; the parts that Stable Diffusion has and this has not are null. `from_parent`: parts that are those of the
    folder around it, which vidgen's own key names."""
    nothing, own = [None, None], {"_from_parent": list(from_parent)} if from_parent else {}
    write_json(os.path.join(folder, name), {
        "_class_name": class_name, **own, "feature_extractor": nothing, "image_encoder": nothing, "requires_safety_checker": False,
        "safety_checker": nothing, "scheduler": ["diffusers", scheduler], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]})

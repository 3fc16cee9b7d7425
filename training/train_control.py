"""Trains the ControlNet of the image model on edges (`edges.py`), under its frozen UNet. Writes OUT/controlnet.

    TOYLAND_F32=1 python train_control.py --out OUT --minutes 15

It begins as the downward half of the UNet with zero outputs. The text is the empty prompt in a third of the samples, so that the
edges have to say what the text does not.
"""

import argparse
import json
import os
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import images
from bank import cells_of
from common import Team, autocast, export, setup
from edges import canny
from judge_data import to_bytes
from world import Scene, caption, sample


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subject", type=float, default=6.0, help="weight of the subject's cells, without noise")
    p.add_argument("--drop", type=float, default=0.3, help="chance of each clause to be left out of a caption")
    p.add_argument("--empty", type=float, default=0.33, help="share of empty prompts")
    return images.arguments(p, "control")


def maker(vae: AutoencoderKL, size, device: str):
    def make(rng: random.Random, count: int) -> dict:
        scenes, starts = [sample(rng) for _ in range(count)], [images.moment(rng) for _ in range(count)]
        x, mask = images.pictures(scenes, starts, size, device)
        return {"z": images.latents(vae, x).half(), "outline": (F.avg_pool2d(mask[:, 0], 2) * 255).round().byte(),
                "edges": canny(to_bytes(x)), "notes": [(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes]}

    return make


class Losses:
    def __init__(self, a, nets, unet, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.unet, self.text, self.bank, self.captions, self.device = a, nets, unet, text, bank, captions, device
        self.rng, self.alphas = random.Random(seed), images.schedule().alphas_cumprod.float()

    def __call__(self) -> tuple[torch.Tensor, str]:
        a = self.a
        rows, notes = self.bank.rows(a.batch)
        scenes = [Scene(*note) for note in notes]
        z, outline = rows["z"].float(), rows["outline"].float() / 255
        texts = ["" if self.rng.random() < a.empty else caption(scene, self.rng, a.drop) for scene in scenes]
        t, noisy, v, alpha = images.noised(z, self.alphas)
        picture = (rows["edges"].float() / 255).expand(-1, 3, -1, -1)
        with autocast(self.device):
            with torch.no_grad():
                embedding = self.text(input_ids=self.captions.ids(texts)).last_hidden_state
            down, mid = self.nets["controlnet"](noisy, t, embedding, picture, return_dict=False)
            made = self.unet(noisy, t, embedding, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        weight = 1 + (a.subject - 1) * cells_of(outline.unsqueeze(1)) * alpha
        error = images.error_of(made, v, weight)
        return error, ""


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    captions = clip_tokenizer.Captions(os.path.join(a.out, "tokenizer"))
    vae, unet = images.load(a.out, AutoencoderKL, "vae", device), images.load(a.out, UNet2DConditionModel, "unet", device)
    text = images.load(a.out, CLIPTextModel, "text_encoder", device)
    nets = torch.nn.ModuleDict({"controlnet": images.controlnet(unet)}).to(device).requires_grad_(True).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, device), own + 2, a.bank_file and f"{a.bank_file}.{team.rank}")
    write = lambda: export(nets["controlnet"], os.path.join(a.out, "controlnet"))
    losses = Losses(a, nets, unet, text, bank, captions, device, own + 6)
    result = images.run(a, team, images.Stage("control", nets, losses, write, bank))
    if not team.rank:
        images.write_json(os.path.join(a.out, "control.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

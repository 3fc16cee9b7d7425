"""Trains the InstructPix2Pix UNet of the image model, on edits of scenes (`edits.py`). Writes OUT/instruct, a folder that has no
autoencoder, text encoder and tokenizer of its own: they are those of OUT.

    TOYLAND_F32=1 python train_instruct.py --out OUT --minutes 25

It begins as the image model's UNet with zero weights for the four channels that the picture's latents enter by. A row of the bank
is a scene and its edits, one of each attribute; edits are learned in both directions. Text, picture and both are left out in
`--without` of the samples each.
"""

import argparse
import json
import os
import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import edits
import images
from bank import cells_of
from common import Team, autocast, export, setup
from world import Scene, held_out, sample


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subject", type=float, default=8.0, help="weight of the subject's cells, without noise")
    p.add_argument("--without", type=float, default=0.05, help="share of samples without text, without picture, without both")
    return images.arguments(p, "instruct")


def family(rng: random.Random) -> list[Scene]:
    """A scene, then an edit of each attribute; no held-out combination among them."""
    while True:
        scene = sample(rng)
        options = [[s for s in edits.neighbours(scene, name) if not held_out(*s.combination())] for name in edits.EDITED]
        if all(options):
            return [scene] + [rng.choice(scenes) for scenes in options]


def maker(vae: AutoencoderKL, size, device: str):
    def make(rng: random.Random, count: int) -> dict:
        families = [family(rng) for _ in range(min(count, 8))]
        starts = [start for start in (images.moment(rng) for _ in families) for _ in range(5)]
        x, mask = images.pictures([scene for scenes in families for scene in scenes], starts, size, device)
        z, outline = images.latents(vae, x, mode=True).half(), (F.avg_pool2d(mask[:, 0], 2) * 255).round().byte()
        rows = [[(s.colour, s.shape, s.motion, s.place, s.time, s.seed) for s in scenes] for scenes in families]
        return {"z": z.unflatten(0, (-1, 5)), "outline": outline.unflatten(0, (-1, 5)), "notes": rows}

    return make


class Losses:
    def __init__(self, a, nets, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.text, self.bank, self.captions, self.device = a, nets, text, bank, captions, device
        self.rng, self.alphas = random.Random(seed), images.schedule().alphas_cumprod.float()

    def pairs(self, rows: dict, notes: list):
        """Latents before and after, the outline after, and an instruction for each row."""
        texts, before, after = [], [], []
        for scenes in notes:
            kind = self.rng.randrange(len(edits.EDITED))
            one, other = (0, kind + 1) if self.rng.random() < 0.5 else (kind + 1, 0)
            choices = edits.instructions(Scene(*scenes[one]), Scene(*scenes[other]), edits.EDITED[kind])
            texts.append(self.rng.choice(choices))
            before.append(one)
            after.append(other)
        each = torch.arange(len(notes))
        return rows["z"][each, before].float(), rows["z"][each, after].float(), rows["outline"][each, after].float() / 255, texts

    def __call__(self) -> tuple[torch.Tensor, str]:
        a = self.a
        seen, z, outline, texts = self.pairs(*self.bank.rows(a.batch))
        t, noisy, v, alpha = images.noised(z, self.alphas)
        chance = torch.rand(len(z))
        texts = ["" if c < 2 * a.without else text for c, text in zip(chance.tolist(), texts)]
        seen = seen * ((chance < a.without) | (chance > 3 * a.without)).float().view(-1, 1, 1, 1)
        with autocast(self.device):
            with torch.no_grad():
                embedding = self.text(input_ids=self.captions.ids(texts)).last_hidden_state
            made = self.nets["unet"](torch.cat([noisy, seen], 1), t, embedding).sample
        weight = 1 + (a.subject - 1) * cells_of(outline.unsqueeze(1)) * alpha
        return images.error_of(made, v, weight), ""


def begin(unet: UNet2DConditionModel, size) -> UNet2DConditionModel:
    """The UNet with four more input channels, which say nothing yet."""
    latent = unet.config.in_channels
    net, held = images.unet(size, inputs=2 * latent, latent=latent), unet.state_dict()
    held["conv_in.weight"] = torch.cat([held["conv_in.weight"], torch.zeros_like(held["conv_in.weight"])], 1)
    net.load_state_dict(held)
    return net


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    captions = clip_tokenizer.Captions(os.path.join(a.out, "tokenizer"))
    vae, text = images.load(a.out, AutoencoderKL, "vae", device), images.load(a.out, CLIPTextModel, "text_encoder", device)
    nets = torch.nn.ModuleDict({"unet": begin(images.load(a.out, UNet2DConditionModel, "unet"), a.size)}).to(device).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, device), own + 3, a.bank_file and f"{a.bank_file}.{team.rank}")
    folder = os.path.join(a.out, "instruct")

    def write():
        export(nets["unet"], os.path.join(folder, "unet"))
        EulerAncestralDiscreteScheduler.from_config(images.schedule().config, timestep_spacing="linspace").save_pretrained(
            os.path.join(folder, "scheduler"))
        images.write_index(folder, "model_index.json", "StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler",
                           from_parent=("text_encoder", "tokenizer", "vae"))

    losses = Losses(a, nets, text, bank, captions, device, own + 7)
    result = images.run(a, team, images.Stage("instruct", nets, losses, write, bank))
    if not team.rank:
        images.write_json(os.path.join(a.out, "instruct.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

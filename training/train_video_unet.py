"""Trains a small UNet3DConditionModel on clips of 16 frames, from the image model's UNet on, with the image model's autoencoder
and text encoder as they are. Writes a folder that TextToVideoSDPipeline and vidgen load.

    TOYLAND_F32=1 OMP_NUM_THREADS=1 python train_video_unet.py --image ../models/toyland-image --out OUT --bank-file BANK --bank 1200 \\
        --first 64 --grow 8 --batch 4 --minutes 50

Latent cells where subjects are wont to be count up to `--band` times, and cells on the subject up to `--subject` times, in
proportion to the signal's share, as in `train_image.py`. The text is the empty prompt in a tenth of the samples.
"""

import argparse
import json
import os
import random
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import clip_tokenizer
import images
import videos
from common import Team, autocast, export, setup
from world import caption


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--image", required=True, help="folder of the image model: autoencoder, text encoder, tokenizer, and the UNet to begin with")
    p.add_argument("--subject", type=float, default=12.0, help="weight of the subject's cells, without noise")
    p.add_argument("--band", type=float, default=3.0, help="weight of the cells where subjects are most often")
    p.add_argument("--drop", type=float, default=0.15, help="chance of each clause to be left out of a caption")
    return images.arguments(p, "video")


class Losses:
    """The loss of a batch."""

    def __init__(self, a, nets, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.text, self.bank, self.captions, self.device = a, nets, text, bank, captions, device
        self.rng, self.alphas = random.Random(seed), videos.schedule().alphas_cumprod.float()
        self.weights = videos.Weights(a.band, a.subject)

    def __call__(self) -> tuple[torch.Tensor, str]:
        rows, notes = self.bank.rows(self.a.batch)
        texts = [caption(scene, self.rng, self.a.drop) if self.rng.random() > 0.1 else "" for scene in videos.scenes_of(notes)]
        t, noisy, v, alpha = videos.noised(rows["z"].float(), self.alphas)
        with autocast(self.device):
            with torch.no_grad():
                text = self.text(input_ids=self.captions.ids(texts)).last_hidden_state
            made = self.nets["unet"](noisy, t, text).sample
        error = images.error_of(made, v, self.weights(self.bank, rows["cover"], alpha))
        return error, f"v {error.item():.4f}"


def copy_parts(image: str, out: str):
    """Autoencoder, text encoder and tokenizer of the image model, as they are."""
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(os.path.join(image, part), os.path.join(out, part), dirs_exist_ok=True)
    videos.schedule().save_pretrained(os.path.join(out, "scheduler"))


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae, text = images.load(a.image, AutoencoderKL, "vae", device), images.load(a.image, CLIPTextModel, "text_encoder", device)
    unet = videos.unet(a.size)
    videos.begin(unet, images.load(a.image, UNet2DConditionModel, "unet"))
    videos.hasten(unet)
    nets = torch.nn.ModuleDict({"unet": unet}).to(device).train()
    own = a.seed + 7919 * team.rank
    bank = images.Bank(videos.maker(vae, a.size, device, early=2.0), own, a.bank_file and f"{a.bank_file}.{team.rank}")

    def write():
        export(nets["unet"], os.path.join(a.out, "unet"))
        copy_parts(a.image, a.out)
        images.write_json(os.path.join(a.out, "model_index.json"), {
            "_class_name": "TextToVideoSDPipeline", "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})

    losses = Losses(a, nets, text, bank, clip_tokenizer.Captions(os.path.join(a.image, "tokenizer")), device, own + 5)
    result = images.run(a, team, images.Stage("video UNet", nets, losses, write, bank, "clips"))
    if not team.rank:
        images.write_json(os.path.join(a.out, "video.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

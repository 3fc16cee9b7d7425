"""Trains StreamingT2V's conditional attention and appearance preservation modules on a video UNet, which stays as it is unless it is
thawed: CAM, mergers, mixers and resampler. Writes a folder that vidgen makes streams with.

    TOYLAND_F32=1 OMP_NUM_THREADS=1 python train_stream.py --base VIDEO --encoder OUT/image_encoder --out OUT --bank-file BANK --bank 800 \\
        --first 64 --grow 6 --batch 4 --minutes 50

A sample is a clip of a scene, the first frames of it as the decoder gives them (that is what CAM sees), and an earlier frame of the
scene as the anchor. At first `--fit` steps teach CAM's encoder of pixels to say what `conv_in` says of the latents of those frames.
"""

import argparse
import json
import os
import random
import shutil

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

import clip_tokenizer
import images
import streaming
import videos
from common import State, Team, autocast, export, setup
from judge_data import from_bytes, to_bytes
from world import caption, sample

BEFORE, TOKENS, PIXELS = 8, 4, (8, 16, 24, 32)


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", required=True, help="folder of the video model, as train_video_unet.py wrote it")
    p.add_argument("--encoder", required=True, help="folder of the image encoder, as train_image_encoder.py wrote it")
    p.add_argument("--fit", type=int, default=150, help="steps for CAM's encoder of pixels alone, before the others")
    p.add_argument("--spoil", type=float, default=0.2, help="most noise in the latents of the frames that CAM sees, in deviations")
    p.add_argument("--thaw", action="store_true", help="train the main UNet's own layers too; `base_unet` keeps those of --base")
    p.add_argument("--subject", type=float, default=12.0, help="weight of the subject's cells, without noise")
    p.add_argument("--band", type=float, default=3.0, help="weight of the cells where subjects are most often")
    p.add_argument("--drop", type=float, default=0.15, help="chance of each clause to be left out of a caption")
    return images.arguments(p, "stream")


def maker(vae: AutoencoderKL, size, side: int, spoil: float, device: str, draw=sample):
    """The rows of `videos.maker`, with `before` [N, S, 3, H, W] (bytes), the first frames as decoded from latents with some noise, and
    `anchor` [N, 3, side, side], an earlier frame of the scene as the image encoder sees it."""

    def make(rng: random.Random, count: int) -> dict:
        rows = videos.maker(vae, size, device, draw=draw)(rng, count)
        starts = rows["start"].tolist()
        earlier, _ = images.pictures(videos.scenes_of(rows["notes"]), [rng.random() * start for start in starts], size, device)
        z = rows["z"][:, :, :BEFORE].float()
        noise = torch.tensor([rng.random() * spoil for _ in starts]).view(-1, 1, 1, 1, 1)
        before = videos.decode(vae, z + noise * torch.randn_like(z))
        anchor = videos.decode(vae, images.latents(vae, earlier).unsqueeze(2))[:, 0]
        return rows | {"before": to_bytes(before), "anchor": streaming.prepared(anchor, side).half()}

    return make


def fit(cam: streaming.StreamingCAM, bank: images.Bank, steps: int, batch: int, device: str):
    """Teaches CAM's encoder of pixels to say what `conv_in` says of the latents of those frames."""
    net = cam.controlnet_cond_embedding
    optimizer, shares = torch.optim.AdamW(net.parameters(), lr=3e-3), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        rows, _ = bank.rows(batch)
        with torch.no_grad():
            wanted = cam.conv_in(rows["z"][:, :, :BEFORE].float().transpose(1, 2).flatten(0, 1))
        error = (net(from_bytes(rows["before"], device).flatten(0, 1)) - wanted).square().mean() / wanted.var()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        shares.append(error.item())
        if step % 50 == 49 or step + 1 == steps:
            print(f"fit {step + 1}: {100 * sum(shares[-50:]) / len(shares[-50:]):.1f} % of the variance left", flush=True)


class Losses:
    """The loss of a batch. Of ten samples one has no text or no anchor, or neither: they teach the half without."""

    def __init__(self, a, nets, tower, text, bank: images.Bank, captions: clip_tokenizer.Captions, device: str, seed: int):
        self.a, self.nets, self.tower, self.text, self.bank = a, nets, tower, text, bank
        self.captions, self.device = captions, device
        self.rng, self.alphas = random.Random(seed), videos.schedule().alphas_cumprod.float()
        self.weights = videos.Weights(a.band, a.subject)
        self.grey = streaming.prepared(torch.zeros(1, 3, *a.size), tower.config.image_size)

    def __call__(self) -> tuple[torch.Tensor, str]:
        rows, notes = self.bank.rows(self.a.batch)
        kinds = [self.rng.random() for _ in notes]
        texts = [caption(scene, self.rng, self.a.drop) if kind < 0.90 or 0.95 <= kind else "" for kind, scene in
                 zip(kinds, videos.scenes_of(notes))]
        bare = torch.tensor([kind >= 0.925 for kind in kinds]).view(-1, 1, 1, 1)
        t, noisy, v, alpha = videos.noised(rows["z"].float(), self.alphas)
        nets = self.nets
        with autocast(self.device):
            with torch.no_grad():
                text = self.text(input_ids=self.captions.ids(texts)).last_hidden_state
                seen = self.tower(pixel_values=torch.where(bare, self.grey, rows["anchor"].float())).image_embeds
            tokens = torch.cat([text, nets["resampler"](seen)], 1)
            memory = nets["cam"](noisy[:, :, :BEFORE], t, text, from_bytes(rows["before"], self.device))
            made = streaming.predict(nets["unet"], noisy, t, tokens, memory)
        weight = self.weights(self.bank, rows["cover"], alpha)
        error = images.error_of(made, v, weight)
        halves = [images.error_of(*(part[:, :, cut] for part in (made, v, weight))).item() for cut in (slice(BEFORE), slice(BEFORE, None))]
        alphas = [F.silu(attn.alpha).item() for attn in streaming.cross_attentions(nets["unet"])]
        return error, f"v {error.item():.4f} (seen {halves[0]:.4f}, new {halves[1]:.4f}) mixed {min(alphas):.3f}..{max(alphas):.3f}"


def index(out: str, parts: dict):
    images.write_json(os.path.join(out, "model_index.json"), {
        "_class_name": "StreamingT2VPipeline", "anchor_frame": 0, "chunk_frames": videos.CHUNK} | parts)


def main():
    a = arguments()
    device, team = setup(a.seed), Team()
    vae, text = images.load(a.base, AutoencoderKL, "vae", device), images.load(a.base, CLIPTextModel, "text_encoder", device)
    base = images.load(a.base, UNet3DConditionModel, "unet", device)
    tower = CLIPVisionModelWithProjection.from_pretrained(a.encoder).float().to(device).eval().requires_grad_(False)
    unet = streaming.streaming_unet(base, clip_tokenizer.LENGTH, TOKENS)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(a.thaw or "merger" in name or ".attn2.conv" in name or name.endswith(".alpha"))
    cam = streaming.StreamingCAM(base, PIXELS, BEFORE).requires_grad_(True)
    resampler = streaming.StreamingResampler(tower.config.projection_dim, images.TEXT, images.TEXT, TOKENS)
    nets = torch.nn.ModuleDict({"unet": unet, "cam": cam, "resampler": resampler}).to(device).train()
    for module in nets.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    videos.hasten(nets)
    own = a.seed + 7919 * team.rank
    bank = images.Bank(maker(vae, a.size, tower.config.image_size, a.spoil, device), own, a.bank_file and f"{a.bank_file}.{team.rank}")
    if not (a.resume and State(a.state).exists()):
        bank.grow(max(len(bank), min(a.first, a.bank)))
        fit(nets["cam"], bank, a.fit, a.batch, device)

    def write():
        streaming.write_part(nets["unet"], os.path.join(a.out, "unet"), streaming.settings_of(nets["unet"]), "StreamingUNet3DConditionModel")
        for name, kind in (("cam", "StreamingCAM"), ("resampler", "StreamingResampler")):
            streaming.write_part(nets[name], os.path.join(a.out, name), nets[name].settings, kind)
        export(base, os.path.join(a.out, "base_unet"))
        export(tower, os.path.join(a.out, "image_encoder"), "model.safetensors")
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            shutil.copytree(os.path.join(a.base, part), os.path.join(a.out, part), dirs_exist_ok=True)
        index(a.out, {"base_unet": ["diffusers", "UNet3DConditionModel"], "cam": ["vidgen", "StreamingCAM"],
                      "image_encoder": ["transformers", "CLIPVisionModelWithProjection"], "resampler": ["vidgen", "StreamingResampler"],
                      "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
                      "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["vidgen", "StreamingUNet3DConditionModel"],
                      "vae": ["diffusers", "AutoencoderKL"]})

    losses = Losses(a, nets, tower, text, bank, clip_tokenizer.Captions(os.path.join(a.base, "tokenizer")), device, own + 5)
    result = images.run(a, team, images.Stage("stream", nets, losses, write, bank, "clips"))
    if not team.rank:
        images.write_json(os.path.join(a.out, "stream.json"), result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()

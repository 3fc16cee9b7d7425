"""Trains DreamVideo-2's modules (arXiv 2410.13830) on a ModelScope folder and clips with boxes; writes a folder that vidgen reads.

    python train.py --base text-to-video-ms-1.7b --data clips.jsonl --out OUT --batch 1 --accumulate 144

The base stays as it is. The defaults are the paper's: AdamW, learning rate 1e-4, no weight decay, 30,000 updates of 144 clips, the boxes'
cells counted twice, masks with 0.75 outside. `--out` is written every `--save` updates, and a run goes on from there with `--resume`.
"""

import argparse
import json
import os
import random
import shutil
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import subject  # noqa: E402
from clips import Clips  # noqa: E402

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", required=True, help="a folder of TextToVideoSDPipeline")
    p.add_argument("--data", required=True, help="a file of JSON lines, see clips.py")
    p.add_argument("--out", required=True)
    p.add_argument("--size", type=int, nargs=2, default=[448, 256], metavar=("WIDTH", "HEIGHT"))
    p.add_argument("--frames", type=int, default=16)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--accumulate", type=int, default=144, help="batches of an update")
    p.add_argument("--updates", type=int, default=30_000)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--warmup", type=int, default=500)
    p.add_argument("--reweight", type=float, default=2.0, help="weight of the cells in the boxes")
    p.add_argument("--outside", type=float, default=0.75, help="weight of reference attention outside the boxes")
    p.add_argument("--offset-noise", type=float, default=0.0, help="deviation of one more number of each frame and channel (the base had 0.1)")
    p.add_argument("--text-drop", type=float, default=0.1)
    p.add_argument("--bare", type=float, default=0.05, help="share of samples without text, subject and boxes")
    p.add_argument("--save", type=int, default=500)
    p.add_argument("--resume", action="store_true")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


class Trainer:
    def __init__(self, a: argparse.Namespace):
        self.a, self.rng = a, random.Random(a.seed)
        torch.manual_seed(a.seed)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        load = lambda kind, part: kind.from_pretrained(os.path.join(a.base, part)).float().to(self.device).eval().requires_grad_(False)
        self.unet, self.vae, self.text = load(UNet3DConditionModel, "unet"), load(AutoencoderKL, "vae"), load(CLIPTextModel, "text_encoder")
        self.tokenizer = CLIPTokenizer.from_pretrained(os.path.join(a.base, "tokenizer"))
        self.scheduler = DDIMScheduler.from_pretrained(os.path.join(a.base, "scheduler"))
        self.net = subject.load(self.unet, a.out) if a.resume else subject.Subject(self.unet)
        self.net.reference_attention.settings["outside_weight"] = a.outside
        self.net.to(self.device).requires_grad_(True).train()
        if self.device == "cuda":
            self.unet.enable_gradient_checkpointing()
            self.net.controlnet.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=a.lr, weight_decay=0.0)
        self.done = 0
        if a.resume:
            held = torch.load(os.path.join(a.out, "state.pt"), weights_only=True)
            self.optimizer.load_state_dict(held["optimizer"])
            self.done = held["done"]

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents [N, 4, h, w] of pictures [N, 3, H, W]."""
        return self.vae.encode(pictures.to(self.device)).latent_dist.mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def texts(self, captions: list[str]) -> torch.Tensor:
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt")
        return self.text(input_ids=ids["input_ids"].to(self.device)).last_hidden_state

    def target(self, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.scheduler.get_velocity(z, noise, t) if self.scheduler.config.prediction_type == "v_prediction" else noise

    def loss(self, batch: dict) -> torch.Tensor:
        a, net = self.a, self.net
        count, frames = batch["video"].shape[:2]
        height, width = batch["video"].shape[3:]
        z = self.encode(batch["video"].flatten(0, 1)).unflatten(0, (count, frames)).transpose(1, 2)
        bare = self.rng.random() < a.bare
        captions = ["" if bare or self.rng.random() < a.text_drop else caption for caption in batch["caption"]]
        text = self.texts(captions)
        boxes = [tuple(box) if box[2] > box[0] else None for box in batch["boxes"].flatten(0, 1).tolist()]
        masks = torch.stack([subject.pixel_mask(box, height, width) for box in boxes]).unflatten(0, (count, frames))
        t = torch.randint(self.scheduler.config.num_train_timesteps, (count,), device=self.device)
        noise = torch.randn_like(z)
        if a.offset_noise:
            noise = noise + a.offset_noise * torch.randn_like(z[..., :1, :1])
        noisy = self.scheduler.add_noise(z, noise, t)
        net.reference_attention.features = {}
        if not bare:
            with torch.no_grad():
                net.reference_attention.collect(self.unet, self.encode(batch["subject"]), text)
        made = net.predict(noisy, t, text, None if bare else boxes, None if bare else masks.to(self.device))
        inside = subject.cells_of(boxes, z.shape[3:]).unflatten(0, (count, frames)).unsqueeze(1).to(z)
        return subject.reweighted(made.float(), self.target(z, noise, t), inside, a.reweight)

    def save(self):
        subject.write(self.net, self.a.out)
        for part in PARTS:
            target = os.path.join(self.a.out, part)
            if not os.path.exists(target):
                shutil.copytree(os.path.join(self.a.base, part), target)
        with open(os.path.join(self.a.out, "model_index.json"), "w") as file:
            json.dump(subject.INDEX, file, indent=1)
        partial = os.path.join(self.a.out, "state.pt.partial")
        torch.save({"optimizer": self.optimizer.state_dict(), "done": self.done}, partial)
        os.replace(partial, os.path.join(self.a.out, "state.pt"))

    def run(self, data: Clips):
        a = self.a
        loader = torch.utils.data.DataLoader(data, a.batch, shuffle=True, drop_last=len(data) >= a.batch, num_workers=a.workers)
        batches, losses = iter(loader), []
        while self.done < a.updates:
            for _ in range(a.accumulate):
                try:
                    batch = next(batches)
                except StopIteration:
                    batches = iter(loader)
                    batch = next(batches)
                with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                    loss = self.loss(batch)
                (loss / a.accumulate).backward()
                losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = a.lr * min(1.0, (self.done + 1) / a.warmup)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.done += 1
            if self.done % 10 == 0 or self.done == a.updates:
                print(f"update {self.done} loss {sum(losses) / len(losses):.4f}", flush=True)
                losses = []
            if self.done % a.save == 0 or self.done == a.updates:
                self.save()


def main():
    a = arguments()
    data = Clips(a.data, tuple(a.size), a.frames)
    print(f"{len(data)} clips" + "".join(f"; {count} left out: {reason}" for reason, count in data.left_out.items()), flush=True)
    Trainer(a).run(data)


if __name__ == "__main__":
    main()

"""Trains the transformer (diffusers' CogVideoXTransformer3DModel, CogVideoX-2B's kind) and its T5 text encoder together.
Writes a diffusers pipeline folder that CogVideoXPipeline and vidgen load.

    python train_transformer.py --vae OUT/vae --out OUT --minutes 8 --total 16            # one GPU; then again with --resume
    python train_transformer.py --vae OUT/vae --out OUT --minutes 9 --total 240 --resume \\
        --batch 8 --bank 1500 --bank-file BANK --short 0.8                                # two CPU cores, again and again

v-prediction on CogVideoX-2B's schedule (shift 3, zero terminal SNR), uniform time steps; the text becomes an all-zero
embedding in a tenth of the samples. Videos are encoded once into a bank in the device's memory, with eight captions each;
on a GPU a part of the bank is replaced as training goes on.

Latent cells where subjects are wont to be count up to `--band` times, in every clip alike. Cells on the subject itself count
up to `--subject` times, in proportion to the signal's share (alpha): a weight that depends on what cannot be seen yet teaches the
model to expect the subject everywhere at once, and it draws a row of them.

A small head that is thrown away afterwards reads from the hidden states of block `--read-at`, in each token: the subject's
outline, 8x8 points of it, and where the subject is its colour, shape and motion. The error of v says little of these, being a few
cells of many; the head says it loudly, so that the blocks before it put the subject's words where the subject is.
"""

import argparse
import json
import math
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from transformers import T5Config, T5EncoderModel

import tokenizer
from bank import Bank, cells_of
from common import Average, Clock, State, Team, autocast, export, learning_rate, optimizer_of, setup
from world import ATTRIBUTES, FRAMES, HEIGHT, WIDTH, caption, plain_caption, sample

CAPTIONS = 8  # per clip of the bank
READ = ("colour", "shape", "motion")  # what the head reads beside the outline


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--vae", required=True)
    p.add_argument("--out", required=True, help="pipeline folder")
    p.add_argument("--state", default="", help="where the resumable state is (default: OUT/state/transformer)")
    p.add_argument("--minutes", type=float, default=8, help="of this run, the bank included")
    p.add_argument("--total", type=float, default=0, help="of all runs together, for the learning rate (default: --minutes)")
    p.add_argument("--steps", type=int, default=0, help="stop after this many steps instead (tests)")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--batch", type=int, default=192)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--heads", type=int, default=3)
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--time-width", type=int, default=128)
    p.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], help="height and width (tests)")
    p.add_argument("--bank", type=int, default=32768, help="clips")
    p.add_argument("--bank-minutes", type=float, default=1.5, help="stop filling the bank after this long")
    p.add_argument("--grow", type=int, default=0, help="4 clips more every so many steps, up to --bank; 0: --bank at once")
    p.add_argument("--bank-file", help="keeps the bank between runs (CPU)")
    p.add_argument("--refresh", type=int, default=0, help="replace 64 clips of the bank every so many steps; 0: never")
    p.add_argument("--start", help="a pipeline folder whose transformer and text encoder to begin with, on the same latents")
    p.add_argument("--frames", type=int, default=FRAMES, help="of the bank's clips; 4n + 1")
    p.add_argument("--stills", type=int, default=0, help="single pictures in a bank of their own: many scenes for little time")
    p.add_argument("--still-share", type=float, nargs=2, default=[0.5, 0.5], metavar=("FIRST", "LAST"),
                   help="share of batches that are of stills, as many tokens of them, at the beginning and at the end")
    p.add_argument("--short", type=float, default=0.0, help="share of batches, at first, with 4 latent frames of 4 times as many clips")
    p.add_argument("--subject", type=float, default=4.0, help="weight of the subject's cells, without noise")
    p.add_argument("--band", type=float, default=4.0, help="weight of the cells where subjects are most often")
    p.add_argument("--read", type=float, default=0.05, help="weight of what the head reads")
    p.add_argument("--read-at", type=int, default=4, help="after how many blocks")
    p.add_argument("--least", type=int, default=0, help="the least of the time steps: few-step samplers never see less")
    p.add_argument("--average", type=float, default=0.9995, help="decay of the moving average, in a step")
    p.add_argument("--drop", type=float, default=0.06, help="chance of each clause to be left out of a caption")
    p.add_argument("--muon", action="store_true", help="orthogonal updates of the matrices inside blocks: fewer steps")
    p.add_argument("--warmup", type=int, default=200, help="steps until the learning rate is reached, in each run")
    p.add_argument("--compile", action="store_true", help="torch.compile the transformer")
    p.add_argument("--report", type=int, default=50, help="steps between two lines of the log")
    p.add_argument("--check", action="store_true", help="with each, the error on stills of held-out combinations")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def schedule() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing")


def build(a, latent: int, vocabulary: int) -> torch.nn.ModuleDict:
    text = T5EncoderModel(T5Config(
        vocab_size=vocabulary, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=32, dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False))
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=a.heads, attention_head_dim=64, in_channels=latent, out_channels=latent, time_embed_dim=a.time_width,
        text_embed_dim=128, num_layers=a.layers, sample_width=a.size[1] // 8, sample_height=a.size[0] // 8, sample_frames=FRAMES,
        max_text_seq_length=tokenizer.LENGTH, spatial_interpolation_scale=1.0, temporal_interpolation_scale=1.0)
    for block in transformer.transformer_blocks:  # every block starts as the identity
        for norm in (block.norm1, block.norm2):
            torch.nn.init.zeros_(norm.linear.weight)
            torch.nn.init.zeros_(norm.linear.bias)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    # sincos positions come out in float64 for clips of another length than the configured one
    positions = transformer.patch_embed._get_positional_embeddings
    transformer.patch_embed._get_positional_embeddings = lambda *x, **k: positions(*x, **k).float()
    return torch.nn.ModuleDict({"transformer": transformer, "text": text, "head": Head(a.heads * 64)})


class Head(torch.nn.Module):
    """Reads the subject in each token: 64 numbers of its outline, then the logits of `READ`."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = [64] + [len(ATTRIBUTES[name]) for name in READ]
        self.norm, self.linear = torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(self.sizes))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(hidden))

    def loss(self, read: torch.Tensor, outline: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`read` [B, tokens, sizes], `outline` [B, F, 4h, 4w] between 0 and 1, `labels` [B, READ]."""
        b, f, h, w = outline.shape
        points = outline.view(b, f, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(b, -1, 64)
        made, *logits = read.float().split(self.sizes, -1)
        loss = F.binary_cross_entropy_with_logits(made, points, reduction="sum") / points.sum()
        cover = points.mean(-1)
        for name, part, label in zip(READ, logits, labels.T):
            if name == "motion" and f == 1:
                continue  # a still has none
            error = F.cross_entropy(part.transpose(1, 2), label.view(-1, 1).expand(part.shape[:2]), reduction="none")
            loss = loss + (error * cover).sum() / cover.sum()
        return loss


class Watched(torch.nn.Module):
    """The transformer's own forward pass (as diffusers' class has it for this kind), which also gives out the hidden states
    after `at` blocks."""

    def __init__(self, transformer, at: int):
        super().__init__()
        self.net, self.at = transformer, at

    def forward(self, hidden: torch.Tensor, text: torch.Tensor, time: torch.Tensor):
        net, (b, f, _, h, w) = self.net, hidden.shape
        embedding = net.time_embedding(net.time_proj(time).to(hidden.dtype))
        tokens = net.patch_embed(text, hidden)
        text, tokens = tokens[:, :text.shape[1]], tokens[:, text.shape[1]:]
        for i, block in enumerate(net.transformer_blocks):
            tokens, text = block(hidden_states=tokens, encoder_hidden_states=text, temb=embedding)
            if i + 1 == self.at:
                seen = tokens
        out = net.proj_out(net.norm_out(net.norm_final(tokens), temb=embedding))
        out = out.reshape(b, f, h // 2, w // 2, -1, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
        return out.flatten(5, 6).flatten(3, 4), seen


class Captioned:
    """A bank with captions as ids, `CAPTIONS` for each clip."""

    def __init__(self, a, bank: Bank, captions: tokenizer.Captions):
        self.a, self.bank, self.captions, self.rng = a, bank, captions, random.Random(a.seed + 29)
        self.ids = torch.empty(0)

    def write(self, scenes) -> torch.Tensor:
        texts = [caption(scene, self.rng, self.a.drop) for scene in scenes for _ in range(CAPTIONS)]
        return self.captions.ids(texts).view(len(scenes), CAPTIONS, -1).short().to(self.bank.device)

    def grow(self, count: int, minutes: float = 1e9):
        self.bank.fill(count, minutes)
        new = self.write(self.bank.scenes[len(self.ids):])
        self.ids = torch.cat([self.ids, new]) if len(self.ids) else new

    def fill(self, count: int, minutes: float):
        began = time.time()
        self.grow(count, minutes)
        self.bank.save()
        print(f"bank: {len(self.bank)} clips of {self.bank.frames} frames, {time.time() - began:.0f} s, "
              f"latent std {self.bank.z[:64].float().std():.3f}", flush=True)

    def refresh(self):
        where = self.bank.refresh()
        self.ids[where] = self.write([self.bank.scenes[i] for i in where])

    def batch(self, count: int, frames: int | None = None):
        """Latents [B, F, C, h, w], outlines [B, F, 4h, 4w], captions [B, L], labels [B, READ]."""
        bank, device = self.bank, self.bank.device
        index = torch.randint(len(bank), (count,), device=device)
        which = torch.randint(CAPTIONS, (count,), device=device)
        labels = torch.tensor([[bank.scenes[i].label(name) for name in READ] for i in index.tolist()], device=device)
        return bank.z[index, :frames].float(), bank.outline[index, :frames].float() / 255, self.ids[index, which].long(), labels


def begin_with(nets, folder: str):
    """Takes transformer and text encoder from another pipeline; its pieces keep their embeddings, wherever they stand now."""
    weights = load_file(os.path.join(folder, "transformer", "diffusion_pytorch_model.safetensors"))
    missing, unknown = nets["transformer"].load_state_dict(weights, strict=False)
    if unknown or set(missing) - {"patch_embed.pos_embedding"}:
        raise SystemExit(f"{folder}: not the transformer that is trained here: {[*unknown, *missing]}")
    text = {k: v.float() for k, v in load_file(os.path.join(folder, "text_encoder", "model.safetensors")).items()}
    with open(os.path.join(folder, "tokenizer", "tokenizer.json")) as file:
        old = {piece: i for i, (piece, _) in enumerate(json.load(file)["model"]["vocab"])}
    rows = text.pop("shared.weight")
    table = rows.mean(0) + 0.1 * torch.randn(len(tokenizer.pieces()), rows.shape[1]) * rows.std()
    for i, (piece, _) in enumerate(tokenizer.pieces()):
        if piece in old:
            table[i] = rows[old[piece]]
    missing, unknown = nets["text"].load_state_dict(text | {"shared.weight": table}, strict=False)
    if unknown or set(missing) - {"encoder.embed_tokens.weight"}:
        raise SystemExit(f"{folder}: not the text encoder that is trained here: {[*unknown, *missing]}")


def loss_of(nets, z, outline, ids, labels, band, alphas, a, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The error of v and of what the head reads. `z` [B, F, C, h, w], `outline` [B, F, 4h, 4w], `ids` [B, L], `labels` [B, READ],
    `band` [h, w] between 0 and 1."""
    noise = torch.randn_like(z)
    # spread over the batch instead of independent: the loss is less noisy
    place = (torch.arange(len(z), device=device) + torch.rand(len(z), device=device)) / len(z)
    t = (a.least + place * (1000 - a.least)).long().clamp(max=999)
    alpha = alphas[t].view(-1, 1, 1, 1, 1)
    noisy, v = alpha.sqrt() * z + (1 - alpha).sqrt() * noise, alpha.sqrt() * noise - (1 - alpha).sqrt() * z
    with autocast(device):
        embedding = nets["text"](input_ids=ids).last_hidden_state
        keep = (torch.rand(len(z), 1, 1, device=device) > 0.1).to(embedding.dtype)
        out, hidden = nets["watched"](noisy, embedding * keep, t)
        read = nets["head"].loss(nets["head"](hidden), outline, labels) if a.read else torch.zeros(())
    weight = 1 + (a.band - 1) * band + (a.subject - 1) * cells_of(outline).unsqueeze(2) * alpha
    return ((out.float() - v).square() * weight).mean() / weight.mean(), read


class Check:
    """The error of the estimated latents of 32 held-out stills, always the same, on the subject and beside it. Three noise
    levels: where the subject is not to be seen, is to be guessed at, and is plain."""

    def __init__(self, nets, vae, captions, alphas, a, device: str):
        self.nets, self.alphas, self.device = nets, alphas, device
        rng, chance = random.Random(91), torch.Generator().manual_seed(91)
        scenes = [sample(rng, "unseen") for _ in range(32)]
        z, outline = Bank(vae, a.size, 1, device).encode(scenes)
        self.z, self.cover = z.float(), cells_of(outline)
        self.ids = captions.ids([plain_caption(scene) for scene in scenes]).to(device)
        self.noise = torch.randn(self.z.shape, generator=chance).to(device)

    @torch.no_grad()
    def line(self) -> str:
        words = []
        cover = self.cover.unsqueeze(2)
        for t in (999, 800, 500):
            alpha = self.alphas[t]
            noisy = alpha.sqrt() * self.z + (1 - alpha).sqrt() * self.noise
            text = self.nets["text"](input_ids=self.ids).last_hidden_state
            v = self.nets["transformer"](noisy, text, torch.full((len(noisy),), t, device=self.device), return_dict=False)[0]
            error = (alpha.sqrt() * noisy - (1 - alpha).sqrt() * v.float() - self.z).square().mean(2, keepdim=True)
            share = lambda weight: ((error * weight).sum() / weight.sum()).item()
            words.append(f"{t}: {share(cover):.3f} {share(1 - cover):.3f}")
        return "  subject, rest at " + ", ".join(words)


def write(a, nets, vae):
    """The pipeline folder, with the weights that `nets` holds now."""
    export(nets["transformer"], os.path.join(a.out, "transformer"))
    export(nets["text"], os.path.join(a.out, "text_encoder"), "model.safetensors")
    export(vae, os.path.join(a.out, "vae"))
    schedule().save_pretrained(os.path.join(a.out, "scheduler"))
    index = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
             "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5TokenizerFast"],
             "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"]}
    with open(os.path.join(a.out, "model_index.json"), "w") as file:
        json.dump(index, file, indent=1)


def main():
    a = arguments()
    began, device, team = time.time(), setup(a.seed), Team()
    if not team.rank:
        tokenizer.write(os.path.join(a.out, "tokenizer"))
    team.agree()  # nobody reads what is not yet written
    captions = tokenizer.Captions(os.path.join(a.out, "tokenizer"))
    vae = AutoencoderKLCogVideoX.from_pretrained(a.vae).float().to(device).eval().requires_grad_(False)
    nets = build(a, vae.config.latent_channels, len(tokenizer.pieces())).to(device).train()
    average = Average(nets, a.average)
    if a.read_at > a.layers:
        raise SystemExit(f"--read-at {a.read_at}: there are {a.layers} blocks")
    blocks = (".attn1.", ".ff.", "SelfAttention.", "DenseReluDense.")
    inner = lambda name, p: p.dim() == 2 and any(part in name for part in blocks) and "relative_attention_bias" not in name
    optimizer = optimizer_of(nets, a.lr, inner if a.muon else None, betas=(0.9, 0.98), weight_decay=0.01, fused=device == "cuda")
    state, before, done = State(a.state or os.path.join(a.out, "state", "transformer")), 0.0, 0
    if a.start:
        begin_with(nets, a.start)
        average.values = [p.detach().clone() for p in nets.parameters()]
    if a.resume and state.exists():
        record = state.load(nets, average, optimizer)
        before, done = record["minutes"], record["steps"]
    for name, net in nets.items():
        print(f"{name}: {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters", flush=True)
    print(f"on {device}, {done} steps in {before:.1f} min before", flush=True)
    torch.manual_seed(a.seed + done)
    a.seed += 1000 * done
    filed = lambda kind: a.bank_file and f"{a.bank_file}.{kind}"
    own = a.seed + 7919 * team.rank  # clips that no other process has
    bank = Captioned(a, Bank(vae, a.size, a.frames, device, own, filed(a.frames)), captions)
    bank.fill(min(a.bank, 16) if a.grow else a.bank, a.bank_minutes)
    stills = Captioned(a, Bank(vae, a.size, 1, device, own + 1, filed("stills")), captions)
    if a.stills:
        stills.fill(a.stills, a.bank_minutes)
    band = (stills if a.stills else bank).bank.cover(slice(0, 4000)).mean((0, 1))
    band = band / band.max()
    cells = a.size[0] * a.size[1] // 256  # tokens of a latent frame
    many = a.batch * (cells * ((a.frames - 1) // 4 + 1) + tokenizer.LENGTH) // (cells + tokenizer.LENGTH)
    torch.manual_seed(own + done)
    watched = Watched(nets["transformer"], a.read_at)
    running_nets = dict(nets.items()) | {"watched": torch.compile(watched, dynamic=False) if a.compile else watched}
    alphas = schedule().alphas_cumprod.float().to(device)
    chance = random.Random(a.seed)  # the same kind of batch in all processes: none waits for another
    # the bank counts as this run's time, but not as progress of the schedule
    clock = Clock(max(0.1, a.minutes - (time.time() - began) / 60), a.total or a.minutes, before, a.steps)

    def save():
        if team.rank:
            return
        state.save(nets, average, optimizer, clock, {"steps": done + clock.count})
        if a.grow:
            bank.bank.save()
        average.swap()
        write(a, nets, vae)
        average.swap()

    check = Check(nets, vae, captions, alphas, a, device) if a.check and not team.rank else None
    saved, running, began = time.time(), None, time.time()
    while True:
        more, rate = team.agree(clock.tick(), learning_rate(a.lr, clock, a.warmup))
        if not more:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        short = chance.random() < a.short * max(0.0, 1 - clock.progress() / 0.7)
        first, last = a.still_share
        if a.stills and chance.random() < first + (last - first) * clock.progress():
            batch = stills.batch(many)
        else:
            batch = bank.batch(a.batch * 4 if short else a.batch, 4 if short else None)
        loss, read = loss_of(running_nets, *batch, band, alphas, a, device)
        optimizer.zero_grad(set_to_none=True)
        (loss + a.read * read).backward()
        team.average_gradients(nets)
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        average.update()
        if a.grow and clock.count % a.grow == 0 and len(bank.bank) < a.bank:
            bank.grow(len(bank.bank) + 4)
        if a.refresh and clock.count % a.refresh == 0:
            bank.refresh()
        if not team.rank and (clock.count % a.report == 0 or 0 < a.steps <= 20):
            if not math.isfinite(loss.item()):
                raise SystemExit(f"the loss is {loss.item()} at step {done + clock.count}; the last state is in {state.folder}")
            running = loss.item() if running is None else 0.8 * running + 0.2 * loss.item()
            print(f"step {done + clock.count} loss {running:.4f} read {read.item():.3f} {clock.rate():.2f} it/s"
                  f"{check.line() if check else ''}", flush=True)
        if time.time() - saved > 150:
            save()
            saved = time.time()
    clock.count -= 1
    save()
    if team.rank:
        return
    result = {"steps": done + clock.count, "minutes": round(clock.before + clock.spent(), 1), "loss": running, "device": device,
              "batch": a.batch, "clips": len(bank.bank), "stills": len(stills.bank)}
    with open(os.path.join(a.out, "transformer.json"), "w") as file:
        json.dump(result, file, indent=1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

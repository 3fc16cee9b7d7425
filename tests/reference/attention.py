"""Goldens of attention control: `tests/golden/attention.safetensors`.

    python tests/reference/attention.py

diffusers' CogVideoXTransformer3DModel on the tiny models, its attention replaced by one that keeps the whole matrix of
probabilities and does to it what DiTCtrl (arXiv 2412.18597) does: K/V sharing, sharing under masks with both attentions
and dense masks, reweighting without normalising again. Batches are
[uncond source, uncond target, cond source, cond target]. Inputs come from `tiny.unit`, so that only outputs are kept.
"""

import torch
from safetensors.torch import save_file

from tiny import GOLDEN, build, joint, unit
from diffusers import CogVideoXPipeline

GRID = (3, 3, 5)  # frames, rows, columns of tokens: 3 latent frames of 6 x 10
LAYERS = (1, 2)
SOURCE, TARGET = [2, 3], [7]  # tokens of the subject in the two prompts
THRESHOLD = 0.4
FACTORS = {1: 0.5, 4: -2.0, 9: 0.0}
TIMESTEP = 501

CASES = ["share", "mask", "reweight", "share-reweight"]


class Dense:
    """One layer's attention; `state` is shared by the layers of a model and starts empty with every pass."""

    def __init__(self, layer, case, state):
        self.layer, self.case, self.state = layer, case, state

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        scale = q.shape[-1] ** -0.5

        self.accumulate(torch.softmax(q @ k.transpose(2, 3) * scale, dim=-1)[:, :, text:, :text].mean(1))
        if "reweight" not in self.case and self.layer not in LAYERS:
            out = torch.softmax(q @ k.transpose(2, 3) * scale, dim=-1) @ v
        else:
            if self.case != "reweight" and self.layer in LAYERS:
                k, v = k[[0, 0, 2, 2]], v[[0, 0, 2, 2]]
            scores = q @ k.transpose(2, 3) * scale
            p = torch.softmax(scores, dim=-1)
            if self.case == "mask":
                out = p @ v
                source, target = self.mask(2, SOURCE), self.mask(3, TARGET)
                keys = torch.cat([torch.zeros(text), torch.where(source, 0.0, -torch.inf)])
                foreground = self.masked(scores, keys, text) @ v
                keys = torch.cat([torch.zeros(text), torch.where(source, -torch.inf, 0.0)])
                background = self.masked(scores, keys, text) @ v
                m = torch.cat([torch.ones(text), target.float()])[:, None]
                blended = m * foreground + (1 - m) * background
                out[[1, 3]] = blended[[1, 3]]
            elif "reweight" in self.case:
                for token, factor in FACTORS.items():
                    p[[1, 3], :, text:, token] *= factor
                    p[[1, 3], :, token, text:] *= factor
                out = p @ v
            else:
                out = p @ v
        out = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]

    def accumulate(self, columns):
        self.state["sum"] = self.state.get("sum", 0) + columns
        self.state["count"] = self.state.get("count", 0) + 1
        self.state["mean"] = self.state["sum"] / self.state["count"]

    def mask(self, row, tokens):
        m = self.state["mean"][row][:, tokens].sum(-1).unflatten(0, GRID)
        low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
        m = (m - low) / (high - low + 1e-6)
        assert (m - THRESHOLD).abs().min() > 1e-4, "rounding could decide a mask"
        m = (m >= THRESHOLD).flatten()
        assert 0 < m.sum() < m.numel()
        return m

    @staticmethod
    def masked(scores, keys, text):
        bias = torch.zeros(scores.shape[-2:])
        bias[text:] = keys
        return torch.softmax(scores + bias, dim=-1)


@torch.no_grad()
def forward(kind, case):
    transformer = build(kind)["transformer"]
    config, state = transformer.config, {}
    for layer, block in enumerate(transformer.transformer_blocks):
        block.attn1.processor = Dense(layer, case, state)
    frames, height, width = GRID[0], GRID[1] * 2, GRID[2] * 2
    latents = unit(f"{kind}/attention/latents", (2, frames, config.in_channels, height, width))
    text = unit(f"{kind}/attention/text", (2, config.max_text_seq_length, config.text_embed_dim))
    rotary = None
    if config.use_rotary_positional_embeddings:
        pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=build(kind)["scheduler"])
        pipe.vae_scale_factor_spatial = 8
        rotary = pipe._prepare_rotary_positional_embeddings(height * 8, width * 8, frames, torch.device("cpu"))
    out = transformer(hidden_states=latents[[0, 1, 0, 1]], encoder_hidden_states=torch.cat([torch.zeros_like(text), text]),
                      timestep=torch.tensor([TIMESTEP] * 4), image_rotary_emb=rotary, return_dict=False)[0]
    maps = torch.stack([state["mean"][2][:, SOURCE].sum(-1), state["mean"][3][:, TARGET].sum(-1)]).unflatten(1, GRID)
    return out.contiguous(), maps.contiguous()


if __name__ == "__main__":
    torch.set_num_threads(2)
    goldens = {}
    for kind in ("tiny-2b", "tiny-5b"):
        for case in CASES:
            goldens[f"{kind}/{case}"], goldens[f"{kind}/{case}/maps"] = forward(kind, case)
    save_file(goldens, GOLDEN / "attention.safetensors")

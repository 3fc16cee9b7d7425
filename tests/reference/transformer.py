"""Goldens of the transformer forward pass: `tests/golden/transformer.safetensors`.

    python tests/reference/transformer.py

Runs diffusers' CogVideoXTransformer3DModel and the rotary tables of its CogVideoXPipeline on the tiny models. Inputs come from
`tiny.unit`, so that only outputs are kept.
"""

import torch
from safetensors.torch import save_file

from tiny import GOLDEN, KINDS, build, unit
from diffusers import CogVideoXPipeline

# kind, latent frames, height, width, timestep: native size, other sizes, other aspects, other lengths
CASES = [
    ("tiny-2b", 3, 6, 10, 999),
    ("tiny-2b", 5, 10, 4, 17),
    ("tiny-5b", 3, 6, 10, 501),
    ("tiny-5b", 2, 12, 8, 979),
    ("tiny-5b", 4, 4, 14, 3),
    ("tiny-1.5", 6, 8, 14, 999),
    ("tiny-1.5", 2, 6, 10, 250),
]


@torch.no_grad()
def forward(kind, frames, height, width, timestep):
    parts = build(kind)
    transformer = parts["transformer"]
    config = transformer.config
    case = f"{kind}/{frames}x{height}x{width}"
    latents = unit(f"{case}/latents", (2, frames, config.in_channels, height, width))
    text = unit(f"{case}/text", (2, config.max_text_seq_length, config.text_embed_dim))
    rotary = None
    if config.use_rotary_positional_embeddings:
        pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=parts["scheduler"])
        pipe.vae_scale_factor_spatial = 8
        rotary = pipe._prepare_rotary_positional_embeddings(height * 8, width * 8, frames, torch.device("cpu"))
    ofs = torch.tensor([2.0]) if config.ofs_embed_dim else None
    return transformer(hidden_states=latents, encoder_hidden_states=text, timestep=torch.tensor([timestep, timestep]),
                       ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0].contiguous()


if __name__ == "__main__":
    torch.set_num_threads(2)
    assert set(KINDS) == {case[0] for case in CASES}
    save_file({f"{k}/{f}x{h}x{w}/t{t}": forward(k, f, h, w, t) for k, f, h, w, t in CASES}, GOLDEN / "transformer.safetensors")

"""Tiny random CogVideoX models whose every weight follows from its name, so that no weight file has to be kept.

Each value is splitmix64 of (name, index): `tests/all/common/tiny.rs` computes the same ones in Rust. What the repository keeps
of a model is its configs and the list of tensor shapes, under `tests/golden/<kind>/`.

    python tests/reference/tiny.py write            # configs and shapes into tests/golden
    python tests/reference/tiny.py save KIND DIR    # a whole diffusers folder, with weights, for trying the program by hand
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import apply_rotary_emb
from transformers import T5Config, T5EncoderModel

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"

_TEXT = dict(vocab_size=600, d_model=32, d_kv=12, d_ff=40, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu",
             dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False)
_VAE = dict(block_out_channels=(8, 8, 16, 16), latent_channels=4, norm_num_groups=4, layers_per_block=1,
            sample_height=48, sample_width=80, scaling_factor=1.15258426)
_TRANSFORMER = dict(in_channels=4, out_channels=4, attention_head_dim=16, num_layers=3, time_embed_dim=24, text_embed_dim=32,
                    sample_height=6, sample_width=10, sample_frames=9, max_text_seq_length=12, patch_size=2)

KINDS = {
    # sincos positions, DDIM
    "tiny-2b": dict(
        transformer=dict(_TRANSFORMER, num_attention_heads=3, spatial_interpolation_scale=1.875),
        vae=_VAE, text_encoder=_TEXT, scheduler=(CogVideoXDDIMScheduler, 3.0)),
    # rotary positions, DPM, SNR shift 1
    "tiny-5b": dict(
        transformer=dict(_TRANSFORMER, num_attention_heads=5, use_rotary_positional_embeddings=True),
        vae=dict(_VAE, block_out_channels=(8, 8, 8, 16), norm_num_groups=2, layers_per_block=2, scaling_factor=0.7),
        text_encoder=_TEXT, scheduler=(CogVideoXDPMScheduler, 1.0)),
    # temporal patches, ofs embedding, rotary positions without a reference grid
    "tiny-1.5": dict(
        transformer=dict(_TRANSFORMER, num_attention_heads=3, use_rotary_positional_embeddings=True, patch_size_t=2,
                         patch_bias=False, ofs_embed_dim=24, sample_height=8, sample_width=14, sample_frames=17),
        vae=dict(_VAE, scaling_factor=0.7, invert_scale_latents=True),
        text_encoder=_TEXT, scheduler=(CogVideoXDPMScheduler, 1.0)),
}

_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


def joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb):
    """What an attention processor is called with: the number of text tokens, which come first, and the queries, keys and
    values `[B, heads, tokens, head]`, positions applied."""
    text = encoder_hidden_states.shape[1]
    x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    q, k, v = (proj(x).unflatten(2, (attn.heads, -1)).transpose(1, 2) for proj in (attn.to_q, attn.to_k, attn.to_v))
    q, k = attn.norm_q(q), attn.norm_k(k)
    if image_rotary_emb is not None:
        q, k = (torch.cat([y[:, :, :text], apply_rotary_emb(y[:, :, text:], image_rotary_emb)], dim=2) for y in (q, k))
    return text, q, k, v


def unit(name: str, shape) -> torch.Tensor:
    """Uniform values in [-1, 1) from a name, exact in f32."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    count = int(np.prod(shape)) if len(shape) else 1
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_RATIO
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    values = (z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weight(name: str, shape) -> torch.Tensor:
    """Matrices have unit gain, vectors named weight lie around one, biases around zero."""
    u = unit(name, shape)
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return (u.double() * np.sqrt(3.0 / fan_in)).float()
    return (u.double() * 0.1 + (1.0 if name.endswith("weight") else 0.0)).float()


def fill(module: torch.nn.Module, prefix: str) -> torch.nn.Module:
    filled = set()  # a tied tensor has the values of its first name
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.data_ptr() not in filled:
                filled.add(tensor.data_ptr())
                tensor.copy_(weight(f"{prefix}/{name}", tuple(tensor.shape)))
    return module.eval()


def build(kind: str, prefix: str | None = None) -> dict:
    """The parts of a kind, filled; `prefix` (default: the kind) chooses other weights of the same shapes."""
    prefix = prefix or kind
    spec = KINDS[kind]
    scheduler, shift = spec["scheduler"]
    return dict(
        transformer=fill(CogVideoXTransformer3DModel(**spec["transformer"]), f"{prefix}/transformer"),
        vae=fill(AutoencoderKLCogVideoX(**spec["vae"]), f"{prefix}/vae"),
        text_encoder=fill(T5EncoderModel(T5Config(**spec["text_encoder"])), f"{prefix}/text_encoder"),
        scheduler=scheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                            set_alpha_to_one=True, prediction_type="v_prediction", rescale_betas_zero_snr=True,
                            snr_shift_scale=shift, timestep_spacing="trailing"),
    )


WEIGHT_FILES = {"transformer": "diffusion_pytorch_model.safetensors", "vae": "diffusion_pytorch_model.safetensors",
                "text_encoder": "model.safetensors"}


def write_configs(kind: str) -> None:
    folder = GOLDEN / kind
    for name, part in build(kind).items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        if name == "scheduler":
            part.save_pretrained(target)
            continue
        if name == "text_encoder":
            part.config.save_pretrained(target)
        else:
            part.save_config(target)
        # the names of the file, which may be fewer than those of the module (tied weights)
        shapes = {n: list(t.shape) for n, t in part.state_dict().items() if n != "encoder.embed_tokens.weight"}
        (target / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
    index = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", type(part).__name__],
             "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
             "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def tokenizer(kind: str):
    """The T5 tokenizer of a kind, from the spiece.model kept in tests/golden."""
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(GOLDEN / "tokenizer")


def pipeline(kind: str, prefix: str | None = None) -> CogVideoXPipeline:
    return CogVideoXPipeline(tokenizer=tokenizer(kind), **build(kind, prefix))


def save(kind: str, folder: str, prefix: str | None = None) -> None:
    pipeline(kind, prefix).save_pretrained(folder)
    # CogVideoX ships spiece.model only
    target = pathlib.Path(folder) / "tokenizer"
    shutil.rmtree(target)
    shutil.copytree(GOLDEN / "tokenizer", target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write"]:
            for kind in KINDS:
                write_configs(kind)
        case ["save", kind, folder, *prefix]:
            save(kind, folder, *prefix)
        case _:
            sys.exit(__doc__)

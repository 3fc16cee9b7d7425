#!/usr/bin/env python3
"""Writes a CogVideoX folder in diffusers' layout with random weights, of the published sizes or small.

    benches/gpu/model.py cogvideox-2b DIR                 # 2B in f16 with T5-XXL: 14 GB
    benches/gpu/model.py cogvideox-5b DIR --no-text       # 5B in bf16 with a text encoder of one layer: 13 GB
    benches/gpu/model.py cogvideox-2b DIR --layers 1      # one layer of full width, of the text encoder as well
    benches/gpu/model.py cogvideox-2b DIR --small         # a few megabytes, for trying the scripts on a CPU

Speed and memory do not depend on what weights say. The values are normal, of a gain that keeps activations finite in f16, and
follow from --seed and the device they are drawn on. Needs torch, diffusers, transformers, safetensors; no network.
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

TOKENIZER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tokenizer"

T5 = dict(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128, feed_forward_proj="gated-gelu",
          is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False)
# what differs from diffusers' defaults, which are those of 2B
MODELS = {
    "cogvideox-2b": dict(transformer={}, vae=dict(scaling_factor=1.15258426), scheduler=CogVideoXDDIMScheduler, shift=3.0,
                         dtype=torch.float16),
    "cogvideox-5b": dict(transformer=dict(num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True),
                         vae=dict(scaling_factor=0.7), scheduler=CogVideoXDPMScheduler, shift=1.0, dtype=torch.bfloat16),
}
SMALL = dict(
    transformer=dict(num_attention_heads=3, attention_head_dim=16, num_layers=3, text_embed_dim=32, time_embed_dim=24,
                     sample_height=4, sample_width=6, sample_frames=13, max_text_seq_length=16),
    vae=dict(block_out_channels=(8, 8, 16, 16), norm_num_groups=4, layers_per_block=1, sample_height=32, sample_width=48),
    text=dict(d_model=32, d_kv=12, d_ff=40, num_layers=2, num_heads=3),
)


def draw(name, shape, dtype, generator, device):
    """Matrices keep the scale of what they take, norms are near one, biases near zero."""
    values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    if len(shape) >= 2:
        values *= 0.5 / math.sqrt(math.prod(shape[1:]))
    else:
        values = values * 0.02 + (1.0 if name.endswith("weight") else 0.0)
    return values.to(dtype).cpu()


def write(part, make, folder, file, dtype, seed, device):
    with init_empty_weights():
        module = make()
    # parts differ, whatever order they are made in
    generator = torch.Generator(device).manual_seed(seed * 1000 + sum(part.encode()))
    (folder / part).mkdir(parents=True, exist_ok=True)
    tied = {"encoder.embed_tokens.weight"}
    weights = {n: draw(n, t.shape, dtype, generator, device) for n, t in module.state_dict().items() if n not in tied}
    save_file(weights, folder / part / file)
    if hasattr(module, "save_config"):
        module.save_config(folder / part)
    else:
        module.config.save_pretrained(folder / part)
    return sum(tensor.numel() for tensor in weights.values())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", choices=MODELS)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--layers", type=int, help="layers of the transformer and of the text encoder")
    p.add_argument("--small", action="store_true", help="a model of a few megabytes")
    p.add_argument("--no-text", action="store_true", help="a text encoder of one layer: T5-XXL is 9.5 GB")
    p.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: that of the published weights")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if a.layers is not None and a.layers < 1:
        p.error("--layers: give 1 or more")
    if a.folder.exists() and any(a.folder.iterdir()):
        p.error(f"{a.folder}: not empty")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MODELS[a.model]
    dtype = getattr(torch, a.dtype) if a.dtype else model["dtype"]
    small = SMALL if a.small else dict(transformer={}, vae={}, text={})
    transformer = {**model["transformer"], **small["transformer"]}
    text = {**T5, **small["text"]}
    if a.layers:
        transformer["num_layers"] = text["num_layers"] = a.layers
    if a.no_text:
        text["num_layers"] = 1
    parts = {
        "transformer": (lambda: CogVideoXTransformer3DModel(**transformer), "diffusion_pytorch_model.safetensors"),
        "vae": (lambda: AutoencoderKLCogVideoX(**{**model["vae"], **small["vae"]}), "diffusion_pytorch_model.safetensors"),
        "text_encoder": (lambda: T5EncoderModel(T5Config(**text)), "model.safetensors"),
    }
    for part, (make, file) in parts.items():
        count = write(part, make, a.folder, file, dtype, a.seed, device)
        print(f"{part}: {count / 1e6:.1f} million values")
    scheduler = model["scheduler"](
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=model["shift"],
        timestep_spacing="trailing")
    scheduler.save_pretrained(a.folder / "scheduler")
    shutil.copytree(TOKENIZER, a.folder / "tokenizer")
    index = {"_class_name": "CogVideoXPipeline", "scheduler": ["diffusers", model["scheduler"].__name__],
             "text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"],
             "transformer": ["diffusers", "CogVideoXTransformer3DModel"], "vae": ["diffusers", "AutoencoderKLCogVideoX"]}
    (a.folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()

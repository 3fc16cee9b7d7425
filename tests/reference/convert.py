"""Files that `vidgen model convert` reads, written by PyTorch itself, and what must come out.

`pip install torch diffusers transformers open_clip_torch safetensors`, then `python tests/reference/convert.py`. Writes tests/golden/convert:
plain.ckpt       what a training program saves: tensors of all kinds under `state_dict`, and beside it what no tensor is made of
plain.safetensors   the same tensors, as torch loads them
bare.bin         a `state_dict` alone, as transformers saved it
clip.safetensors a tiny visual tower of OpenCLIP with its text tower, a picture and its embedding
names.json       the tensors of a tiny plain network of text-to-video: name to shape, from diffusers and transformers
"""

import argparse
import collections
import json
import pathlib

import open_clip
import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

OUT = pathlib.Path(__file__).resolve().parents[1] / "golden" / "convert"


def plain():
    numbers = torch.arange(24, dtype=torch.float32) / 8 - 1.3
    matrix = numbers[:12].reshape(3, 4)
    state = collections.OrderedDict()
    state["float"] = numbers.clone()
    state["half"] = (numbers * 3).half()
    state["bfloat"] = numbers.bfloat16()
    state["double"] = numbers.double() / 3
    state["long"] = torch.arange(5)
    state["int"] = torch.arange(4, dtype=torch.int32)
    state["byte"] = torch.arange(3, dtype=torch.uint8)
    state["bool"] = torch.tensor([True, False])
    state["parameter"] = torch.nn.Parameter(numbers[:6].clone())
    state["shared"] = numbers[4:10]
    state["same storage"] = numbers[10:]
    state["transposed"] = matrix.t()
    state["every second"] = numbers.reshape(4, 6)[:, ::2]
    state["turned"] = numbers.reshape(2, 3, 4).permute(2, 0, 1)
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    beside = {
        "epoch": 3,
        "global_step": 2**40,
        "hyper_parameters": argparse.Namespace(rate=1e-4, name="ünïcode", flags=[True, None, (1, 2)]),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 0.5}],
        "callbacks": {"kept": collections.defaultdict(list, a=[1]), "set": {1, 2}, "bytes": b"\x00\xff"},
        "state_dict": state,
    }
    torch.save(beside, OUT / "plain.ckpt")
    torch.save(dict(list(state.items())[:3]), OUT / "bare.bin")
    loaded = torch.load(OUT / "plain.ckpt", weights_only=False)["state_dict"]
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in loaded.items()}, OUT / "plain.safetensors")


def clip():
    torch.manual_seed(5)
    model = open_clip.model.CLIP(
        embed_dim=12,
        vision_cfg=dict(image_size=32, layers=2, width=80, head_width=80, patch_size=16, mlp_ratio=1.0),
        text_cfg=dict(context_length=4, vocab_size=8, width=8, heads=1, layers=1),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.half().float()
        picture = torch.randn(2, 3, 32, 32)
        embedding = model.visual(picture)
    tensors = {name: tensor.detach().half() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    half = {name: tensor.float() for name, tensor in tensors.items()}
    model.load_state_dict(half, strict=False)
    with torch.no_grad():
        embedding = model.visual(picture)
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors | {"golden.picture": picture, "golden.embedding": embedding}, OUT / "clip.safetensors")


def names():
    unet = UNet3DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=4,
    )
    vae = AutoencoderKL(block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, norm_num_groups=2)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=10, hidden_size=6, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=7))
    shapes = {
        part: {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
        for part, network in [("unet", unet), ("vae", vae), ("text_encoder", text)]
    }
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    skips = 1 + sum(len(block.resnets) + len(block.downsamplers or []) for block in unet.down_blocks)
    attentions = [f"{name}.attn2" for name, module in unet.named_modules() if name.endswith("transformer_blocks.0") and ".attentions." in name]
    OUT.joinpath("names.json").write_text(
        json.dumps({"config": config, "skips": skips, "attentions": attentions, "shapes": shapes}, separators=(",", ":")) + "\n"
    )


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    plain()
    clip()
    names()

"""Checkpoints of Stable Diffusion in one file: which tensor is which of diffusers', and the configurations.

    python tests/reference/single_file.py           # tests/golden/sd/single-1.json, single-2.json, single-control.json

Names are those of CompVis' and Stability's programs (openaimodel.py, model.py of the autoencoder, the text towers), written down
here; diffusers' own converters (`loaders/single_file_utils.py`) make state dictionaries of them, which must load strictly into its
networks. Kept is, for each name of diffusers, the name in the file, the first of its rows where it is a part, and its shape.
"""

import json
import sys

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert
from transformers import CLIPTextConfig, CLIPTextModel

import tiny

# small, with what the shapes of a file do not say as in the published models: 32 groups, 8 heads or heads of 64 channels
FORMS = {
    1: dict(unet=dict(block_out_channels=(32, 64), cross_attention_dim=64, attention_head_dim=[8, 8], sample_size=64),
            text=dict(hidden_act="quick_gelu")),
    2: dict(unet=dict(block_out_channels=(64, 128), cross_attention_dim=64, attention_head_dim=[1, 2], sample_size=96,
                      use_linear_projection=True),
            text=dict(hidden_act="gelu")),
}
UNET = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=2, norm_num_groups=32)
VAE = dict(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
           layers_per_block=2, norm_num_groups=32, latent_channels=4, sample_size=512)
TEXT = dict(vocab_size=881, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1, max_position_embeddings=77)


def pair(name: str, *weight: int, bias: int | None = None) -> dict:
    bias = weight[0] if bias is None else bias
    return {f"{name}.weight": weight, **({f"{name}.bias": (bias,)} if bias else {})}


def unet(channels, layers: int, context: int, linear: bool) -> dict:
    """`UNetModel` of openaimodel.py, attention in all levels but the last."""
    names, time = {}, 4 * channels[0]

    def resnet(at, inputs, outputs):
        for part in (pair(f"{at}.in_layers.0", inputs), pair(f"{at}.in_layers.2", outputs, inputs, 3, 3),
                     pair(f"{at}.emb_layers.1", outputs, time), pair(f"{at}.out_layers.0", outputs),
                     pair(f"{at}.out_layers.3", outputs, outputs, 3, 3)):
            names.update(part)
        if inputs != outputs:
            names.update(pair(f"{at}.skip_connection", outputs, inputs, 1, 1))

    def attention(at, c):
        one = () if linear else (1, 1)
        names.update(pair(f"{at}.norm", c) | pair(f"{at}.proj_in", c, c, *one) | pair(f"{at}.proj_out", c, c, *one))
        block = f"{at}.transformer_blocks.0"
        for i, width in ((1, c), (2, context)):
            names.update(pair(f"{block}.attn{i}.to_q", c, c, bias=0) | pair(f"{block}.attn{i}.to_k", c, width, bias=0)
                         | pair(f"{block}.attn{i}.to_v", c, width, bias=0) | pair(f"{block}.attn{i}.to_out.0", c, c))
        names.update(pair(f"{block}.ff.net.0.proj", 8 * c, c) | pair(f"{block}.ff.net.2", c, 4 * c))
        for i in (1, 2, 3):
            names.update(pair(f"{block}.norm{i}", c))

    names.update(pair("time_embed.0", time, channels[0]) | pair("time_embed.2", time, time))
    names.update(pair("input_blocks.0.0", channels[0], 4, 3, 3))
    index, now, kept = 1, channels[0], [channels[0]]
    for level, c in enumerate(channels):
        for _ in range(layers):
            resnet(f"input_blocks.{index}.0", now, c)
            if level + 1 < len(channels):
                attention(f"input_blocks.{index}.1", c)
            now, index = c, index + 1
            kept.append(now)
        if level + 1 < len(channels):
            names.update(pair(f"input_blocks.{index}.0.op", now, now, 3, 3))
            kept.append(now)
            index += 1
    resnet("middle_block.0", now, now)
    attention("middle_block.1", now)
    resnet("middle_block.2", now, now)
    index = 0
    for level in reversed(range(len(channels))):
        for layer in range(layers + 1):
            resnet(f"output_blocks.{index}.0", now + kept.pop(), channels[level])
            now, at = channels[level], 1
            if level + 1 < len(channels):
                attention(f"output_blocks.{index}.1", now)
                at = 2
            if level and layer == layers:
                names.update(pair(f"output_blocks.{index}.{at}.conv", now, now, 3, 3))
            index += 1
    names.update(pair("out.0", channels[0]) | pair("out.2", 4, channels[0], 3, 3))
    return {f"model.diffusion_model.{name}": shape for name, shape in names.items()}


def control(channels, layers: int, context: int, hint) -> dict:
    """`ControlNet` of cldm.py: the way down of a UNet, the way of the picture in, and convolutions that begin as zeros."""
    names = {name.removeprefix("model.diffusion_model."): shape for name, shape in unet(channels, layers, context, False).items()}
    names = {name: shape for name, shape in names.items() if not name.startswith(("output_blocks.", "out."))}
    inputs = [3, hint[0]]
    for width in hint[1:]:
        inputs += [inputs[-1], width]
    outputs = inputs[1:] + [channels[0]]
    for at, (before, after) in enumerate(zip(inputs, outputs)):
        names.update(pair(f"input_hint_block.{2 * at}", after, before, 3, 3))
    kept = [channels[0]]
    for level, c in enumerate(channels):
        kept += [c] * (layers + (level + 1 < len(channels)))
    for at, c in enumerate(kept):
        names.update(pair(f"zero_convs.{at}.0", c, c, 1, 1))
    names.update(pair("middle_block_out.0", channels[-1], channels[-1], 1, 1))
    return {f"control_model.{name}": shape for name, shape in names.items()}


def vae(channels, layers: int) -> dict:
    names = {}

    def resnet(at, inputs, outputs):
        names.update(pair(f"{at}.norm1", inputs) | pair(f"{at}.conv1", outputs, inputs, 3, 3) | pair(f"{at}.norm2", outputs)
                     | pair(f"{at}.conv2", outputs, outputs, 3, 3))
        if inputs != outputs:
            names.update(pair(f"{at}.nin_shortcut", outputs, inputs, 1, 1))

    def middle(at, c):
        resnet(f"{at}.block_1", c, c)
        names.update(pair(f"{at}.attn_1.norm", c))
        for name in ("q", "k", "v", "proj_out"):
            names.update(pair(f"{at}.attn_1.{name}", c, c, 1, 1))
        resnet(f"{at}.block_2", c, c)

    names.update(pair("encoder.conv_in", channels[0], 3, 3, 3))
    now = channels[0]
    for level, c in enumerate(channels):
        for layer in range(layers):
            resnet(f"encoder.down.{level}.block.{layer}", now, c)
            now = c
        if level + 1 < len(channels):
            names.update(pair(f"encoder.down.{level}.downsample.conv", c, c, 3, 3))
    middle("encoder.mid", now)
    names.update(pair("encoder.norm_out", now) | pair("encoder.conv_out", 8, now, 3, 3) | pair("quant_conv", 8, 8, 1, 1)
                 | pair("post_quant_conv", 4, 4, 1, 1) | pair("decoder.conv_in", now, 4, 3, 3))
    middle("decoder.mid", now)
    for level in reversed(range(len(channels))):
        for layer in range(layers + 1):
            resnet(f"decoder.up.{level}.block.{layer}", now, channels[level])
            now = channels[level]
        if level:
            names.update(pair(f"decoder.up.{level}.upsample.conv", now, now, 3, 3))
    names.update(pair("decoder.norm_out", now) | pair("decoder.conv_out", 3, now, 3, 3))
    return {f"first_stage_model.{name}": shape for name, shape in names.items()}


def clip(c, inner, layers, words, places) -> dict:
    names = {"embeddings.position_ids": (1, places), "embeddings.token_embedding.weight": (words, c),
             "embeddings.position_embedding.weight": (places, c), **pair("final_layer_norm", c)}
    for layer in range(layers):
        at = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            names.update(pair(f"{at}.self_attn.{name}", c, c))
        names.update(pair(f"{at}.layer_norm1", c) | pair(f"{at}.layer_norm2", c) | pair(f"{at}.mlp.fc1", inner, c)
                     | pair(f"{at}.mlp.fc2", c, inner))
    return {f"cond_stage_model.transformer.text_model.{name}": shape for name, shape in names.items()}


def open_clip(c, inner, layers, words, places) -> dict:
    """With one layer more than the network is taken to have."""
    names = {"positional_embedding": (places, c), "token_embedding.weight": (words, c), "text_projection": (c, c), "logit_scale": (),
             **pair("ln_final", c)}
    for layer in range(layers + 1):
        at = f"transformer.resblocks.{layer}"
        names.update({f"{at}.attn.in_proj_weight": (3 * c, c), f"{at}.attn.in_proj_bias": (3 * c,)})
        names.update(pair(f"{at}.attn.out_proj", c, c) | pair(f"{at}.ln_1", c) | pair(f"{at}.ln_2", c) | pair(f"{at}.mlp.c_fc", inner, c)
                     | pair(f"{at}.mlp.c_proj", c, inner))
    return {f"cond_stage_model.model.{name}": shape for name, shape in names.items()}


def told(shapes: dict):
    """Tensors of a file, no value twice, and what says of a tensor of the converted model where it comes from."""
    names, start, file = list(shapes), 0, {}
    for name in names:
        count = int(torch.Size(shapes[name]).numel())
        file[name] = torch.arange(start, start + count, dtype=torch.float64).reshape(shapes[name])
        start += count
    ends = torch.tensor([tensor.max().item() for tensor in file.values()], dtype=torch.float64)

    def source(tensor):
        flat = tensor.double().flatten()
        assert (flat == torch.arange(flat[0].item(), flat[0].item() + len(flat), dtype=torch.float64)).all()
        name = names[int(torch.searchsorted(ends, flat[0]))]
        skipped = int(flat[0] - file[name].flatten()[0])
        row = tensor[0].numel() if tensor.dim() > 1 else 1
        whole = tensor.numel() == file[name].numel()
        return [name, None if whole else skipped // row, list(tensor.shape)]

    return file, source


def write(name: str, shapes: dict, parts: dict, configs: dict) -> None:
    plain = lambda config: {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}  # noqa: E731
    configs = {part: plain(config) for part, config in configs.items()}
    kept = {"file": {name: list(shape) for name, shape in shapes.items()}, "parts": parts, "configs": configs}
    path = tiny.GOLDEN / "sd" / name
    path.write_text(json.dumps(kept, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(path.name, path.stat().st_size, {part: len(tensors) for part, tensors in parts.items()})


def control_network() -> None:
    down, asked = UNET["down_block_types"], FORMS[1]["unet"]
    config = dict(block_out_channels=asked["block_out_channels"], cross_attention_dim=64, attention_head_dim=[8, 8], down_block_types=down,
                  layers_per_block=2, norm_num_groups=32, conditioning_embedding_out_channels=(16, 24, 40, 56))
    shapes = control(config["block_out_channels"], 2, 64, config["conditioning_embedding_out_channels"])
    file, source = told(shapes)
    network = ControlNetModel(**config)
    state = convert.convert_controlnet_checkpoint(dict(file), config)
    network.double().load_state_dict(state, strict=True)
    write("single-control.json", shapes, {"": {key: source(tensor) for key, tensor in network.state_dict().items()}}, {"": config})


def main() -> None:
    control_network()
    for form, asked in FORMS.items():
        sizes = [TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")]
        channels = asked["unet"]["block_out_channels"]
        shapes = unet(channels, 2, 64, form == 2) | vae(VAE["block_out_channels"], 2) | (clip if form == 1 else open_clip)(*sizes)
        # what a file has beside networks
        shapes |= {"alphas_cumprod": (1000,), "model_ema.decay": ()}
        file, source = told(shapes)
        networks = {
            "unet": (UNet2DConditionModel(**UNET, **asked["unet"]), convert.convert_ldm_unet_checkpoint(dict(file), {**UNET, **asked["unet"]})),
            "vae": (AutoencoderKL(**VAE), convert.convert_ldm_vae_checkpoint(dict(file), VAE)),
        }
        text = CLIPTextModel(CLIPTextConfig(**TEXT, **asked["text"]))
        state = (convert.convert_ldm_clip_checkpoint(dict(file)) if form == 1
                 else convert.convert_open_clip_checkpoint(text, dict(file)))
        own = {key if key.startswith("text_model.") else f"text_model.{key}" for key in text.state_dict() if "position_ids" not in key}
        text_state = {key: tensor for key, tensor in state.items() if key in own}
        assert set(text_state) == own, own ^ set(text_state)
        kept = {"text_encoder": {key: source(tensor) for key, tensor in text_state.items()}}
        for part, (network, converted) in networks.items():
            network.double().load_state_dict(converted, strict=True)
            kept[part] = {key: source(tensor) for key, tensor in network.state_dict().items()}
        if form == 2:
            del kept["vae"]  # the same
        write(f"single-{form}.json", shapes, kept, {"unet": UNET | asked["unet"], "vae": VAE, "text_encoder": TEXT | asked["text"]})


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

"""StreamingT2V's networks in plain PyTorch, around diffusers' blocks: the main UNet with mergers and mixers, the conditional attention
module (CAM), and the appearance preservation module (anchor frame, image encoder, resampler). arXiv 2403.14773, sections 4.1 and 4.2.

`StreamingUNet3DConditionModel` is a UNet3DConditionModel with more layers in it; tensors have the names of the published checkpoint.
Latents are [B, 4, F, h, w], pixels of the frames before a chunk [B, S, 3, H, W] and anchors [B, 3, H, W], both in [-1, 1].
"""

import copy
import json
import os

import torch
import torch.nn.functional as F
from diffusers import UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from common import save_tensors

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_DOWN = ("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor",
         "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim", "sample_size")


class _Attention(nn.Module):
    """Attention of frames to the frames before, at each place."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """[N, F, C] and [N, S, C] to [N, F, C]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(x), self.to_k(memory), self.to_v(memory)))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Injector(nn.Module):
    def __init__(self, channels: int, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.attention = _Attention(channels, channels // width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)


class Merger(nn.Module):
    """Adds to a feature of the main UNet what its frames find in CAM's feature of the same place."""

    def __init__(self, channels: int, width: int, groups: int):
        super().__init__()
        self.temporal_transformer = _Injector(channels, width, groups)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, frames: int, before: int) -> torch.Tensor:
        """[B*frames, C, h, w] and [B*before, C, h, w] to the shape of the first."""
        net, (_, c, h, w) = self.temporal_transformer, x.shape
        rows = lambda y, f: y.view(-1, f, c, h * w).permute(0, 3, 1, 2).flatten(0, 1)  # [B*h*w, f, C]
        normed = net.norm(x.view(-1, frames, c, h, w).transpose(1, 2)).transpose(1, 2)
        y = net.proj_out(net.attention(net.proj_in(rows(normed.reshape(x.shape), frames)), rows(memory, before)))
        return x + y.view(-1, h * w, frames, c).permute(0, 2, 3, 1).reshape(x.shape)


class _Mixed:
    """Cross-attention to the text, into which the anchor's tokens are mixed where there are some: after `text` tokens."""

    def __init__(self, text: int):
        self.text, self.plain = text, AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, **_):
        tokens = encoder_hidden_states[:, :self.text]
        if encoder_hidden_states.shape[1] > self.text:
            tokens = tokens + F.silu(attn.alpha) * attn.conv_ln(attn.conv(encoder_hidden_states))
        return self.plain(attn, hidden_states, tokens, attention_mask)


def cross_attentions(net: nn.Module) -> list[nn.Module]:
    """Those to the text; the second attentions of temporal transformers see no text."""
    return [m for name, m in net.named_modules() if name.endswith("attn2") and ".attentions." in name]


def streaming_unet(base: UNet3DConditionModel, text: int, image: int) -> UNet3DConditionModel:
    """A copy of `base` with mergers and mixers, which do nothing at first. `text` and `image` are numbers of tokens."""
    net, c = copy.deepcopy(base), base.config
    net.streaming = {"merger_head_dim": c.attention_head_dim, "merger_norm_num_groups": c.norm_num_groups, "text_tokens": text,
                     "image_tokens": image}
    widths = [c.block_out_channels[0]]
    for i, width in enumerate(c.block_out_channels):
        widths += [width] * (c.layers_per_block + (i + 1 < len(c.block_out_channels)))
    merger = lambda width: Merger(width, c.attention_head_dim, c.norm_num_groups)
    net.cross_attention_merger_down_blocks = nn.ModuleList(merger(width) for width in widths)
    net.cross_attention_merger_mid_block = merger(c.block_out_channels[-1])
    for attn in cross_attentions(net):
        attn.conv, attn.conv_ln = nn.Conv1d(text + image, text, 3, padding=1), nn.LayerNorm(c.cross_attention_dim)
        attn.alpha = nn.Parameter(torch.zeros(()))
        attn.set_processor(_Mixed(text))
    return net


class StreamingCAM(nn.Module):
    """The downward half of a UNet for the frames before a chunk: what it sees of them goes to the mergers."""

    def __init__(self, base: UNet3DConditionModel, channels, frames: int):
        super().__init__()
        for name in ("conv_in", "time_proj", "time_embedding", "transformer_in", "down_blocks", "mid_block"):
            setattr(self, name, copy.deepcopy(getattr(base, name)))
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(base.config.block_out_channels[0], 3, tuple(channels))
        self.settings = {key: base.config[key] for key in _DOWN} | {
            "conditioning_channels": 3, "conditioning_embedding_out_channels": list(channels), "num_frames": frames}

    def forward(self, z: torch.Tensor, t: torch.Tensor, text: torch.Tensor, pixels: torch.Tensor):
        """The skips and the middle's output for the chunk's first frames `z` and the frames before it."""
        return features(self, z, t, text, self.controlnet_cond_embedding(pixels.flatten(0, 1)))


class StreamingResampler(nn.Module):
    """Tokens from the embedding of an anchor."""

    def __init__(self, embed: int, inner: int, cross: int, tokens: int):
        super().__init__()
        self.context_embedding = nn.Sequential(nn.Linear(embed, inner), nn.SiLU(), nn.Linear(inner, tokens * cross))
        self.settings = {"embed_dim": embed, "inner_dim": inner, "cross_attention_dim": cross, "num_tokens": tokens}

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.context_embedding(embedding).unflatten(-1, (self.settings["num_tokens"], -1))


def image_encoder(side: int = 64, width: int = 64) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        image_size=side, patch_size=8, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=width, hidden_act="gelu", layer_norm_eps=1e-5, attention_dropout=0.0))


def prepared(x: torch.Tensor, side: int) -> torch.Tensor:
    """Anchors [B, 3, H, W] in [-1, 1] as the image encoder sees them, [B, 3, side, side]: blurred where a side shrinks, bicubic
    with aligned corners, CLIP's mean and deviation."""
    factors = [x.shape[-2] / side, x.shape[-1] / side]
    if max(factors) > 1:
        for axis, k in zip((-2, -1), factors):
            sigma = max((k - 1) / 2, 0.001)
            taps = int(max(4 * sigma, 3)) | 1
            place = torch.arange(taps, dtype=torch.float32) - taps // 2
            kernel = torch.exp(-place.square() / (2 * sigma * sigma))
            kernel = (kernel / kernel.sum()).view((1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1))
            pad = (0, 0, taps // 2, taps // 2) if axis == -2 else (taps // 2, taps // 2, 0, 0)
            x = F.conv2d(F.pad(x, pad, mode="reflect"), kernel.to(x).expand(x.shape[1], -1, -1, -1), groups=x.shape[1])
    x = F.interpolate(x, (side, side), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(value, dtype=x.dtype).view(1, 3, 1, 1) for value in (MEAN, STD))
    return ((x + 1) / 2 - mean) / std


def _text(block, text: torch.Tensor) -> dict:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def embedded(net, t: torch.Tensor, frames: int) -> torch.Tensor:
    return net.time_embedding(net.time_proj(t).to(net.conv_in.weight.dtype)).repeat_interleave(frames, 0)


def features(net, z: torch.Tensor, t: torch.Tensor, text: torch.Tensor, added: torch.Tensor | None = None):
    """The skips of the downward half and the middle's output, each [B*F, C, h, w]; `added` comes after `transformer_in`."""
    frames = z.shape[2]
    emb, text = embedded(net, t, frames), text.repeat_interleave(frames, 0)
    x = net.transformer_in(net.conv_in(z.transpose(1, 2).flatten(0, 1)), num_frames=frames, return_dict=False)[0]
    x = x if added is None else x + added
    skips = [x]
    for block in net.down_blocks:
        x, more = block(x, emb, num_frames=frames, **_text(block, text))
        skips += more
    return skips, net.mid_block(x, emb, encoder_hidden_states=text, num_frames=frames)


def predict(net, z: torch.Tensor, t: torch.Tensor, tokens: torch.Tensor, memory=None) -> torch.Tensor:
    """The main UNet's output for a chunk. `tokens` [B, text, D], or with the anchor's after them; `memory` is what CAM gave."""
    frames = z.shape[2]
    skips, x = features(net, z, t, tokens)
    if memory is not None:
        seen, middle = memory
        before = middle.shape[0] // len(z)
        skips = [m(skip, part, frames, before) for m, skip, part in zip(net.cross_attention_merger_down_blocks, skips, seen)]
        x = net.cross_attention_merger_mid_block(x, middle, frames, before)
    emb, tokens = embedded(net, t, frames), tokens.repeat_interleave(frames, 0)
    for block in net.up_blocks:
        count = len(block.resnets)
        given, skips = tuple(skips[-count:]), skips[:-count]
        size = skips[-1].shape[2:] if skips else None
        x = block(x, given, emb, upsample_size=size, num_frames=frames, **_text(block, tokens))
    x = net.conv_out(net.conv_act(net.conv_norm_out(x)))
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def write_part(net: nn.Module, folder: str, settings: dict, name: str):
    """A part of our own as diffusers lays out its parts: config.json and f16 weights."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({"_class_name": name} | settings, file, indent=2)
    save_tensors(net.state_dict(), os.path.join(folder, "diffusion_pytorch_model.safetensors"))


def settings_of(net: UNet3DConditionModel) -> dict:
    """config.json of a main UNet."""
    return {key: value for key, value in net.config.items() if not key.startswith("_")} | net.streaming


def load_part(net: nn.Module, folder: str) -> nn.Module:
    """Weights of a folder that `write_part` wrote, into a network of its shape, in f32."""
    from safetensors.torch import load_file

    held = load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors"))
    net.load_state_dict({name: value.float() for name, value in held.items()})
    return net


def _settings(folder: str, part: str) -> dict:
    with open(os.path.join(folder, part, "config.json")) as file:
        return json.load(file)


def load(folder: str, base: UNet3DConditionModel):
    """The main UNet, CAM and resampler of a folder, whose other shapes are those of `base`."""
    unet, cam, mlp = (_settings(folder, part) for part in ("unet", "cam", "resampler"))
    parts = (streaming_unet(base, unet["text_tokens"], unet["image_tokens"]),
             StreamingCAM(base, cam["conditioning_embedding_out_channels"], cam["num_frames"]),
             StreamingResampler(mlp["embed_dim"], mlp["inner_dim"], mlp["cross_attention_dim"], mlp["num_tokens"]))
    return [load_part(net, os.path.join(folder, name)) for net, name in zip(parts, ("unet", "cam", "resampler"))]

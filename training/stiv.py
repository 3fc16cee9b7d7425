"""STIV's transformer (arXiv 2412.07730) in plain PyTorch, and its sampling: what is trained, what is evaluated, and what the
program's networks are compared with.

Time t runs from 0 (noise) to 1 (data): `x_t = t z + (1 - t) noise`, and the network says `z - noise`. Given frames are put into the
network's input as they are, without noise.
"""

import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F

from common import save_tensors

MICRO = ("h", "w", "crop_top", "crop_left", "stride", "frames")
DEFAULTS = {
    "patch_size": 2, "patch_size_t": 2, "mlp_ratio": 4.0, "norm_eps": 1e-6, "qk_norm": "rms_norm", "sandwich_norm": True,
    "temporal_gate": False, "adaln_tables": True, "micro_conditions": list(MICRO), "rope_theta": 10000.0,
    "rope_interpolation": [1.0, 1.0, 1.0], "prediction": "data_minus_noise", "time_direction": "noise_at_0", "timestep_scale": 1000.0,
    "cond_time": "shared", "sampling_stride": 1, "keyframe_stride": 20, "image_drop": 0.0, "trained_tasks": []}


def sinusoid(m: torch.Tensor) -> torch.Tensor:
    """[..., 256] of numbers: cosines, then sines."""
    angles = m.float().unsqueeze(-1) * torch.exp(-math.log(10000) * torch.arange(128, device=m.device) / 128)
    return torch.cat([angles.cos(), angles.sin()], -1)


def angles(positions: torch.Tensor, width: int, theta: float) -> torch.Tensor:
    """[N, width / 2] for the pairs (j, j + width / 2) of one axis."""
    return positions.float()[:, None] * theta ** (-torch.arange(width // 2, device=positions.device) * 2 / width)


def rotated(x: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    """`x` [..., N, d] with each axis's dimensions turned by its angles [N, n / 2]."""
    made, dtype = [], x.dtype
    for x, turn in zip(x.split([2 * part.shape[1] for part in parts], -1), parts):
        a, b = x.chunk(2, -1)
        made += [a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()]
    return torch.cat(made, -1).to(dtype)


class Mlp(nn.Module):
    def __init__(self, inputs: int, width: int, act):
        super().__init__()
        self.linear_1, self.linear_2, self.act = nn.Linear(inputs, width), nn.Linear(width, width), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


def gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


class Norm(nn.Module):
    """RMS norm with a weight over the last axis."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.heads, width = c["num_attention_heads"], c["num_attention_heads"] * c["attention_head_dim"]
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        if c["qk_norm"]:
            self.norm_q, self.norm_k = (Norm(c["attention_head_dim"], c["norm_eps"]) for _ in range(2))

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None, turns: list[torch.Tensor] | None = None) -> torch.Tensor:
        """`x` [B, N, D] to itself, or to `other` [B, M, D]."""
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        other = x if other is None else other
        q, k, v = split(self.to_q(x)), split(self.to_k(other)), split(self.to_v(other))
        if hasattr(self, "norm_q"):
            q, k = self.norm_q(q), self.norm_k(k)
        if turns:
            q, k = rotated(q, turns), rotated(k, turns)
        if q.shape[2] <= 16:  # a few rows: the fused kernel is made for many
            y = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width = c["num_attention_heads"] * c["attention_head_dim"]
        self.eps, self.sandwich = c["norm_eps"], c["sandwich_norm"]
        self.attn1, self.attn_temporal, self.attn2 = (Attention(c) for _ in range(3))
        inner = int(width * c["mlp_ratio"])
        self.ff = nn.ModuleDict({"net": nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(width, inner)}), nn.Identity(), nn.Linear(inner, width)])})
        if c["adaln_tables"]:
            self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        if c["temporal_gate"]:
            self.temporal_gate = nn.Parameter(torch.zeros(width))

    def n(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def after(self, x: torch.Tensor) -> torch.Tensor:
        return self.n(x) if self.sandwich else x

    def forward(self, x, mod, text, over_space, over_time) -> torch.Tensor:
        """`x` [B, T, S, D], `mod` [B, T or 1, 6, D], `text` [B, L, D]."""
        b, t, s, _ = x.shape
        if hasattr(self, "scale_shift_table"):
            mod = mod + self.scale_shift_table
        shift1, scale1, gate1, shift2, scale2, gate2 = (part.unsqueeze(2) for part in mod.unbind(2))
        y = self.n(x) * (1 + scale1) + shift1
        y = self.attn1(y.flatten(0, 1), turns=over_space).unflatten(0, (b, t))
        x = x + gate1 * self.after(y)
        y = self.attn_temporal(self.n(x).transpose(1, 2).flatten(0, 1), turns=over_time).unflatten(0, (b, s)).transpose(1, 2)
        y = self.after(y)
        x = x + (self.temporal_gate * y if hasattr(self, "temporal_gate") else y)
        x = x + self.attn2(x.flatten(1, 2), text).unflatten(1, (t, s))
        y = self.n(x) * (1 + scale2) + shift2
        y = self.ff["net"][2](gelu(self.ff["net"][0]["proj"](y)))
        return x + gate2 * self.after(y)


class StivTransformer3DModel(nn.Module):
    def __init__(self, **given):
        super().__init__()
        c = self.config = DEFAULTS | given
        width = c["num_attention_heads"] * c["attention_head_dim"]
        self.patch, self.width = (c["patch_size_t"], c["patch_size"], c["patch_size"]), width
        self.pos_embed = nn.ModuleDict({"proj": nn.Conv3d(c["in_channels"], width, self.patch, self.patch)})
        emb = {"timestep_embedder": Mlp(256, width, F.silu), "pooled_embedder": Mlp(c["pooled_projection_dim"], width, F.silu)}
        if c["micro_conditions"]:
            emb["micro_embedder"] = Mlp(256 * len(c["micro_conditions"]), width, F.silu)
        self.adaln_single = nn.ModuleDict({"emb": nn.ModuleDict(emb), "linear": nn.Linear(width, 6 * width)})
        self.caption_projection = Mlp(c["caption_channels"], width, gelu)
        self.transformer_blocks = nn.ModuleList(Block(c) for _ in range(c["num_layers"]))
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.proj_out = nn.Linear(width, math.prod(self.patch) * c["out_channels"])

    def begin(self):
        """Blocks and output start as nothing."""
        zero = [self.adaln_single["linear"], self.proj_out] + [block.attn2.to_out[0] for block in self.transformer_blocks]
        for layer in zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return self

    def condition(self, t, clean, pooled, micro) -> torch.Tensor:
        """c [B, T or 1, D]: `t` [B], `clean` [B, T] whether all frames of a token are given, `micro` [B, count]."""
        c, n = self.config, lambda x: F.layer_norm(x, x.shape[-1:], eps=self.config["norm_eps"])
        t = t.unsqueeze(1) if c["cond_time"] == "shared" else torch.where(clean, 1.0, t.unsqueeze(1))
        t = 1 - t if c["time_direction"] == "data_at_0" else t
        emb = self.adaln_single["emb"]
        cast = lambda x: x.to(self.proj_out.weight.dtype)
        made = n(emb["timestep_embedder"](cast(sinusoid(t * c["timestep_scale"])))) + n(emb["pooled_embedder"](pooled)).unsqueeze(1)
        return made + n(emb["micro_embedder"](cast(sinusoid(micro).flatten(1)))).unsqueeze(1) if c["micro_conditions"] else made

    def forward(self, x, t, tokens, pooled, given=None, micro=None, read=None):
        """The velocity z - noise for `x` [B, C, F, h, w] in which the frames of `given` [B, F] are as they are. `tokens` [B, L, E],
        `pooled` [B, P], `micro` [B, count] in the order of the configuration. `read(hidden)` sees the middle block's [B, T, S, D]."""
        c, (pt, ph, pw) = self.config, self.patch
        frames = x.shape[2]
        given = torch.zeros(len(x), frames, dtype=torch.bool, device=x.device) if given is None else given
        if more := -frames % pt:
            x = torch.cat([x, x[:, :, -1:].expand(-1, -1, more, -1, -1)], 2)
            given = torch.cat([given, given[:, -1:].expand(-1, more)], 1)
        h, w = x.shape[3] // ph, x.shape[4] // pw
        cond = self.condition(t, given.unflatten(1, (-1, pt)).all(2), pooled, micro)
        mod = self.adaln_single["linear"](F.silu(cond)).unflatten(-1, (6, -1))
        # the convolution as a product: its patches do not overlap
        patches = x.unflatten(2, (-1, pt)).unflatten(4, (h, ph)).unflatten(6, (w, pw)).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)
        proj = self.pos_embed["proj"]
        x = F.linear(patches, proj.weight.flatten(1), proj.bias)
        text = self.caption_projection(tokens)
        ft, fh, fw = c["rope_interpolation"]
        place = lambda count, factor: torch.arange(count, device=x.device) * factor
        rows, columns = (angles(place(count, f), width, c["rope_theta"]) for count, f, width in zip((h, w), (fh, fw), c["rope_axes_dim"]))
        over_space = [rows.repeat_interleave(w, 0), columns.repeat(h, 1)]
        over_time = [angles(place(x.shape[1], ft), c["attention_head_dim"], c["rope_theta"])]
        for i, block in enumerate(self.transformer_blocks):
            x = block(x, mod, text, over_space, over_time)
            if read is not None and i == len(self.transformer_blocks) // 2:
                read(x)
        shift, scale = (cond.unsqueeze(2) + self.scale_shift_table).unsqueeze(3).unbind(2)
        x = self.proj_out(F.layer_norm(x, x.shape[-1:], eps=c["norm_eps"]) * (1 + scale) + shift)
        x = x.unflatten(2, (h, w)).unflatten(4, (pt, ph, pw, -1)).permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        x = x[:, :, :frames]
        return -x if c["prediction"] == "noise_minus_data" else x


def write(net: StivTransformer3DModel, folder: str):
    """config.json and f16 weights, as diffusers lays out its parts."""
    import images

    images.write_json(os.path.join(folder, "config.json"), {"_class_name": "StivTransformer3DModel"} | net.config)
    save_tensors(net.state_dict(), os.path.join(folder, "diffusion_pytorch_model.safetensors"))


def load(folder: str) -> StivTransformer3DModel:
    import json

    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as file:
        given = json.load(file)
    net = StivTransformer3DModel(**{key: value for key, value in given.items() if not key.startswith("_")})
    net.load_state_dict({k: v.float() for k, v in load_file(os.path.join(folder, "diffusion_pytorch_model.safetensors")).items()})
    return net.eval().requires_grad_(False)


def times(steps: int, shift: float) -> torch.Tensor:
    """steps + 1 times from 0 to 1, in f64."""
    s = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return 1 - shift * s / (1 + (shift - 1) * s)


def clean(x: torch.Tensor, z: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """`x` [B, C, F, h, w] with the given frames of `z`."""
    return torch.where(given[:, None, :, None, None], z, x)


def renormed(v: torch.Tensor, conditional: torch.Tensor, given: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "off":
        return v
    keep = (~given)[:, None, :, None, None].to(v.dtype)
    norm = lambda x: (x * keep).flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    r = norm(conditional) / norm(v)
    return v * (r.clamp(max=1) if kind == "clamp" else r)


def sample(predict, noise, z, given, steps: int, scale: float, mode: str = "cfg", image_scale: float = 1.5, shift: float = 1.0,
           renorm: str = "off", null_frame: str = "renoise", sampler: str = "euler", eta: float = 0.0, step_noise=None) -> torch.Tensor:
    """Latents by flow matching. `predict(x, t, full, given)` is the network with the text (`full`) or with the negative one; `given`
    [B, F] marks frames whose latents are in `z`, or is all false; passes without the image are told that nothing is given."""
    nothing, x, free = torch.zeros_like(given), noise, noise

    def velocity(x, t, free):
        seen = clean(x, z, given)
        conditional = predict(seen, t, True, given)
        if mode != "sit" and scale <= 1:
            return conditional, None
        bare = clean(x, t * z + (1 - t) * noise, given) if null_frame == "renoise" else clean(x, free, given)
        null = predict(bare, t, False, nothing) if mode != "cfg" else None
        image = predict(seen, t, False, given) if mode != "jit" else None
        if mode == "cfg":
            v = image + scale * (conditional - image)
        elif mode == "jit":
            v = null + scale * (conditional - null)
        else:
            v = null + image_scale * (image - null) + scale * (conditional - image)
        return renormed(v, conditional, given, renorm), null

    grid = times(steps, shift)
    for i in range(steps):
        t, h = grid[i].item(), (grid[i + 1] - grid[i]).item()
        v, null = velocity(x, t, free)
        ahead = free + h * null if null is not None else free
        if sampler == "heun":
            v2, null2 = velocity(x + h * v, t + h, ahead)
            v, ahead = (v + v2) / 2, free + h * (null + null2) / 2 if null is not None else free
        if sampler == "sde-euler" and i + 1 < steps:
            v = v + eta / 2 * (t * v - x)
            x = x + h * v + math.sqrt(eta * (1 - t) * h) * step_noise[i]
        else:
            x = x + h * v
        free = ahead
    return clean(x, z, given)

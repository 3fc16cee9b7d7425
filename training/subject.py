"""DreamVideo-2's modules (arXiv 2410.13830) in plain PyTorch on diffusers' 3-D UNet: reference attention, the encoder of boxes,
masks. Sizes of pictures are (height, width); boxes are x0, y0, x1, y1 in units of the frame's width and height.
"""

import json
import math
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet3DConditionModel

from common import save_tensors


INDEX = {
    "_class_name": "DreamVideo2Pipeline", "controlnet": ["diffusers", "ControlNetModel"], "motion_encoder": ["vidgen", "BoxMotionEncoder"],
    "reference_attention": ["vidgen", "ReferenceAttention"], "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet3DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}


class ReferenceProjections(nn.Module):
    """Queries of a layer's output to the same output of the subject's branch."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        nn.init.zeros_(self.to_out[0].weight)
        nn.init.zeros_(self.to_out[0].bias)

    def forward(self, u: torch.Tensor, subject: torch.Tensor) -> torch.Tensor:
        """`u` [B F, n, C], `subject` [B, n', C]: every frame sees all of the subject's tokens."""
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        frames = len(u) // len(subject)
        k, v = (split(to(subject)).repeat_interleave(frames, 0) for to in (self.to_k, self.to_v))
        return self.to_out[0](F.scaled_dot_product_attention(split(self.to_q(u)), k, v).transpose(1, 2).flatten(2))


def places(unet: UNet3DConditionModel) -> dict[str, nn.Module]:
    """The spatial transformer blocks by their names."""
    return {name: module for name, module in unet.named_modules()
            if name.endswith("transformer_blocks.0") and ".attentions." in name}


class ReferenceAttention(nn.Module):
    """Behind both attentions of every spatial transformer block. It is told what each pass is by `collect` and `use`."""

    def __init__(self, unet: UNet3DConditionModel, outside: float = 0.75, rule: str = "coverage"):
        super().__init__()
        self.settings = {"outside_weight": outside, "mask_rule": rule}
        self.names, self.mode, self.features, self.masks = [], None, {}, None
        for name, block in places(unet).items():
            width = block.attn1.to_q.out_features
            for ours, theirs in (("ref_attn1", block.attn1), ("ref_attn2", block.attn2)):
                key = f"{name}.{ours}"
                self._put(key, ReferenceProjections(width, theirs.heads))
                theirs.register_forward_hook(lambda module, given, made, key=key: self._behind(key, made))

    def _put(self, name: str, module: nn.Module):
        """A module at a dotted name, so that the tensors are called as in the folder."""
        *path, last = name.split(".")
        place = self
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place._modules[step]
        place.add_module(last, module)

    def _behind(self, key: str, u: torch.Tensor):
        if self.mode == "collect":
            self.features[key] = u
        elif self.mode == "use":
            more = self.get_submodule(key)(u, self.features[key])
            return u + (more if self.masks is None else self.masks[u.shape[1]] * more)
        return u

    def collect(self, unet, subject: torch.Tensor, text: torch.Tensor):
        """Runs the subject's branch: clean latents [B, 4, h, w] as videos of one frame, at time 0, with the prompt."""
        self.mode, self.features = "collect", {}
        unet(subject.unsqueeze(2), torch.zeros(len(subject), dtype=torch.long), text)
        self.mode = None

    def use(self, masks: dict[int, torch.Tensor] | None):
        """From here on passes see the subject, weighted by `masks`: tokens of a grid -> [B F, tokens, 1]."""
        self.mode, self.masks = "use", masks

    def rest(self):
        self.mode, self.masks = None, None


def clipped(box) -> tuple[float, float, float, float] | None:
    x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in box)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def covered(box, rows: int, columns: int) -> torch.Tensor:
    """[rows, columns] of a grid over the frame: 1 where the box covers half of a cell or more, and in the cell of its centre."""
    grid = torch.zeros(rows, columns)
    if box is None or (box := clipped(box)) is None:
        return grid
    share = lambda a, b, n: torch.tensor([max(0.0, min(b * n, i + 1) - max(a * n, i)) for i in range(n)], dtype=torch.float64)
    x0, y0, x1, y1 = box
    grid[(share(y0, y1, rows)[:, None] * share(x0, x1, columns)) >= 0.5] = 1
    grid[min(rows - 1, int((y0 + y1) / 2 * rows)), min(columns - 1, int((x0 + x1) / 2 * columns))] = 1
    return grid


def pixel_mask(box, height: int, width: int) -> torch.Tensor:
    """[height, width]: 1 inside, at least one pixel."""
    mask = torch.zeros(height, width)
    if box is None or (box := clipped(box)) is None:
        return mask

    def span(a: float, b: float, n: int) -> slice:
        start = min(n - 1, math.floor(a * n + 1e-6))
        return slice(start, max(start + 1, math.ceil(b * n - 1e-6)))

    x0, y0, x1, y1 = box
    mask[span(y0, y1, height), span(x0, x1, width)] = 1
    return mask


def cells_of(boxes: list, cells: tuple[int, int]) -> torch.Tensor:
    """[B F, h, w] of the boxes of all frames of all videos: the grid's masks."""
    return torch.stack([covered(box, *cells) for box in boxes])


def reweighted(made: torch.Tensor, target: torch.Tensor, inside: torch.Tensor, weight: float) -> torch.Tensor:
    """The squared error, cells inside [B, 1, F, h, w] counted `weight` times; the mean over all cells, so that it grows with the boxes."""
    return ((made - target).square() * (1 + (weight - 1) * inside)).mean()


def grids(rows: int, columns: int, levels: int) -> list[tuple[int, int]]:
    """Of the latents and of each level below, rounded up."""
    made = [(rows, columns)]
    while len(made) < levels:
        made.append(((made[-1][0] + 1) // 2, (made[-1][1] + 1) // 2))
    return made


def weights_of(boxes: list, cells: tuple[int, int], levels: int, outside: float, rule: str = "coverage",
               size: tuple[int, int] | None = None) -> dict[int, torch.Tensor]:
    """The weights of reference attention for the boxes of all frames of all videos, one after the other: tokens -> [B F, tokens, 1]."""
    made = {}
    for rows, columns in grids(*cells, levels):
        if rule == "nearest":
            full = torch.stack([pixel_mask(box, *size) for box in boxes])
            r, c = (torch.arange(n) * whole // n for n, whole in ((rows, size[0]), (columns, size[1])))
            inside = full[:, r][:, :, c]
        else:
            inside = torch.stack([covered(box, rows, columns) for box in boxes])
        made[rows * columns] = (inside + outside * (1 - inside)).flatten(1).unsqueeze(-1)
    return made


class EncoderLayer(nn.Module):
    """Self-attention over frames and a feed-forward, both after a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = ReferenceProjections(width, heads)
        nn.init.xavier_uniform_(self.attn1.to_out[0].weight)
        self.ff = nn.ModuleDict({"net": nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(width, 4 * width)}), nn.Identity(), nn.Linear(4 * width, width)])})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        return x + self.ff["net"][2](F.gelu(self.ff["net"][0]["proj"](self.norm3(x))))


class BoxMotionEncoder(nn.Module):
    """Boxes of all frames to a feature of the latents' size."""

    def __init__(self, out: int, widths=(16, 32, 96, 256), layers: int = 2, heads: int = 8, most: int = 64, inputs: int = 1):
        super().__init__()
        self.settings = {"conditioning_channels": inputs, "block_out_channels": list(widths), "num_temporal_layers": layers,
                         "num_attention_heads": heads, "max_frames": most, "out_channels": out}
        conv = lambda a, b, stride=1: nn.Conv2d(a, b, 3, stride, 1)
        self.conv_in = conv(inputs, widths[0])
        self.blocks = nn.ModuleList()
        for a, b in zip(widths, widths[1:]):
            self.blocks += [conv(a, a), conv(a, b, 2)]
        self.pos_embed = nn.Parameter(0.02 * torch.randn(most, widths[-1]))
        self.transformer_blocks = nn.ModuleList(EncoderLayer(widths[-1], heads) for _ in range(layers))
        self.conv_out = conv(widths[-1], out)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        """[B F, C, h, w] of pixel masks [B, F, H, W], 1 inside the boxes."""
        frames = masks.shape[1]
        x = (1 - masks).flatten(0, 1).unsqueeze(1).expand(-1, self.settings["conditioning_channels"], -1, -1)
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        h, w = x.shape[2:]
        x = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2) + self.pos_embed[:frames]
        for block in self.transformer_blocks:
            x = block(x)
        x = x.unflatten(0, (-1, h, w)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return self.conv_out(x)


class _Given(nn.Module):
    def forward(self, feature):
        return feature


def controlnet(unet: UNet3DConditionModel) -> ControlNetModel:
    """The 2-D downward half of the UNet, with its weights and zero outputs; it is given the encoder's feature."""
    c = unet.config
    flat = [kind.replace("3D", "2D") for kind in c.down_block_types]
    net = ControlNetModel(
        in_channels=c.in_channels, down_block_types=flat, block_out_channels=c.block_out_channels, layers_per_block=c.layers_per_block,
        norm_num_groups=c.norm_num_groups, norm_eps=c.norm_eps, cross_attention_dim=c.cross_attention_dim,
        attention_head_dim=tuple(width // c.attention_head_dim for width in c.block_out_channels), use_linear_projection=True,
        conditioning_embedding_out_channels=(4, 4))
    net.controlnet_cond_embedding = _Given()
    held, own = unet.state_dict(), net.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if name in held:
                tensor.copy_(held[name])
    return net


class Subject(nn.Module):
    """The three modules on a frozen UNet."""

    def __init__(self, unet: UNet3DConditionModel, widths=(16, 32, 96, 256), layers: int = 2, heads: int = 8, most: int = 64):
        super().__init__()
        self.unet = [unet]  # not ours to train
        self.reference_attention = ReferenceAttention(unet)
        self.motion_encoder = BoxMotionEncoder(unet.config.block_out_channels[0], widths, layers, heads, most)
        self.controlnet = controlnet(unet)

    def predict(self, z, t, text, boxes: list | None = None, masks=None, feature=None, outside: float | None = None) -> torch.Tensor:
        """The UNet's output for [B, 4, F, h, w] at times [B]; the subject's features were collected before, or there is none.
        `boxes`: of all frames of all videos; `masks` [B, F, H, W] the same in pixels, or `feature`, what the encoder made of them."""
        unet, reference = self.unet[0], self.reference_attention
        frames, more = z.shape[2], {}
        if boxes is not None:
            feature = self.motion_encoder(masks) if feature is None else feature
            down, mid = self.controlnet(z.transpose(1, 2).flatten(0, 1), t.repeat_interleave(frames), text.repeat_interleave(frames, 0), feature,
                                        return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        if reference.features:
            given = reference.settings["outside_weight"] if outside is None else outside
            levels = len(unet.config.block_out_channels)
            reference.use(None if boxes is None else weights_of(boxes, z.shape[3:], levels, given, reference.settings["mask_rule"],
                                                               None if masks is None else masks.shape[2:]))
        made = unet(z, t, text, **more).sample
        reference.rest()
        return made


def write(net: Subject, folder: str):
    """The three parts as diffusers lays out parts."""
    import images

    for name, kind, settings in (("reference_attention", "ReferenceAttention", net.reference_attention.settings),
                                 ("motion_encoder", "BoxMotionEncoder", net.motion_encoder.settings)):
        images.write_json(os.path.join(folder, name, "config.json"), {"_class_name": kind} | settings)
        save_tensors(getattr(net, name).state_dict(), os.path.join(folder, name, "diffusion_pytorch_model.safetensors"))
    net.controlnet.register_to_config(_name_or_path="")
    net.controlnet.save_config(os.path.join(folder, "controlnet"))
    save_tensors(net.controlnet.state_dict(), os.path.join(folder, "controlnet", "diffusion_pytorch_model.safetensors"))


def load(unet: UNet3DConditionModel, folder: str) -> Subject:
    from safetensors.torch import load_file

    with open(os.path.join(folder, "motion_encoder", "config.json")) as file:
        c = json.load(file)
    net = Subject(unet, c["block_out_channels"], c["num_temporal_layers"], c["num_attention_heads"], c["max_frames"])
    for name in ("reference_attention", "motion_encoder", "controlnet"):
        held = load_file(os.path.join(folder, name, "diffusion_pytorch_model.safetensors"))
        getattr(net, name).load_state_dict({key: value.float() for key, value in held.items()})
    return net.eval().requires_grad_(False)


def placed(picture: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor | None:
    """A subject [3, H, W] in [-1, 1] cut out by `alpha` [H, W], four fifths of the frame, in its middle, on white."""
    height, width = alpha.shape
    solid = alpha >= 0.5
    if not solid.any():
        return None
    rows, columns = solid.any(1).nonzero().flatten(), solid.any(0).nonzero().flatten()
    cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    made = (picture * alpha + (1 - alpha))[:, cut[0], cut[1]]
    h, w = made.shape[1:]
    scale = min(0.8 * width / w, 0.8 * height / h)
    h, w = (max(1, math.floor(scale * side + 0.5)) for side in (h, w))
    made = F.interpolate(made[None], (h, w), mode="bicubic", antialias=True, align_corners=False)[0].clamp(-1, 1)
    canvas = torch.ones(3, height, width)
    y, x = (height - h) // 2, (width - w) // 2
    canvas[:, y:y + h, x:x + w] = made
    return canvas

"""Goldens of the autoencoder: what diffusers' AutoencoderKLCogVideoX makes of the tiny models.

    python tests/reference/vae.py write       # tests/golden/vae/*.safetensors, and the config of the extra model
    python tests/reference/vae.py time DIR FRAMES HEIGHT WIDTH    # a folder's decode by diffusers: seconds and peak memory

Inputs follow from their names (tiny.unit); of large outputs every p-th value is kept, p the prime of `thin`.
"""

import contextlib
import json
import math
import resource
import sys
import time

import diffusers.models.autoencoders.autoencoder_kl_cogvideox as module
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.upsampling import CogVideoXUpsample3D
from safetensors.torch import save_file

import tiny

# quantisation convolutions, two temporal ratios fewer, channels that shrink and grow, another epsilon
EXTRA = dict(block_out_channels=(6, 12, 8), down_block_types=("CogVideoXDownBlock3D",) * 3,
             up_block_types=("CogVideoXUpBlock3D",) * 3, latent_channels=3, norm_num_groups=2, layers_per_block=2,
             temporal_compression_ratio=2, norm_eps=1e-3, use_quant_conv=True, use_post_quant_conv=True,
             sample_height=32, sample_width=48, scaling_factor=0.9)

TILE = dict(tile_sample_min_height=32, tile_sample_min_width=40, tile_overlap_factor_height=0.25,
            tile_overlap_factor_width=0.2)


def models() -> dict:
    built = {kind: tiny.build(kind)["vae"] for kind in tiny.KINDS}
    built["vae-extra"] = tiny.fill(AutoencoderKLCogVideoX(**EXTRA), "vae-extra/vae")
    return built


def thin(values: torch.Tensor) -> torch.Tensor:
    """All values, flat, or every p-th, p the smallest prime from 11 on that leaves 1500 or fewer."""
    values = values.detach().contiguous().flatten()
    p = 1
    while math.ceil(len(values) / p) > 1500:
        p = max(p + 1, 11)
        while any(p % d == 0 for d in range(2, p)):
            p += 1
    return values[::p].clone()


@contextlib.contextmanager
def explicit(state: dict):
    """Diffusers' blocks, but whether a chunk's first latent frame stays single in time follows from state["first"], not
    from the parity of the chunk."""
    upsample, norm = CogVideoXUpsample3D.forward, module.CogVideoXSpatialNorm3D.forward

    def split(x, enlarge):
        if not state["first"]:
            return enlarge(x, False)
        parts = [enlarge(x[:, :, :1], True)]
        if x.shape[2] > 1:
            parts.append(enlarge(x[:, :, 1:], False))
        return torch.cat(parts, dim=2)

    def upsample_forward(self, inputs):
        def enlarge(x, single):
            factor = 2.0 if self.compress_time and not single else 1.0
            return F.interpolate(x, scale_factor=(factor, 2.0, 2.0))

        x = split(inputs, enlarge)
        b, c, t, h, w = x.shape
        x = self.conv(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w))
        return x.reshape(b, t, *x.shape[1:]).permute(0, 2, 1, 3, 4)

    def norm_forward(self, f, zq, conv_cache=None):
        rest = f.shape[2] - int(state["first"])
        zq = split(zq, lambda z, single: F.interpolate(z, size=(1 if single else rest, *f.shape[3:])))
        conv_y, conv_b = self.conv_y(zq)[0], self.conv_b(zq)[0]
        return self.norm_layer(f) * conv_y + conv_b, {}

    CogVideoXUpsample3D.forward, module.CogVideoXSpatialNorm3D.forward = upsample_forward, norm_forward
    try:
        yield
    finally:
        CogVideoXUpsample3D.forward, module.CogVideoXSpatialNorm3D.forward = upsample, norm


def decode(vae, latents: torch.Tensor, chunk: int = 2, tile: bool = False, first_chunk: bool = False) -> torch.Tensor:
    """[F, C, h, w] to [T, 3, H, W]; by diffusers' own loop, or with its blocks and an explicit beginning."""
    z = latents.permute(1, 0, 2, 3)[None]
    vae.num_latent_frames_batch_size = chunk
    vae.use_tiling = False
    if tile:
        vae.enable_tiling(**TILE)
    if not first_chunk:
        y = vae.decode(z).sample
    else:
        state = dict(first=True)
        size = chunk + z.shape[2] % chunk if z.shape[2] >= chunk else z.shape[2]
        parts, cache = [], None
        with explicit(state):
            for part in [z[:, :, :size], *(z[:, :, size:].split(chunk, dim=2) if z.shape[2] > size else [])]:
                if vae.post_quant_conv is not None:
                    part = vae.post_quant_conv(part)
                part, cache = vae.decoder(part, conv_cache=cache)
                parts.append(part)
                state["first"] = False
        y = torch.cat(parts, dim=2)
    vae.use_tiling = False
    return y[0].permute(1, 0, 2, 3)


def encode(vae, video: torch.Tensor, tile: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    vae.use_tiling = False
    if tile:
        vae.enable_tiling(**TILE)
    distribution = vae.encode(video.permute(1, 0, 2, 3)[None]).latent_dist
    vae.use_tiling = False
    return distribution.mean[0].permute(1, 0, 2, 3), distribution.logvar[0].permute(1, 0, 2, 3)


# name: latent frames, height, width, options of `decode`
DECODES = {
    "one": (1, 3, 4, {}),
    "three": (3, 3, 5, {}),
    "five": (5, 4, 2, {}),
    "seven": (7, 2, 3, {}),
    "odd-chunks-two": (2, 2, 3, {}),
    "odd-chunks-four": (4, 3, 2, {}),
    "odd-chunks-by-three": (6, 3, 2, dict(chunk=3)),
    "odd-chunks-by-one": (3, 3, 2, dict(chunk=1)),
    "first-two": (2, 2, 3, dict(first_chunk=True)),
    "first-four": (4, 3, 2, dict(first_chunk=True)),
    "first-five": (5, 4, 2, dict(first_chunk=True)),
    "first-three-by-one": (3, 3, 2, dict(chunk=1, first_chunk=True)),
    "first-seven-by-three": (7, 2, 2, dict(chunk=3, first_chunk=True)),
    "first-five-by-eight": (5, 2, 2, dict(chunk=8, first_chunk=True)),
    "tiled": (5, 7, 9, dict(tile=True)),
    "tiled-wide": (3, 3, 11, dict(tile=True)),
    "tiled-high": (1, 9, 5, dict(tile=True)),
}
# name: frames, height and width in latent cells, options of `encode`
ENCODES = {
    "one": (1, 3, 4, {}),
    "five": (5, 2, 5, {}),
    "nine": (9, 3, 5, {}),
    "eighteen": (18, 3, 2, {}),
    "twenty-five": (25, 2, 3, {}),
    "tiled": (17, 7, 9, dict(tile=True)),
}


@torch.no_grad()
def write() -> None:
    folder = tiny.GOLDEN / "vae"
    folder.mkdir(exist_ok=True)
    for kind, vae in models().items():
        if kind == "vae-extra":
            target = tiny.GOLDEN / kind / "vae"
            target.mkdir(parents=True, exist_ok=True)
            vae.save_config(target)
            shapes = {name: list(tensor.shape) for name, tensor in vae.state_dict().items()}
            (target / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
        channels, ratio = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
        golden = {}
        probe = tiny.unit("probe", (5, channels, 2, 3))
        assert torch.equal(decode(vae, probe), decode(vae, probe, first_chunk=True)), "the two rules differ on an odd length"
        for name, (frames, height, width, options) in DECODES.items():
            if kind == "vae-extra" and options.get("tile"):
                continue  # its latent cell is 4 pixels: TILE has other tiles there, and sizes diffusers gets wrong
            shape = (frames, channels, height, width)
            y = decode(vae, tiny.unit(f"{kind}/latents/{name}", shape), **options)
            golden[f"decode/{name}"] = thin(y)
            golden[f"decode/{name}/shape"] = torch.tensor(y.shape)
        for name, (frames, height, width, options) in ENCODES.items():
            if kind == "vae-extra" and options.get("tile"):
                continue
            shape = (frames, vae.config.in_channels, height * ratio, width * ratio)
            mean, logvar = encode(vae, tiny.unit(f"{kind}/video/{name}", shape), **options)
            golden[f"encode/{name}/mean"], golden[f"encode/{name}/logvar"] = thin(mean), thin(logvar)
            golden[f"encode/{name}/shape"] = torch.tensor(mean.shape)
        path = folder / f"{kind}.safetensors"
        save_file(golden, path)
        path.chmod(0o644)
        print(path, path.stat().st_size)


@torch.no_grad()
def clock(folder: str, frames: int, height: int, width: int) -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(folder, torch_dtype=torch.float32).eval()
    latents = tiny.unit("latents", (frames, vae.config.latent_channels, height, width)) * 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        start, busy = time.perf_counter(), time.process_time()
        y = decode(vae, latents)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{tuple(y.shape)}: {seconds:.2f} s ({busy:.2f} s of processor time) on {torch.get_num_threads()} threads, peak {peak >> 10} MiB "
              f"(before {before >> 10} MiB)")
    save_file({"frames": y.contiguous()}, "/tmp/vae-reference.safetensors")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write"]:
            write()
        case ["time", folder, frames, height, width]:
            clock(folder, int(frames), int(height), int(width))
        case _:
            sys.exit(__doc__)

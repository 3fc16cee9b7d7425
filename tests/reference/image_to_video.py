"""Goldens of image to video: `tests/golden/image-to-video.safetensors`, and the tiny models `tiny-i2v` and `tiny-i2v-1.5`.

    python tests/reference/image_to_video.py

diffusers' CogVideoXImageToVideoPipeline on tiny random weights (tiny.py): the form of CogVideoX-5B-I2V, with learned positions over
rotary ones, and that of CogVideoX1.5-5B-I2V, with patches in time and `ofs`. Noise is given: `noise`, `image_noise` (of the draw of
the picture's latents) and `step_noise/<i>`, as `tiny.unit` makes them of `image-to-video/<case>/..`. The picture has another shape
than the video and is stretched, as diffusers does. What diffusers has no words for is put around its transformer: passes without an
image (`jit`, `sit`) see zeros in its channels, `renorm` is over everything, and of learned positions a shorter clip has the first.
"""

import json

import diffusers.models.autoencoders.vae as vae_module
import diffusers.schedulers.scheduling_dpm_cogvideox as dpm_module
import PIL.Image
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXImageToVideoPipeline
from safetensors.torch import save_file

import tiny
from pipeline import PROMPT
from vae import thin

FORM = dict(tiny._TRANSFORMER, in_channels=8, use_rotary_positional_embeddings=True)
tiny.KINDS |= {
    "tiny-i2v": dict(transformer=dict(FORM, num_attention_heads=2, use_learned_positional_embeddings=True), vae=tiny._VAE,
                     text_encoder=tiny._TEXT, scheduler=(CogVideoXDPMScheduler, 1.0)),
    "tiny-i2v-1.5": dict(
        transformer=dict(FORM, num_attention_heads=3, patch_size_t=2, patch_bias=False, ofs_embed_dim=24, sample_height=8,
                         sample_width=14, sample_frames=17),
        vae=dict(tiny._VAE, scaling_factor=0.7, invert_scale_latents=True), text_encoder=tiny._TEXT,
        scheduler=(CogVideoXDPMScheduler, 1.0)),
}
# kind, sampler, frames, height and width in pixels, guidance mode, renormalisation
CASES = {
    "dpm": ("tiny-i2v", "dpm", 9, (48, 80), "cfg", "off"),
    "ddim": ("tiny-i2v", "ddim", 9, (48, 80), "cfg", "off"),
    "short": ("tiny-i2v", "ddim", 5, (48, 80), "cfg", "off"),
    "jit": ("tiny-i2v", "dpm", 9, (48, 80), "jit", "full"),
    "ofs": ("tiny-i2v-1.5", "dpm", 9, (32, 48), "cfg", "off"),
    "ofs-sit": ("tiny-i2v-1.5", "dpm", 9, (32, 48), "sit", "clamp"),
    "ofs-whole": ("tiny-i2v-1.5", "ddim", 13, (32, 48), "jit", "off"),
}
STEPS, SCALE, IMAGE_SCALE = 4, 6.0, 2.0
SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
PICTURE = (56, 40)  # width and height


def picture() -> PIL.Image.Image:
    width, height = PICTURE
    values = ((tiny.unit("image-to-video/picture", (height, width, 3)) + 1) * 127.5).round().clamp(0, 255)
    return PIL.Image.fromarray(values.numpy().astype("uint8"))


def first_positions(transformer):
    """Of learned positions the first, where diffusers has sines."""
    embed = transformer.patch_embed
    if not embed.use_learned_positional_embeddings:
        return

    def positions(height, width, frames, device=None):
        tokens = ((frames - 1) // 4 + 1) * (height // 2) * (width // 2)
        return embed.pos_embedding[:, :embed.max_text_seq_length + tokens]

    embed._get_positional_embeddings = positions


def guided(transformer, mode, renorm):
    """Guidance inside the network: diffusers mixes its two halves, which are then the same."""
    forward, channels = transformer.forward, transformer.config.out_channels

    def wrapped(hidden_states, encoder_hidden_states, return_dict, **rest):
        (full,), (none, text) = hidden_states[1:].split(1), encoder_hidden_states.split(1)
        rest["timestep"] = rest["timestep"][:1]
        bare = torch.cat([full[:, :, :channels], torch.zeros_like(full[:, :, channels:])], 2)
        see = lambda x, words: forward(hidden_states=x, encoder_hidden_states=words, return_dict=False, **rest)[0]
        both, null = see(full, text), see(bare, none)
        if mode == "jit":
            v = null + SCALE * (both - null)
        else:
            image = see(full, none)
            v = null + IMAGE_SCALE * (image - null) + SCALE * (both - image)
        if renorm != "off":
            factor = both.norm() / v.norm()
            v = v * (factor.clamp(max=1) if renorm == "clamp" else factor)
        return (torch.cat([v, v]),)

    transformer.forward = wrapped


@torch.no_grad()
def case(name):
    kind, scheduler, frames, (height, width), mode, renorm = CASES[name]
    parts = tiny.build(kind)
    pipe = CogVideoXImageToVideoPipeline(tokenizer=tiny.tokenizer(kind), **parts)
    pipe.scheduler = SCHEDULERS[scheduler].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.transformer.config
    first_positions(pipe.transformer)
    if mode != "cfg":
        guided(pipe.transformer, mode, renorm)
    latent_frames = (frames - 1) // 4 + 1
    padded = -(-latent_frames // (config.patch_size_t or 1)) * (config.patch_size_t or 1)
    shape = (1, padded, config.out_channels, height // 8, width // 8)
    unit = lambda what, shape: tiny.unit(f"image-to-video/{name}/{what}", shape)
    vae_module.randn_tensor = lambda size, **_: unit("image_noise", (1, 1, *shape[2:])).transpose(1, 2)
    state, step = dict(index=-1), type(pipe.scheduler).step

    def counted(*args, **kwargs):
        state["index"] += 1
        return step(pipe.scheduler, *args, **kwargs)

    pipe.scheduler.step = counted
    dpm_module.randn_tensor = lambda size, **_: unit(f"step_noise/{state['index']}", shape)
    latents = pipe(image=picture(), prompt=PROMPT, num_frames=frames, height=height, width=width, num_inference_steps=STEPS,
                   guidance_scale=SCALE, latents=unit("noise", shape), output_type="latent",
                   max_sequence_length=config.max_text_seq_length).frames
    latents = latents[:, padded - latent_frames:].contiguous()
    made = {f"{name}/latents": thin(latents)}
    if latent_frames % 2 == 0:
        return made  # of an even number its decoder makes three frames more than there are
    video = pipe.video_processor.postprocess_video(video=pipe.decode_latents(latents), output_type="np")[0]
    shown = torch.from_numpy((video * 255).round()).permute(0, 3, 1, 2) / 255
    return made | {f"{name}/frames": thin(shown)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in ("tiny-i2v", "tiny-i2v-1.5"):
        tiny.write_configs(kind)
        path = tiny.GOLDEN / kind / "model_index.json"
        index = json.loads(path.read_text()) | {"_class_name": "CogVideoXImageToVideoPipeline"}
        path.write_text(json.dumps(index, indent=2) + "\n")
    tensors = {}
    for name in CASES:
        tensors |= case(name)
    path = tiny.GOLDEN / "image-to-video.safetensors"
    save_file({key: tensor.float().contiguous() for key, tensor in tensors.items()}, path)
    print(path.stat().st_size)

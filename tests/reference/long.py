"""Goldens of windows longer than a model's: `tests/golden/pipeline/long.safetensors`.

    python tests/reference/long.py

UltraViCo (arXiv 2511.20123) and RIFLEx (arXiv 2502.15894) as plain as they can be, from their rules, around diffusers' pipeline on the
tiny models: the whole matrix of logits is made, and positive ones between frames far apart are multiplied; one frequency in time of the
rotary table is lowered.
"""

import math

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from safetensors.torch import save_file

from pipeline import GUIDANCE, STEPS, with_scheduler
from tiny import GOLDEN, joint, pipeline, unit

PROMPT = "a red ball rolls to the right"


class Damped:
    def __init__(self, frames, alpha, own):
        self.frames, self.alpha, self.own = frames, alpha, own

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        frame = torch.arange(self.frames).repeat_interleave((q.shape[2] - text) // self.frames)
        far = torch.zeros(q.shape[2], q.shape[2], dtype=torch.bool)
        far[text:, text:] = (frame[:, None] - frame[None]).abs() > self.own / 2
        scores = torch.where(far & (scores > 0), self.alpha * scores, scores)
        out = attn.to_out[0]((torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


def lowered(k, frames, height, width, config):
    """diffusers' table, whose k-th frequency in time is 0.9 2 pi / frames where the window is longer than its period."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
    base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
    grid = height // config.patch_size, width // config.patch_size
    crops = get_resize_crop_region_for_grid(grid, *base)
    cos, sin = get_3d_rotary_pos_embed(embed_dim=config.attention_head_dim, crops_coords=crops, grid_size=grid,
                                       temporal_size=frames, device="cpu")
    dim = config.attention_head_dim // 4
    theta = 10000 ** (-2.0 * (k - 1) / dim)
    assert frames > round(2 * math.pi / theta)
    angles = torch.arange(frames, dtype=torch.float64) * 0.9 * 2 * math.pi / frames
    assert get_1d_rotary_pos_embed(dim, frames, use_real=True)[0].shape[1] == dim
    place = slice(2 * (k - 1), 2 * k)  # each angle stands twice
    rows = angles.repeat_interleave(grid[0] * grid[1])[:, None].expand(-1, 2)
    cos[:, place], sin[:, place] = rows.cos().float(), rows.sin().float()
    return cos, sin


@torch.no_grad()
def run(kind, frames, prepare):
    pipe = with_scheduler(pipeline(kind), "ddim")
    pipe.set_progress_bar_config(disable=True)
    config = pipe.transformer.config
    count = (frames - 1) // 4 + 1
    prepare(pipe, count, config)
    embeds = pipe._get_t5_prompt_embeds([PROMPT], max_sequence_length=config.max_text_seq_length)
    return pipe(prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), num_frames=frames, height=32, width=48,
                num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent",
                latents=unit("pipeline/noise", (1, count, config.in_channels, 4, 6)),
                max_sequence_length=config.max_text_seq_length).frames.contiguous()


def ultravico(pipe, count, config):
    own = (config.sample_frames - 1) // 4 + 1
    for block in pipe.transformer.transformer_blocks:
        block.attn1.processor = Damped(count, 0.7, own)


def riflex(pipe, count, config):
    pipe._prepare_rotary_positional_embeddings = lambda *_: lowered(1, count, 4, 6, config)


if __name__ == "__main__":
    torch.set_num_threads(1)
    goldens = {"ultravico/2b": run("tiny-2b", 25, ultravico), "ultravico/5b": run("tiny-5b", 25, ultravico),
               "riflex/5b": run("tiny-5b", 33, riflex)}
    save_file(goldens, GOLDEN / "pipeline" / "long.safetensors")

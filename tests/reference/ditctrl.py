"""Goldens of K/V sharing between windows: `tests/golden/pipeline/ditctrl.safetensors`.

    python tests/reference/ditctrl.py

DiTCtrl's loop (arXiv 2412.18597; spec/ditctrl.md 3 and 4), as plain as it can be, around diffusers' modules on the tiny
models: in every step every pair of neighbouring windows goes through the transformer as one batch
[uncond source, uncond target, cond source, cond target], an attention processor gives the targets the sources' keys and
values in the chosen layers and steps, and the guided estimates of the clean video, two of each inner window, are blended
with triangular weights. `paper`: one estimate of each window, plain of the first, shared of the others.
"""

import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from safetensors.torch import save_file

from pipeline import GUIDANCE, STEPS, STORY, blend_weights, inject_noise, with_scheduler
from tiny import GOLDEN, pipeline, unit

HEIGHT, WIDTH = 4, 6

# name: model, sampler, prompts, overlap, transition windows, layers, steps, blend
CASES = {
    "2b-two": ("tiny-2b", "ddim", 2, 1, 0, [1, 2], [1, 2], "repo"),
    "2b-three": ("tiny-2b", "ddim", 2, 2, 1, [2], [0, 1, 2], "repo"),
    "2b-three-paper": ("tiny-2b", "ddim", 2, 2, 1, [0, 1], [1, 3], "paper"),
    "2b-four": ("tiny-2b", "dpm", 2, 2, 2, [0, 2], [0, 3], "repo"),
    "2b-five": ("tiny-2b", "dpm", 3, 1, 1, [1], [0, 1, 2, 3], "repo"),
    "2b-five-paper": ("tiny-2b", "ddim", 3, 2, 1, [1], [0, 2], "paper"),
    "5b-two": ("tiny-5b", "dpm", 2, 2, 0, [0, 1, 2], [1], "repo"),
    "5b-three": ("tiny-5b", "ddim", 3, 1, 0, [0], [0, 1], "repo"),
    "5b-four-paper": ("tiny-5b", "dpm", 2, 2, 2, [1, 2], [1, 2, 3], "paper"),
    "5b-five": ("tiny-5b", "dpm", 3, 2, 1, [1, 2], [1, 2], "repo"),
}


class Share:
    """One layer's attention; in a sharing step rows 1 and 3 of a batch attend to keys and values of rows 0 and 2."""

    def __init__(self, state):
        self.state = state

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (proj(x).unflatten(2, (attn.heads, -1)).transpose(1, 2) for proj in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q, k = (torch.cat([y[:, :, :text], apply_rotary_emb(y[:, :, text:], image_rotary_emb)], dim=2) for y in (q, k))
        if self.state["sharing"]:
            k, v = k[[0, 0, 2, 2]], v[[0, 0, 2, 2]]
        out = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1) @ v
        out = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


def window_texts(embeds, transitions):
    texts = []
    for a, b in zip(embeds, embeds[1:]):
        texts += [a] + [(1 - j / (transitions + 1)) * a + j / (transitions + 1) * b for j in range(1, transitions + 1)]
    return texts + [embeds[-1]]


def loop(pipe, scheduler, texts, overlap, steps, blend, state):
    """Latents [1, F, C, H, W]; `state` tells the processors whether the step shares."""
    config = pipe.transformer.config
    n = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    stride, count = n - overlap, len(texts)
    length = n + (count - 1) * stride
    shape = (1, length, config.in_channels, HEIGHT, WIDTH)
    inject_noise(pipe, shape)
    pipe.scheduler.set_timesteps(STEPS)
    rotary = None
    if config.use_rotary_positional_embeddings:
        rotary = pipe._prepare_rotary_positional_embeddings(HEIGHT * 8, WIDTH * 8, n, torch.device("cpu"))
    uncond, weights = torch.zeros_like(texts[0]), blend_weights(n).view(1, -1, 1, 1, 1)
    x, old, timesteps = unit("pipeline/noise", shape), None, pipe.scheduler.timesteps
    for i, t in enumerate(timesteps):
        state["sharing"] = i in steps
        a = pipe.scheduler.alphas_cumprod[t].double()
        total, norm = torch.zeros(shape, dtype=torch.float64), torch.zeros((1, length, 1, 1, 1), dtype=torch.float64)
        for k in range(count - 1):
            source, target = (x[:, j * stride:j * stride + n] for j in (k, k + 1))
            v = pipe.transformer(hidden_states=torch.cat([source, target, source, target]),
                                 encoder_hidden_states=torch.cat([uncond, uncond, texts[k], texts[k + 1]]),
                                 timestep=t.expand(4), image_rotary_emb=rotary, return_dict=False)[0].double()
            for j, latents, u, c in ((k, source, v[0], v[2]), (k + 1, target, v[1], v[3])):
                if blend == "paper" and j == k and k > 0:
                    continue
                clean = lambda v: a.sqrt() * latents - (1 - a).sqrt() * v
                estimate = clean(u) + GUIDANCE * (clean(c) - clean(u))
                total[:, j * stride:j * stride + n] += weights * estimate
                norm[:, j * stride:j * stride + n] += weights
        v = ((a.sqrt() * x - total / norm) / (1 - a).sqrt()).float()
        if scheduler == "ddim":
            x = pipe.scheduler.step(v, t, x, return_dict=False)[0]
        else:
            x, old = pipe.scheduler.step(v, old, t, timesteps[i - 1] if i else None, x, return_dict=False)
    return x.contiguous()


@torch.no_grad()
def case(kind, scheduler, prompts, overlap, transitions, layers, steps, blend):
    pipe = with_scheduler(pipeline(kind), scheduler)
    state = dict(sharing=False)
    for layer, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.processor = Share(state) if layer in layers else CogVideoXAttnProcessor2_0()
    length = pipe.transformer.config.max_text_seq_length
    embeds = [pipe._get_t5_prompt_embeds([prompt], max_sequence_length=length) for prompt in STORY[:prompts]]
    return loop(pipe, scheduler, window_texts(embeds, transitions), overlap, steps, blend, state)


if __name__ == "__main__":
    torch.set_num_threads(2)
    save_file({name: case(*values) for name, values in CASES.items()}, GOLDEN / "pipeline" / "ditctrl.safetensors")

"""Goldens of scenes that share a text: `tests/golden/pipeline/relay.safetensors`.

    python tests/reference/relay.py

Prompt Relay (arXiv 2604.10030) as plain as it can be, from its formula, around diffusers' modules on the tiny models: the whole
matrix of penalties, queries by keys, is made and taken from the logits of the conditional rows. `penalty/<name>` are tables of
latent frames of penalties of one scene; the others are latents after four steps: of one window, of windows that overlap, and of such
that share keys and values as well, whose readers get the penalty of the text they read at their own frames.
"""

import math

import torch
from safetensors.torch import save_file

from ditctrl import loop, places
from pipeline import SCHEDULERS, with_ofs, with_scheduler
from tiny import GOLDEN, joint, pipeline

HEIGHT, WIDTH = 4, 6
DEFAULT, AUTHORS = dict(inner=1.0, tail=2.0, epsilon=0.001), dict(inner=0.5, tail=0.0, epsilon=0.1)

# name: numbers, scene of latent frames, latent frames
PENALTIES = {
    "default": (DEFAULT, (3, 9), 16),
    "authors": (AUTHORS, (0, 13), 13),
    "one-frame": (DEFAULT, (4, 5), 12),
    "wide": (dict(inner=0.25, tail=3.5, epsilon=0.02), (2, 20), 24),
}

# name: model, sampler, style, scenes with their frames, numbers, window starts, layers and steps that share
FIRST, SECOND, THIRD = "a red ball", "a blue ball", "a box"
CASES = {
    "2b-two": ("tiny-2b", "ddim", "", [(FIRST, 0, 5), (SECOND, 5, 9)], DEFAULT, [0], [], []),
    "5b-overlap": ("tiny-5b", "dpm", "", [(FIRST, 0, 9), (SECOND, 5, 9)], AUTHORS, [0], [], []),
    "2b-gap": ("tiny-2b", "ddim", "red", [(FIRST, 0, 1), (THIRD, 5, 9)], dict(DEFAULT, tail=0.5), [0], [], []),
    "1.5-patches": ("tiny-1.5", "dpm", "", [(FIRST, 0, 9), (SECOND, 9, 17)], dict(DEFAULT, tail=1.0), [0], [], []),
    "2b-windows": ("tiny-2b", "ddim", "", [(FIRST, 0, 9), (SECOND, 9, 17)], DEFAULT, [0, 2], [], []),
    "5b-shared": ("tiny-5b", "dpm", "", [(FIRST, 0, 9), (SECOND, 9, 17)], DEFAULT, [0, 2], [1, 2], [1, 2]),
}


def latent(frame):
    return 0 if frame == 0 else math.ceil((frame - 1) / 4) + 1


def penalty(numbers, scene, frame):
    a, b = scene
    m, h = (a + b - 1) / 2, (b - 1 - a) / 2
    w = numbers["inner"] * h
    sigma = (h - w + numbers["tail"]) / math.sqrt(-2 * math.log(numbers["epsilon"]))
    beyond = max(0.0, abs(frame - m) - w)
    if beyond == 0:
        return 0.0
    return beyond**2 / (2 * sigma**2) if sigma > 0 else math.inf


class Relay:
    """One layer's attention. Rows are [uncond source, uncond target, cond source, cond target] of two windows."""

    def __init__(self, state, shares):
        self.state, self.shares = state, shares

    def penalties(self, queries, text, reader, read):
        """What is taken from the logits of the window `reader`, on the text of the window `read`."""
        matrix = torch.zeros(queries, queries)
        frames, patch = self.state["frames"], self.state["patch"]
        per_frame = (queries - text) // frames
        for tokens, scene in self.state["texts"][read]:
            for token in range(text, queries):
                at = self.state["starts"][reader] + (token - text) // per_frame * patch + (patch - 1) / 2
                matrix[token, tokens] = penalty(self.state["numbers"], scene, at)
        return matrix

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        sharing = self.state["sharing"] and self.shares
        if sharing:
            k, v = k[[0, 0, 2, 2]], v[[0, 0, 2, 2]]
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        source, target = self.state["tokens"]
        scores[2] -= self.penalties(q.shape[2], text, source, source)
        scores[3] -= self.penalties(q.shape[2], text, target, source if sharing else target)
        out = attn.to_out[0]((torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


@torch.no_grad()
def case(kind, scheduler, style, scenes, numbers, starts, layers, steps):
    pipe = with_ofs(with_scheduler(pipeline(kind), scheduler))
    config = pipe.transformer.config
    patch = config.patch_size_t or 1
    total = latent(scenes[-1][2])
    padding = -total % patch
    window = total + padding if len(starts) == 1 else (config.sample_frames - 1) // 4 + 1
    times = [((latent(a) + padding) if a else 0, latent(b) + padding) for _, a, b in scenes]
    texts, embeds = [], []
    for start in starts:
        seen = [(prompt, time) for (prompt, *_), time in zip(scenes, times) if time[0] < start + window and time[1] > start]
        text = " ".join([style] * bool(style) + [prompt for prompt, _ in seen])
        ids = pipe.tokenizer(text).input_ids
        assert len(ids) <= config.max_text_seq_length, (text, len(ids))
        behind = len(pipe.tokenizer(style, add_special_tokens=False).input_ids) if style else 0
        spans = []
        for prompt, time in seen:
            at = behind
            own = pipe.tokenizer(prompt, add_special_tokens=False).input_ids
            while ids[at:at + len(own)] != own:
                at += 1
            spans.append((list(range(at, at + len(own))), time))
            behind = at + len(own)
        texts.append(spans)
        embeds.append(pipe._get_t5_prompt_embeds([text], max_sequence_length=config.max_text_seq_length))
    state = dict(sharing=False, texts=texts, starts=starts, frames=window // patch, patch=patch, numbers=numbers,
                 subject=list(range(len(starts))))
    for layer, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.processor = Relay(state, layer in layers)
    if len(starts) == 1:
        # a pair of the same window twice, whose estimates are equal
        state["texts"], state["starts"] = texts * 2, starts * 2
        state["subject"] = [0, 1]
        latents = alone(pipe, scheduler, embeds[0], window, state)
        return latents[:, padding:].contiguous()
    return loop(pipe, scheduler, embeds, window - starts[1], steps, "repo", state, size=(HEIGHT, WIDTH))


def alone(pipe, scheduler, embeds, frames, state):
    """One window: diffusers' own loop, in which rows are [uncond, cond]."""
    from pipeline import GUIDANCE, STEPS, inject_noise
    from tiny import unit
    shape = (1, frames, pipe.transformer.config.in_channels, HEIGHT, WIDTH)
    inject_noise(pipe, shape)
    inner = pipe.transformer.forward
    state["tokens"] = [0, 0]

    def twice(hidden_states, encoder_hidden_states, timestep, **others):
        rows = [0, 0, 1, 1]
        out = inner(hidden_states=hidden_states[rows], encoder_hidden_states=encoder_hidden_states[rows],
                    timestep=timestep[rows], **others)
        return (out[0][[0, 2]],)

    pipe.transformer.forward = twice
    pipe.set_progress_bar_config(disable=True)
    patch = pipe.transformer.config.patch_size_t or 1
    video = 4 * (frames - (1 if patch > 1 else 0) - 1) + 1
    return pipe(prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), num_frames=video, height=HEIGHT * 8,
                width=WIDTH * 8, num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=unit("pipeline/noise", shape),
                output_type="latent", max_sequence_length=pipe.transformer.config.max_text_seq_length).frames


if __name__ == "__main__":
    torch.set_num_threads(1)
    goldens = {f"penalty/{name}": torch.tensor([penalty(numbers, scene, frame) for frame in range(frames)], dtype=torch.float64)
               for name, (numbers, scene, frames) in PENALTIES.items()}
    goldens |= {name: case(*values) for name, values in CASES.items()}
    assert set(SCHEDULERS) == {"ddim", "dpm"}
    save_file(goldens, GOLDEN / "pipeline" / "relay.safetensors")

"""Goldens of K/V sharing between windows: `tests/golden/pipeline/ditctrl.safetensors`.

    python tests/reference/ditctrl.py

DiTCtrl's loop (arXiv 2412.18597; spec/ditctrl.md 3 and 4), as plain as it can be, around diffusers' modules on the tiny
models: in every step every pair of neighbouring windows goes through the transformer as one batch
[uncond source, uncond target, cond source, cond target], an attention processor gives the targets the sources' keys and
values in the chosen layers and steps, and the guided estimates of the clean video, two of each inner window, are blended
with triangular weights. `paper`: one estimate of each window, plain of the first, shared of the others.

Cases with a subject are the mask-guided form (spec 5), with dense masks: the mean over heads and over the layers so far of
what each video token pays to the subject's tokens, cut at a threshold frame by frame, says where the subject is in the source
and in the target; a target's foreground then attends to text and the source's foreground, the rest to text and the rest.
"""

import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from safetensors.torch import save_file

from pipeline import GUIDANCE, STEPS, STORY, blend_weights, inject_noise, with_scheduler
from tiny import GOLDEN, joint, pipeline, unit

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


# name: as above, but the prompts, and behind them the subject's words and the threshold
ALIKE = ["a red ball rolls", "a blue ball rolls", "a green ball rests"]
MOVED = ["a red ball rolls", "the very big red ball rolls"]
MASKED = {
    "2b-moved-subject": ("tiny-2b", "ddim", MOVED, 1, 0, [1, 2], [1, 2], "repo", "red ball", 0.3),
    "2b-subject": ("tiny-2b", "dpm", ALIKE[:2], 2, 1, [0, 2], [0, 2, 3], "repo", "ball", 0.3),
    "2b-subject-paper": ("tiny-2b", "ddim", ALIKE, 1, 0, [1, 2], [0, 1], "paper", "ball", 0.45),
    "5b-moved-subject": ("tiny-5b", "dpm", MOVED, 2, 0, [0, 1, 2], [1, 3], "repo", "ball", 0.3),
    "5b-subject": ("tiny-5b", "ddim", ALIKE, 2, 0, [1], [0, 1, 2], "repo", "ball", 0.3),
}
# values of a map that stand nearer to the threshold would make a golden of rounding
MARGIN = 1e-4


class Share:
    """One layer's attention; in a sharing step rows 1 and 3 of a batch attend to keys and values of rows 0 and 2."""

    def __init__(self, state):
        self.state = state

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        if self.state["sharing"]:
            k, v = k[[0, 0, 2, 2]], v[[0, 0, 2, 2]]
        out = attn.to_out[0](self.attend(q, k, v).transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]

    def attend(self, q, k, v):
        return torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1) @ v


class MaskedShare:
    """As [Share] in layers that share; every layer adds to the maps of a pair."""

    def __init__(self, state, layer, shares):
        self.state, self.layer, self.shares = state, layer, shares

    def mask(self, attention, tokens):
        """Tokens of the video that belong to the subject, from the mean map [video, text] so far."""
        height, width = self.state["frame"]
        m = attention[:, tokens].sum(dim=1).view(-1, height * width)
        low, high = m.min(dim=1, keepdim=True).values, m.max(dim=1, keepdim=True).values
        m = (m - low) / (high - low + 1e-6)
        assert (m - self.state["threshold"]).abs().min() > MARGIN, "a value stands at the threshold"
        return (m >= self.state["threshold"]).flatten()

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        scale = q.shape[-1] ** -0.5
        own = torch.softmax(q @ k.transpose(2, 3) * scale, dim=-1)
        if self.layer == 0:
            self.state["sum"] = 0
        self.state["sum"] = self.state["sum"] + own[:, :, text:, :text].mean(dim=1)
        out = own @ v
        if self.state["sharing"] and self.shares:
            mean = self.state["sum"] / (self.layer + 1)
            source, target = (self.mask(mean[row], tokens) for row, tokens in zip((2, 3), self.state["tokens"]))
            assert source.any() and target.any() and not source.all() and not target.all()
            self.state["cut"] += 1
            everything = torch.ones(text, dtype=torch.bool)
            for row, of in ((1, 0), (3, 2)):
                scores = q[row] @ k[of].transpose(1, 2) * scale
                side = []
                for keys in (source, ~source):
                    bias = torch.zeros_like(scores)
                    bias[:, text:, ~torch.cat([everything, keys])] = float("-inf")
                    side.append(torch.softmax(scores + bias, dim=-1) @ v[of])
                m = torch.cat([everything, target]).float()[:, None]
                out[row] = m * side[0] + (1 - m) * side[1]
        out = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


def places(tokenizer, prompt, words):
    """Where the pieces of words stand in a prompt."""
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    wanted = tokenizer(words, add_special_tokens=False).input_ids
    starts = [i for i in range(len(ids)) if ids[i:i + len(wanted)] == wanted]
    return list(range(starts[0], starts[0] + len(wanted)))


def window_texts(embeds, transitions):
    texts = []
    for a, b in zip(embeds, embeds[1:]):
        texts += [a] + [(1 - j / (transitions + 1)) * a + j / (transitions + 1) * b for j in range(1, transitions + 1)]
    return texts + [embeds[-1]]


def loop(pipe, scheduler, texts, overlap, steps, blend, state, size=(HEIGHT, WIDTH), of=STEPS, until=None):
    """Latents [1, F, C, H, W] of `size`; `state` tells the processors whether the step shares. Of the `of` steps the first
    `until` are taken, without a number all."""
    config, device, dtype = pipe.transformer.config, pipe.transformer.device, pipe.transformer.dtype
    n = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    stride, count = n - overlap, len(texts)
    length = n + (count - 1) * stride
    shape = (1, length, config.in_channels, *size)
    inject_noise(pipe, shape)
    pipe.scheduler.set_timesteps(of, device=device)
    rotary = None
    if config.use_rotary_positional_embeddings:
        rotary = pipe._prepare_rotary_positional_embeddings(size[0] * 8, size[1] * 8, n, device)
    uncond, weights = torch.zeros_like(texts[0]), blend_weights(n).view(1, -1, 1, 1, 1).to(device)
    x, old, timesteps = unit("pipeline/noise", shape).to(device, dtype), None, pipe.scheduler.timesteps
    zeros = lambda shape: torch.zeros(shape, dtype=torch.float64, device=device)
    for i, t in enumerate(timesteps[:until]):
        state["sharing"] = i in steps
        a = pipe.scheduler.alphas_cumprod[int(t)].double()
        total, norm = zeros(shape), zeros((1, length, 1, 1, 1))
        for k in range(count - 1):
            source, target = (x[:, j * stride:j * stride + n] for j in (k, k + 1))
            if "subject" in state:
                state["tokens"] = state["subject"][k:k + 2]
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
        v = ((a.sqrt() * x - total / norm) / (1 - a).sqrt()).to(dtype)
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


@torch.no_grad()
def masked(kind, scheduler, prompts, overlap, transitions, layers, steps, blend, words, threshold):
    pipe = with_scheduler(pipeline(kind), scheduler)
    config = pipe.transformer.config
    tokens = [places(pipe.tokenizer, prompt, words) for prompt in prompts]
    assert transitions == 0 or tokens[0] == tokens[1]
    subject = [place for place in tokens[:-1] for _ in range(transitions + 1)] + tokens[-1:]
    frame = HEIGHT // config.patch_size, WIDTH // config.patch_size
    state = dict(sharing=False, subject=subject, threshold=threshold, frame=frame, cut=0)
    for layer, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.processor = MaskedShare(state, layer, layer in layers)
    embeds = [pipe._get_t5_prompt_embeds([p], max_sequence_length=config.max_text_seq_length) for p in prompts]
    latents = loop(pipe, scheduler, window_texts(embeds, transitions), overlap, steps, blend, state)
    assert state["cut"] == len(steps) * len(layers) * (len(subject) - 1)
    return latents


if __name__ == "__main__":
    torch.set_num_threads(2)
    goldens = {name: case(*values) for name, values in CASES.items()}
    goldens |= {name: masked(*values) for name, values in MASKED.items()}
    save_file(goldens, GOLDEN / "pipeline" / "ditctrl.safetensors")

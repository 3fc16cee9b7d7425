"""Goldens of edits: `tests/golden/pipeline/edit.safetensors`.

    python tests/reference/edit.py

DiTCtrl's word swap and reweighting (arXiv 2412.18597; spec/ditctrl.md 6 and 7), as plain as they can be, around diffusers'
modules on the tiny models: source and edited version are one batch in every step, an attention processor makes the whole
softmax, gives edited rows the keys and values of their source and multiplies probabilities by the factors, without
normalising again. `-windows`: the edited version of every window of DiTCtrl's loop over pairs (`ditctrl.py`), each edited row
with the keys and values that its source row attends to.

Kept are the latents of the edited version; of `source`, those of the source.
"""

import torch
from safetensors.torch import save_file

from ditctrl import HEIGHT, WIDTH, window_texts
from pipeline import GUIDANCE, STEPS, blend_weights, inject_noise, with_scheduler
from tiny import GOLDEN, joint, pipeline, unit

SOURCE = ["a red ball rolls"]
TWO = ["a red ball rolls", "a red box rests"]
BLUE, LONGER = ("red", "blue"), ("red", "big blue")

# name: model, sampler, prompts, swaps, factors, layers and steps where the source is read, layers and steps where windows are
# joined, overlap, transition windows
CASES = {
    "swap": ("tiny-2b", "ddim", SOURCE, [BLUE], {}, ([1, 2], [1, 2]), None, 0, 0),
    "swap-5b": ("tiny-5b", "dpm", SOURCE, [LONGER], {}, ([0, 2], [0, 1, 2]), None, 0, 0),
    "reweight": ("tiny-2b", "dpm", SOURCE, [], {"ball": 0.25}, (None, [0, 1]), None, 0, 0),
    "reweight-5b": ("tiny-5b", "ddim", SOURCE, [], {"red": -1.0, "rolls": 3.0}, (None, [0, 1]), None, 0, 0),
    "both": ("tiny-2b", "ddim", SOURCE, [LONGER], {"ball": 0.25, "blue": 2.0}, ([1, 2], [1, 2]), None, 0, 0),
    "swap-windows": ("tiny-2b", "ddim", TWO, [BLUE], {}, ([1, 2], [1, 2]), ([1, 2], [1, 2]), 2, 1),
    "reweight-windows": ("tiny-5b", "dpm", TWO, [], {"box": 0.25}, (None, [0, 1]), ([1], [1, 2]), 1, 0),
}


class Edit:
    """One layer's attention. `state`: the batch entry whose keys and values each one has, and for each one the factors of
    the tokens of its own text and of those of the text whose keys it has."""

    def __init__(self, layer, state):
        self.layer, self.state = layer, state

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        sources, words = self.state["at"](self.layer)
        p = torch.softmax(q @ k[sources].transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1)
        for entry in range(len(sources)):
            own, keys = words[entry]
            for token, factor in own:
                p[entry, :, token, text:] *= factor
            for token, factor in keys:
                p[entry, :, text:, token] *= factor
        out = attn.to_out[0]((p @ v[sources]).transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


def tokens_of(pipe, prompt, word):
    start = prompt.index(word)
    offsets = pipe.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    return [i for i, (a, b) in enumerate(offsets) if a < b and a < start + len(word) and b > start]


def loop(pipe, scheduler, texts, words, reading, joined, overlap, state):
    """`texts`, `words`: by version (source, edited) and window. Latents of both, [2, F, C, H, W]."""
    config = pipe.transformer.config
    n = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    stride, count = n - overlap, len(texts[0])
    length = n + (count - 1) * stride
    shape = (1, length, config.in_channels, HEIGHT, WIDTH)
    inject_noise(pipe, shape)
    pipe.scheduler.set_timesteps(STEPS)
    rotary = None
    if config.use_rotary_positional_embeddings:
        rotary = pipe._prepare_rotary_positional_embeddings(HEIGHT * 8, WIDTH * 8, n, torch.device("cpu"))
    uncond, weights = torch.zeros_like(texts[0][0]), blend_weights(n).view(1, -1, 1, 1, 1)
    x = unit("pipeline/noise", shape).repeat(2, 1, 1, 1, 1)
    old, timesteps = None, pipe.scheduler.timesteps
    # a pass has both versions of the windows of a pair, or of the one there is
    pairs = [(k, k + 1) for k in range(count - 1)] or [(0,)]
    for i, t in enumerate(timesteps):
        a = pipe.scheduler.alphas_cumprod[t].double()
        total, norm = torch.zeros(x.shape, dtype=torch.float64), torch.zeros((1, length, 1, 1, 1), dtype=torch.float64)
        for pair in pairs:
            # version, half, window of each entry
            entries = [(version, half, w) for version in (0, 1) for half in (0, 1) for w in range(len(pair))]
            index = {entry: e for e, entry in enumerate(entries)}

            def at(layer):
                def within(place):
                    return place and (place[0] is None or layer in place[0]) and i in place[1]

                sources = []
                for version, half, w in entries:
                    # what the source's entry attends to
                    source = index[(0 if within(reading) else version, half, w)]
                    if within(joined) and w == 1:
                        source = index[(0 if within(reading) else version, half, 0)]
                    sources.append(source)
                of = lambda entry: words[entry[0]][pair[entry[2]]]
                # the keys of another entry: where the words stand in its text
                scaled = [(of(entry), of(entries[source])) if entry[0] else ([], []) for entry, source in zip(entries, sources)]
                return sources, scaled

            state["at"] = at
            window = lambda version, w: x[version:version + 1, pair[w] * stride:pair[w] * stride + n]
            v = pipe.transformer(
                hidden_states=torch.cat([window(version, w) for version, _, w in entries]),
                encoder_hidden_states=torch.cat([texts[version][pair[w]] if half else uncond for version, half, w in entries]),
                timestep=t.expand(len(entries)), image_rotary_emb=rotary, return_dict=False)[0].double()
            for version in (0, 1):
                for w, k in enumerate(pair):
                    latents = window(version, w)[0]
                    clean = lambda half: a.sqrt() * latents - (1 - a).sqrt() * v[index[(version, half, w)]]
                    estimate = clean(0) + GUIDANCE * (clean(1) - clean(0))
                    total[version:version + 1, k * stride:k * stride + n] += weights * estimate
                    if version == 0:
                        norm[:, k * stride:k * stride + n] += weights
        v = ((a.sqrt() * x - total / norm) / (1 - a).sqrt()).float()
        if scheduler == "ddim":
            x = pipe.scheduler.step(v, t, x, return_dict=False)[0]
        else:
            x, old = pipe.scheduler.step(v, old, t, timesteps[i - 1] if i else None, x, return_dict=False)
    return x


@torch.no_grad()
def case(kind, scheduler, prompts, swaps, factors, reading, joined, overlap, transitions):
    pipe = with_scheduler(pipeline(kind), scheduler)
    state = {}
    for layer, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.processor = Edit(layer, state)
    edited = list(prompts)
    for before, after in swaps:
        edited = [prompt.replace(before, after) for prompt in edited]
    length = pipe.transformer.config.max_text_seq_length
    texts, words = [], []
    for version in (prompts, edited):
        embeds = [pipe._get_t5_prompt_embeds([prompt], max_sequence_length=length) for prompt in version]
        texts.append(window_texts(embeds, transitions))
        of_prompts = [{(token, factor) for word, factor in factors.items() if word in prompt
                       for token in tokens_of(pipe, prompt, word)} for prompt in version]
        between = []
        for a, b in zip(of_prompts, of_prompts[1:]):
            between += [a] + [a | b] * transitions
        words.append([sorted(tokens) for tokens in between + [of_prompts[-1]]])
    both = loop(pipe, scheduler, texts, words, reading, joined, overlap, state)
    return both[:1].contiguous(), both[1:].contiguous()


if __name__ == "__main__":
    torch.set_num_threads(2)
    made = {name: case(*values) for name, values in CASES.items()}
    goldens = {name: edited for name, (_, edited) in made.items()} | {"source": made["swap"][0]}
    for name, (source, edited) in made.items():
        print(name, ((source - edited).norm() / source.norm()).item())
    save_file(goldens, GOLDEN / "pipeline" / "edit.safetensors")

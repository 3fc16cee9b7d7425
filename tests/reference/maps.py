"""Goldens of attention maps: `tests/golden/pipeline/maps.safetensors`.

    python tests/reference/maps.py

One run of diffusers' modules on a tiny model, four steps of DDIM with given noise, in which the whole softmax of the
conditional half is kept for every step and layer, averaged over heads; the goldens are parts of it (DiTCtrl, arXiv 2412.18597;
spec/ditctrl.md 9): `words` the columns of a word's tokens, summed, for video queries; `text`, `spatial`, `temporal` blocks.
Each for the layer alone (`layer/..`) and for the mean of the layers up to it (`mean/..`).
"""

import torch
from safetensors.torch import save_file

from edit import tokens_of
from pipeline import GUIDANCE, STEPS, with_scheduler
from tiny import GOLDEN, joint, pipeline, unit

KIND, PROMPT, WORDS = "tiny-5b", "a red ball rolls", ["red", "ball"]
FRAMES, HEIGHT, WIDTH = 3, 4, 6  # latents
FRAME, PLACE = 1, (1, 2)  # latent frame; row and column of the token grid


class Keep:
    def __init__(self, layer, kept):
        self.layer, self.kept = layer, kept

    def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):
        text, q, k, v = joint(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        p = torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1)
        self.kept[self.layer].append(p[1].mean(0))  # [uncond, cond]
        out = attn.to_out[0]((p @ v).transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


@torch.no_grad()
def main():
    pipe = with_scheduler(pipeline(KIND), "ddim")
    config = pipe.transformer.config
    kept = [[] for _ in pipe.transformer.transformer_blocks]
    for layer, block in enumerate(pipe.transformer.transformer_blocks):
        block.attn1.processor = Keep(layer, kept)
    text = config.max_text_seq_length
    embed = pipe._get_t5_prompt_embeds([PROMPT], max_sequence_length=text)
    rotary = pipe._prepare_rotary_positional_embeddings(HEIGHT * 8, WIDTH * 8, FRAMES, torch.device("cpu"))
    pipe.scheduler.set_timesteps(STEPS)
    x = unit("pipeline/noise", (1, FRAMES, config.in_channels, HEIGHT, WIDTH))
    for t in pipe.scheduler.timesteps:
        v = pipe.transformer(hidden_states=x.repeat(2, 1, 1, 1, 1), encoder_hidden_states=torch.cat([0 * embed, embed]),
                             timestep=t.expand(2), image_rotary_emb=rotary, return_dict=False)[0]
        x = pipe.scheduler.step(v[:1] + GUIDANCE * (v[1:] - v[:1]), t, x, return_dict=False)[0]
    h, w = HEIGHT // 2, WIDTH // 2
    frame = torch.arange(h * w) + text + FRAME * h * w
    place = text + torch.arange(FRAMES) * h * w + PLACE[0] * w + PLACE[1]
    goldens = {}
    for step in (0, 2, 3):
        for layer in range(len(kept)):
            layers = torch.stack([kept[l][step] for l in range(layer + 1)])
            for what, p in (("layer", layers[-1]), ("mean", layers.mean(0))):
                words = [p[text:, tokens_of(pipe, PROMPT, word)].sum(1).reshape(FRAMES, h, w) for word in WORDS]
                at = f"step-{step}/layer-{layer}"
                goldens[f"{what}/words/{at}"] = torch.stack(words)
                goldens[f"{what}/text/{at}"] = p[:text, :text].contiguous()
                goldens[f"{what}/spatial/{at}"] = p[frame][:, frame].contiguous()
                goldens[f"{what}/temporal/{at}"] = p[place][:, place].contiguous()
    save_file(goldens, GOLDEN / "pipeline" / "maps.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

"""Goldens of steps that are not computed: `tests/golden/pipeline/cache.safetensors`.

    python tests/reference/cache.py

TeaCache (arXiv 2411.19108) in its form for CogVideoX, from its rule, around diffusers' modules on the tiny models: the whole stack of
blocks is one module that adds what it added last in a step that is not computed. `changes/<name>` are the relative changes of the time
embedding from step to step, `computed/<name>` which steps are computed. DeepCache (arXiv 2312.00858, branch 0) on a tiny UNet: in other
steps only the last layer of the last block of the way up is computed, on what entered it last and the first convolution.
"""

import torch
from safetensors.torch import save_file

import zero_shot
from pipeline import GUIDANCE, with_ofs, with_scheduler
from tiny import GOLDEN, pipeline, unit

STEPS = 10
# name: model, coefficients (the highest power first), threshold
TEA = {
    "2b": ("tiny-2b", [0.0, 0.0, 0.0, 1.0, 0.0], 2.5),
    "5b": ("tiny-5b", [0.05, -0.25, 0.5, 0.75, 0.01], 2.3),
}
PROMPT = "a red ball rolls to the right"


class Stack(torch.nn.Module):
    """All blocks as one, for [uncond, cond] in a batch."""

    def __init__(self, blocks, computed):
        super().__init__()
        self.blocks, self.computed, self.step, self.residual = blocks, computed, -1, None

    def forward(self, hidden_states, encoder_hidden_states, *args, **kwargs):
        self.step += 1
        if not self.computed[self.step]:
            return hidden_states + self.residual[0], encoder_hidden_states + self.residual[1]
        hidden, text = hidden_states, encoder_hidden_states
        for block in self.blocks:
            hidden, text = block(hidden, text, *args, **kwargs)
        self.residual = hidden - hidden_states, text - encoder_hidden_states
        return hidden, text


def decisions(transformer, timesteps, coefficients, threshold):
    embed = lambda t: transformer.time_embedding(transformer.time_proj(t.expand(1)).float())
    signal = [embed(t) for t in timesteps]
    changes = [0.0] + [((b - a).abs().mean() / a.abs().mean()).item() for a, b in zip(signal, signal[1:])]
    computed, acc = [], 0.0
    for i, r in enumerate(changes):
        acc += 0.0 if i == 0 else sum(c * r ** (4 - power) for power, c in enumerate(coefficients))
        computed.append(i in (0, len(changes) - 1) or acc >= threshold)
        assert i == 0 or abs(acc - threshold) > 1e-3
        if computed[-1]:
            acc = 0.0
    return changes, computed


@torch.no_grad()
def tea(kind, coefficients, threshold):
    pipe = with_ofs(with_scheduler(pipeline(kind), "ddim"))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(STEPS)
    changes, computed = decisions(pipe.transformer, pipe.scheduler.timesteps, coefficients, threshold)
    assert 3 <= sum(computed) <= STEPS - 3, (changes, computed)
    pipe.transformer.transformer_blocks = torch.nn.ModuleList([Stack(pipe.transformer.transformer_blocks, computed)])
    config = pipe.transformer.config
    shape = (1, 3, config.in_channels, 4, 6)
    embeds = pipe._get_t5_prompt_embeds([PROMPT], max_sequence_length=config.max_text_seq_length)
    latents = pipe(prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds), num_frames=9, height=32, width=48,
                   num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=unit("pipeline/noise", shape),
                   output_type="latent", max_sequence_length=config.max_text_seq_length).frames
    return latents.contiguous(), torch.tensor(changes), torch.tensor(computed, dtype=torch.uint8)


class Deep:
    """A UNet that computes every so manyeth of its passes."""

    def __init__(self, unet, interval):
        self.unet, self.interval, self.calls, self.deep = unet, interval, 0, None

    def __call__(self, sample, timestep, encoder_hidden_states):
        unet, full = self.unet, self.calls % self.interval == 0
        self.calls += 1
        last = unet.up_blocks[-1]
        if full:
            skip = unet.conv_out.in_channels

            def keep(module, args, kwargs):
                self.deep = args[0][:, :args[0].shape[1] - skip]

            handle = last.resnets[-1].register_forward_pre_hook(keep, with_kwargs=True)
            out = unet(sample, timestep, encoder_hidden_states=encoder_hidden_states)
            handle.remove()
            return out
        emb = unet.time_embedding(unet.time_proj(torch.as_tensor(timestep).expand(len(sample))).to(sample.dtype))
        x = torch.cat([self.deep, unet.conv_in(sample)], dim=1)
        x = last.resnets[-1](x, emb)
        if hasattr(last, "attentions"):
            x = last.attentions[-1](x, encoder_hidden_states=encoder_hidden_states).sample
        assert last.upsamplers is None
        x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return type("Output", (), {"sample": x})


@torch.no_grad()
def deep(kind, interval):
    plain = zero_shot.network
    zero_shot.network = lambda kind, cross: Deep(plain(kind, cross), interval)
    latents, _ = zero_shot.run(kind=kind, cells=(6, 8), frames=3, steps=6, name="ddim")
    zero_shot.network = plain
    return latents[None].contiguous()


if __name__ == "__main__":
    torch.set_num_threads(1)
    goldens = {}
    for name, case in TEA.items():
        goldens[f"tea/{name}"], goldens[f"changes/{name}"], goldens[f"computed/{name}"] = tea(*case)
    goldens["deep/sd1"] = deep("tiny-sd1", 2)
    save_file(goldens, GOLDEN / "pipeline" / "cache.safetensors")
    print({name: tensor.tolist() for name, tensor in goldens.items() if name.startswith("c")})

"""Goldens of whole runs: `tests/golden/pipeline/<kind>-<scheduler>.safetensors` and `multi-prompt.safetensors`.

    python tests/reference/pipeline.py [KIND ...]

Single clips are diffusers' CogVideoXPipeline on the tiny models, four steps, with given noise: `initial` is what `tiny.unit`
gives for `pipeline/noise`, the noise that enters step i is `pipeline/step_noise/<i>` (diffusers draws twice in most steps and
uses the second draw; here every draw of a step returns the same tensor).

Several prompts are DiTCtrl's windows (spec: triangular weights, middle windows counted twice) around the same modules, without
attention control.
"""

import functools
import sys

import diffusers.schedulers.scheduling_dpm_cogvideox as dpm_module
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from safetensors.torch import save_file

from tiny import GOLDEN, KINDS, pipeline, unit

PROMPT = "a red ball rolls to the right"
STEPS, GUIDANCE = 4, 6.0
SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
# frames, height, width in pixels
SIZE = {"tiny-2b": (9, 32, 48), "tiny-5b": (9, 48, 32), "tiny-1.5": (9, 32, 48)}


def with_scheduler(pipe, name):
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config)
    return pipe


def with_ofs(pipe):
    """diffusers' text-to-video pipeline passes no `ofs`; its image-to-video pipeline passes 2."""
    if pipe.transformer.config.ofs_embed_dim:
        pipe.transformer.forward = functools.partial(pipe.transformer.forward, ofs=torch.tensor([2.0]))
    return pipe


def inject_noise(pipe, shape):
    """Makes every draw of step i return `pipeline/step_noise/<i>`."""
    scheduler, step = pipe.scheduler, type(pipe.scheduler).step
    state = dict(index=-1)

    def counted(*args, **kwargs):
        state["index"] += 1
        return step(scheduler, *args, **kwargs)

    scheduler.step = counted
    dpm_module.randn_tensor = lambda size, **_: unit(f"pipeline/step_noise/{state['index']}", shape)


@torch.no_grad()
def single(kind, scheduler):
    pipe = with_ofs(with_scheduler(pipeline(kind), scheduler))
    pipe.set_progress_bar_config(disable=True)
    frames, height, width = SIZE[kind]
    config = pipe.transformer.config
    latent_frames = (frames - 1) // 4 + 1
    padded = -(-latent_frames // (config.patch_size_t or 1)) * (config.patch_size_t or 1)
    shape = (1, padded, config.in_channels, height // 8, width // 8)
    inject_noise(pipe, shape)
    latents = pipe(prompt=PROMPT, num_frames=frames, height=height, width=width, num_inference_steps=STEPS,
                   guidance_scale=GUIDANCE, latents=unit("pipeline/noise", shape), output_type="latent",
                   max_sequence_length=config.max_text_seq_length).frames
    latents = latents[:, padded - latent_frames:].contiguous()
    video = pipe.video_processor.postprocess_video(video=pipe.decode_latents(latents), output_type="np")[0]
    frames = torch.from_numpy((video * 255).round().astype("uint8")).contiguous()
    save_file({"latents": latents, "frames": frames}, GOLDEN / "pipeline" / f"{kind}-{scheduler}.safetensors")


def blend_weights(n):
    j = torch.arange(n, dtype=torch.float64) + 0.5
    return torch.minimum(j * 2 / n, 2 - j * 2 / n)


@torch.no_grad()
def multi_prompt(kind, scheduler, prompts, overlap, transitions, repo):
    """Latents [1, F, C, H, W] of the windows of several prompts."""
    pipe = with_scheduler(pipeline(kind), scheduler)
    config = pipe.transformer.config
    n = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    height, width = 4, 6
    encode = lambda text: pipe._get_t5_prompt_embeds([text], max_sequence_length=config.max_text_seq_length)
    embeds = [encode(prompt) for prompt in prompts]
    texts = []
    for a, b in zip(embeds, embeds[1:]):
        texts += [a] + [(1 - j / (transitions + 1)) * a + j / (transitions + 1) * b for j in range(1, transitions + 1)]
    texts.append(embeds[-1])
    uncond = torch.zeros_like(embeds[0])
    stride, count = n - overlap, len(texts)
    length = n + (count - 1) * stride
    shape = (1, length, config.in_channels, height, width)
    inject_noise(pipe, shape)
    pipe.scheduler.set_timesteps(STEPS)
    x, old, weights = unit("pipeline/noise", shape), None, blend_weights(n)
    timesteps = pipe.scheduler.timesteps
    for i, t in enumerate(timesteps):
        total, norm = torch.zeros(shape, dtype=torch.float64), torch.zeros(length, dtype=torch.float64)
        for k, text in enumerate(texts):
            window = slice(k * stride, k * stride + n)
            rotary = None
            if config.use_rotary_positional_embeddings:
                rotary = pipe._prepare_rotary_positional_embeddings(height * 8, width * 8, n, x.device)
            v = pipe.transformer(hidden_states=x[:, window].repeat(2, 1, 1, 1, 1), encoder_hidden_states=torch.cat([uncond, text]),
                                 timestep=t.expand(2), image_rotary_emb=rotary, return_dict=False)[0]
            v = (v[:1] + GUIDANCE * (v[1:] - v[:1])).double()
            count_of = 2 if repo and 0 < k < count - 1 else 1
            total[:, window] += (weights * count_of).view(1, -1, 1, 1, 1) * v
            norm[window] += weights * count_of
        v = (total / norm.view(1, -1, 1, 1, 1)).float()
        if scheduler == "ddim":
            x = pipe.scheduler.step(v, t, x, return_dict=False)[0]
        else:
            x, old = pipe.scheduler.step(v, old, t, timesteps[i - 1] if i else None, x, return_dict=False)
    return x


STORY = ["a red ball rolls", "a blue ball rolls", "a green box rests"]

if __name__ == "__main__":
    torch.set_num_threads(2)
    (GOLDEN / "pipeline").mkdir(exist_ok=True)
    for kind in sys.argv[1:] or KINDS:
        for scheduler in SCHEDULERS:
            single(kind, scheduler)
    save_file({
        "tiny-2b/ddim/2": multi_prompt("tiny-2b", "ddim", STORY[:2], 1, 0, True),
        "tiny-2b/ddim/3": multi_prompt("tiny-2b", "ddim", STORY, 2, 1, True),
        "tiny-2b/ddim/3/paper": multi_prompt("tiny-2b", "ddim", STORY, 2, 1, False),
        "tiny-5b/dpm/3": multi_prompt("tiny-5b", "dpm", STORY, 1, 2, True),
    }, GOLDEN / "pipeline" / "multi-prompt.safetensors")

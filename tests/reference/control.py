"""Whole runs of ControlNet video with diffusers on tiny random models, from given pictures and noise; and Canny's edges.

    python tests/reference/control.py               # tests/golden/sd/control.safetensors, tests/golden/tiny-sd1/controlnet_1

diffusers' own `StableDiffusionControlNetPipeline` on all frames as one batch, with its cross-frame processor in the UNet and in every
control network, as Text2Video-Zero's program does. The second network has another form and channels in the order BGR. Edges are
OpenCV's; `training/edges.py` finds the same.
"""

import json
import pathlib
import sys
import tempfile

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor
from safetensors.torch import save_file

import sd
import tiny
import zero_shot
from vae import thin

KIND = "tiny-sd1"
SECOND = dict(sd.KINDS[KIND]["controlnet"], conditioning_embedding_out_channels=(6, 4, 8, 10),
              controlnet_conditioning_channel_order="bgr")
PROMPT = "a blue ball rolls"


def network(index: int) -> ControlNetModel:
    if index == 0:
        return sd.part(KIND, "controlnet")
    return tiny.fill(ControlNetModel(**SECOND), f"{KIND}/controlnet_1")


def write_folder() -> None:
    folder = tiny.GOLDEN / KIND / "controlnet_1"
    net = network(1)
    net.save_config(folder)
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    (folder / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")


def pictures(name: str, frames: int, height: int, width: int) -> np.ndarray:
    """Bytes [F, H, W, 3], as tests/all/cli/control.rs writes them."""
    values = tiny.unit(name, (frames, height, width, 3)).double()
    return torch.floor((values + 1) / 2 * 256).to(torch.uint8).numpy()


def blobs(name: str, frames: int, height: int, width: int) -> np.ndarray:
    """Coarser ones, in which there are edges to find: each value four times across and down."""
    small = pictures(name, frames, -(-height // 4), -(-width // 4))
    return small.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def edges(video: np.ndarray, low: int, high: int) -> np.ndarray:
    found = [cv2.Canny(np.ascontiguousarray(frame), low, high) for frame in video]
    return np.stack(found)[..., None].repeat(3, 3)


def run(cells, frames, steps, weights=(1.0,), guidance=9.0, shared=True, canny=None, prompts=(PROMPT,)):
    h, w = cells
    with tempfile.TemporaryDirectory() as folder:
        tokens = sd.tokenizer(KIND, pathlib.Path(folder))
    networks = [network(index) for index in range(len(weights))]
    pipe = StableDiffusionControlNetPipeline(
        vae=sd.part(KIND, "vae"), text_encoder=sd.part(KIND, "text_encoder"), tokenizer=tokens, unet=sd.part(KIND, "unet"),
        controlnet=networks if len(networks) > 1 else networks[0], scheduler=zero_shot.sampler("ddim", steps),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    for net in [pipe.unet, *networks]:
        net.set_attn_processor(CrossFrameAttnProcessor(batch_size=2 if guidance > 1 else 1))
    images = []
    for index in range(len(weights)):
        if canny:
            video = edges(blobs(f"control/{index}", frames, 8 * h, 8 * w), *canny)
        else:
            video = pictures(f"control/{index}", frames, 8 * h, 8 * w)
        images.append(torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255)
    count = 1 if shared else frames
    noise = tiny.unit("control/noise", (count, 4, h, w)).expand(frames, -1, -1, -1)
    several = len(weights) > 1
    # halves of several scenes, without a way from one to the next
    texts = [prompts[frame * len(prompts) // frames] for frame in range(frames)]
    latents = pipe(prompt=texts, image=images if several else images[0], latents=noise.clone(), num_inference_steps=steps,
                   guidance_scale=guidance, negative_prompt=[""] * frames, height=8 * h, width=8 * w,
                   controlnet_conditioning_scale=list(weights) if several else weights[0], output_type="latent").images
    vae = pipe.vae
    made = torch.cat([vae.decode(z[None] / vae.config.scaling_factor).sample for z in latents])
    return latents, (made / 2 + 0.5).clamp(0, 1)


CASES = {
    "one": dict(cells=(9, 7), frames=5, steps=6),
    "two": dict(cells=(6, 8), frames=4, steps=5, weights=(0.75, 0.5), shared=False),
    "alone": dict(cells=(6, 8), frames=3, steps=4, guidance=1.0, weights=(1.5,)),
    "canny": dict(cells=(6, 8), frames=3, steps=4, canny=(300, 700)),
    "scenes": dict(cells=(6, 8), frames=6, steps=4, prompts=("a red ball rolls", "a green box rests")),
}
# height, width, thresholds
EDGES = [(48, 64, 100, 200), (23, 31, 300, 700), (17, 9, 0, 0), (1, 40, 50, 90), (40, 1, 50, 90), (33, 50, 500, 800)]


@torch.no_grad()
def main() -> None:
    write_folder()
    tensors = {}
    for name, case in CASES.items():
        latents, frames = run(**case)
        tensors[f"{name}/latents"] = latents[None].contiguous()
        tensors[f"{name}/frames"] = thin(frames)
    for index, (height, width, low, high) in enumerate(EDGES):
        for name, made in (("fine", pictures), ("coarse", blobs)):
            found = edges(made(f"edges/{index}", 1, height, width), low, high)[0, ..., 0]
            tensors[f"edges/{name}/{index}"] = torch.from_numpy(found).contiguous()
    # smooth colours, in which gradients have all directions
    for index, (low, high) in enumerate([(20, 60), (100, 200)]):
        video = cv2.GaussianBlur(blobs(f"edges/smooth/{index}", 1, 61, 83)[0], (0, 0), 2.5)
        tensors[f"smooth/{index}/picture"] = torch.from_numpy(video).contiguous()
        tensors[f"smooth/{index}/edges"] = torch.from_numpy(cv2.Canny(video, low, high)).contiguous()
    save_file(tensors, tiny.GOLDEN / "sd" / "control.safetensors")
    print({name: list(tensor.shape) for name, tensor in tensors.items()})
    print({name: float((tensor > 0).float().mean()) for name, tensor in tensors.items() if "edges" in name})


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

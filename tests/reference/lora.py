"""LoRA files on a tiny random model (sd.py), fused into its weights by diffusers.

    python tests/reference/lora.py                  # tests/golden/sd/lora-*.safetensors (peft is needed)

One adapter over linear layers and convolutions of `tiny-sd1`'s UNet, and one over its text encoder, in three forms: as
`save_lora_weights` writes it (PEFT's names, with its metadata), in kohya's names with alphas, and in diffusers' older names. Each is
loaded again by `load_lora_weights` and fused; kept are the files and some values of every weight that has changed.
"""

import pathlib
import sys
import tempfile

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import sd
import tiny
from vae import thin

KIND, RANK, ALPHA, SCALE = "tiny-sd1", 2, 3, 0.7
UNET = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv_shortcut"]
TEXT = ["q_proj", "out_proj", "fc1"]
# weights of two blocks are enough
BLOCKS = ("down_blocks.1.", "mid_block.", "encoder.layers.1.")


def pipeline() -> StableDiffusionPipeline:
    with tempfile.TemporaryDirectory() as folder:
        tokens = sd.tokenizer(KIND, pathlib.Path(folder))
    return StableDiffusionPipeline(vae=sd.part(KIND, "vae"), text_encoder=sd.part(KIND, "text_encoder"), tokenizer=tokens,
                                   unet=sd.part(KIND, "unet"), scheduler=DDIMScheduler(), safety_checker=None,
                                   feature_extractor=None, requires_safety_checker=False)


def adapted(network, modules: list, name: str) -> dict:
    targets = [key for key, _ in network.named_modules() if any(key.endswith(f".{m}") for m in modules) and any(b in key for b in BLOCKS)]
    network.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    state = get_peft_model_state_dict(network)
    return {key: tiny.unit(f"lora/{name}/{key}", tuple(tensor.shape)) / 2 for key, tensor in state.items()}


def text_names(state: dict) -> dict:
    """Text towers are named as in transformers 4, which published files are of."""
    return {key if key.startswith("text_model.") else f"text_model.{key}": tensor for key, tensor in state.items()}


def older(key: str) -> str:
    return key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.") if "unet." in key else (
        key.replace(".lora_A.", ".lora_linear_layer.down.").replace(".lora_B.", ".lora_linear_layer.up."))


def write() -> dict:
    """The files by their forms."""
    pipe, folder = pipeline(), tiny.GOLDEN / "sd"
    unet, text = adapted(pipe.unet, UNET, "unet"), text_names(adapted(pipe.text_encoder, TEXT, "text_encoder"))
    files = {form: folder / f"lora-{form}.safetensors" for form in ("peft", "kohya", "older")}
    settings = pipe.unet.peft_config["default"].to_dict(), pipe.text_encoder.peft_config["default"].to_dict()
    with tempfile.TemporaryDirectory() as place:
        StableDiffusionPipeline.save_lora_weights(
            place, unet_lora_layers=unet, text_encoder_lora_layers=text, weight_name="lora.safetensors",
            unet_lora_adapter_metadata=dict(settings[0], target_modules=sorted(settings[0]["target_modules"])),
            text_encoder_lora_adapter_metadata=dict(settings[1], target_modules=sorted(settings[1]["target_modules"])))
        files["peft"].write_bytes((pathlib.Path(place) / "lora.safetensors").read_bytes())
    plain = load_file(files["peft"])
    named = {}
    for key, tensor in plain.items():
        part, module = key.split(".lora_")[0].split(".", 1)
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + module.replace(".", "_")
        named[f"{name}.lora_{'down' if '.lora_A.' in key else 'up'}.weight"] = tensor.clone()
        named[f"{name}.alpha"] = torch.tensor(float(ALPHA))
    save_file({key: tensor.contiguous() for key, tensor in named.items()}, files["kohya"])
    save_file({older(key): tensor.contiguous() for key, tensor in plain.items()}, files["older"])
    return files


def main() -> None:
    files = write()
    kept = {}
    for form, path in files.items():
        pipe = pipeline()
        before = {part: {k: t.clone() for k, t in getattr(pipe, part).state_dict().items()} for part in ("unet", "text_encoder")}
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        pipe.fuse_lora(lora_scale=SCALE)
        pipe.unload_lora_weights()
        for part, weights in before.items():
            state = getattr(pipe, part).state_dict()
            for key, tensor in state.items():
                if not torch.equal(tensor, weights[key]):
                    name = key if part == "unet" or key.startswith("text_model.") else f"text_model.{key}"
                    kept[f"{form}/{part}/{name}"] = thin(tensor.flatten()[:97])
        print(form, path.stat().st_size, sum(key.startswith(form) for key in kept))
    save_file(kept, tiny.GOLDEN / "sd" / "lora.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        sys.exit(main())

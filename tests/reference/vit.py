"""transformers' ViTModel on random weights: what the DINO tower is compared with.

    python tests/reference/vit.py write     # tests/golden/vit.safetensors
"""

import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

import tiny

KIND = "tiny-vit"
CONFIG = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=20, patch_size=4,
              hidden_act="gelu", layer_norm_eps=1e-12, num_channels=3)


def write() -> None:
    model = ViTModel(ViTConfig(**CONFIG), add_pooling_layer=False).eval()
    for name, tensor in model.state_dict().items():
        tensor.copy_(tiny.weight(f"{KIND}/{name}", tuple(tensor.shape)))
    with tempfile.TemporaryDirectory() as folder:
        # files have other names than the module of transformers 5
        model.save_pretrained(folder)
        weights = load_file(f"{folder}/model.safetensors")
    pixels = tiny.unit(f"{KIND}/pixels", (2, 3, 20, 20))
    made = model(pixel_values=pixels).last_hidden_state[:, 0]
    tensors = {f"weights/{name}": tensor.contiguous() for name, tensor in weights.items()} | {"class": made.contiguous()}
    path = tiny.GOLDEN / "vit.safetensors"
    save_file(tensors, path)
    print(path.stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        write() if sys.argv[1:] == ["write"] else sys.exit(__doc__)

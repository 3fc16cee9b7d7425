"""Goldens of CLIP: a tiny random model, what transformers makes of images and texts with it, and Pillow's resized images.

    python tests/reference/clip.py        # writes tests/golden/clip and tests/golden/clip.safetensors

The weights follow from their names as those of `tiny.py` do. The tokenizer is a small one of CLIP's kind: its byte pairs
are trained here on the words of the text goldens. Images are those of guided-diffusion's centre crop, which the published
CSCV code uses: halved with a box filter while twice too large, then bicubic, then cropped.
"""

import json
import shutil

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import tiny
from text import EXTRA, WORDS

FOLDER = tiny.GOLDEN / "clip"
SIDE = 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PROMPTS = ["a red ball rolls to the right in a green meadow on a sunny day", "The Dark  Knight's horse, in 1080p: don't!",
           "", "Café crème brûlée à Zürich — 東京の夜"]
# width, height: halved once, twice by odd sizes, only bicubic, enlarged
SIZES = [(144, 96), (181, 139), (50, 61), (21, 20)]


def tokenizer() -> tuple[dict, list]:
    """CLIP's vocabulary order: bytes, bytes that end a word, pairs, then the two special tokens."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(WORDS * 4 + " ".join(EXTRA).split(), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + [letter + "</w>" for letter in alphabet]
    kept = []
    for a, b in merges:
        if a in pieces and b in pieces:
            kept.append((a, b))
            if a + b not in pieces:
                pieces.append(a + b)
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}, kept


def frame(index: int, width: int, height: int) -> torch.Tensor:
    """[H, W, 3] bytes, smooth with some detail; the Rust test repeats the formula."""
    i = torch.arange(width * height * 3)
    x, y, c = i // 3 % width, i // 3 // width, i % 3
    return ((x * 5 + y * 3 * (c + 1) + (x * y + index * 40) // 7 + c * 60) % 256).to(torch.uint8).view(height, width, 3)


def crop(image: Image.Image) -> Image.Image:
    while min(image.size) >= 2 * SIDE:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = SIDE / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    x, y = (image.size[0] - SIDE) // 2, (image.size[1] - SIDE) // 2
    return image.crop((x, y, x + SIDE, y + SIDE))


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "model").mkdir(parents=True)
    vocab, merges = tokenizer()
    (FOLDER / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (FOLDER / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tower = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3)
    config = CLIPConfig(
        text_config=dict(tower, vocab_size=len(vocab), max_position_embeddings=40, eos_token_id=len(vocab) - 1,
                         bos_token_id=len(vocab) - 2),
        vision_config=dict(tower, hidden_size=36, image_size=SIDE, patch_size=8), projection_dim=20)
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "image_size", "patch_size", "hidden_act", "layer_norm_eps", "eos_token_id"]
    part = lambda c: {key: getattr(c, key) for key in keys if hasattr(c, key)}  # noqa: E731
    (FOLDER / "config.json").write_text(json.dumps(
        {"model_type": "clip", "projection_dim": config.projection_dim, "text_config": part(config.text_config),
         "vision_config": part(config.vision_config)}, indent=1) + "\n")

    model = CLIPModel(config).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if "position_ids" not in name}
    shapes = {name: list(tensor.shape) for name, tensor in sorted(state.items())}
    (FOLDER / "model" / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
    model.load_state_dict({name: tiny.weight(f"clip/model/{name}", tensor.shape).reshape(tensor.shape)
                           for name, tensor in state.items()}, strict=False)

    images = [torch.tensor(list(crop(Image.fromarray(frame(index, *size).numpy())).tobytes()), dtype=torch.uint8)
              for index, size in enumerate(SIZES)]
    images = torch.stack(images).view(-1, SIDE, SIDE, 3)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    tensors = {"images": images}
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=pixels).pooler_output
        tensors["pooled"], tensors["projected"] = pooled, model.visual_projection(pooled)
        tokens = CLIPTokenizer(vocab=str(FOLDER / "vocab.json"), merges=str(FOLDER / "merges.txt"))
        for index, prompt in enumerate(PROMPTS):
            ids = tokens(prompt)["input_ids"]
            ids = ids[:39] + ids[-1:] if len(ids) > 40 else ids
            pooled = model.text_model(input_ids=torch.tensor([ids])).pooler_output
            tensors[f"text/{index}/ids"] = torch.tensor(ids, dtype=torch.uint32)
            tensors[f"text/{index}/projected"] = model.text_projection(pooled)[0]
            print(len(ids), ids)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tiny.GOLDEN / "clip.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Writes a T5-style Unigram `tokenizer.json` for Toyland's closed vocabulary.

Single letters are in it too, so that any word outside the vocabulary still becomes tokens. The transformer's texts have
LENGTH tokens; shorter ones are padded with id 0, and nothing masks the padding, as in CogVideoX.
"""

import json
import os

from world import vocabulary

LENGTH = 32
SPECIAL = ["<pad>", "</s>", "<unk>"]
_SPACE = "\u2581"


def pieces() -> list[tuple[str, float]]:
    """Every piece with its score; the place in the list is the id."""
    words = [(word if word == "," else _SPACE + word, -2.0) for word in vocabulary()]
    letters = [(chr(c), -8.0) for c in range(ord("a"), ord("z") + 1)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *words, (_SPACE, -6.0), *letters,
            *[(c, -8.0) for c in ".-'0123456789"]]


def write(folder: str) -> int:
    """Writes tokenizer.json and tokenizer_config.json; returns the size of the vocabulary."""
    os.makedirs(folder, exist_ok=True)
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always", "split": True}
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": content, **flags} for i, content in enumerate(SPECIAL)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": metaspace,
        "post_processor": {"type": "TemplateProcessing", "single": [text, end], "pair": [text, end],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces(), "byte_fallback": False},
    }
    config = {"tokenizer_class": "T5TokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
              "extra_ids": 0, "model_max_length": LENGTH}
    for name, value in (("tokenizer.json", spec), ("tokenizer_config.json", config)):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file, ensure_ascii=False)
    return len(pieces())


class Captions:
    """Captions to ids `[B, LENGTH]`, read back from the folder that will be shipped."""

    def __init__(self, folder: str):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    def ids(self, captions: list[str]):
        import torch

        rows = []
        for encoding in self.tokenizer.encode_batch(captions):
            row = encoding.ids if len(encoding.ids) <= LENGTH else [*encoding.ids[:LENGTH - 1], 1]
            rows.append(row + [0] * (LENGTH - len(row)))
        return torch.tensor(rows)


if __name__ == "__main__":
    import sys

    print(write(sys.argv[1]), "pieces")
    print(Captions(sys.argv[1]).ids(["at night, an orange ball moves to the right in a green meadow"]))

"""Writes the files of a CLIP tokenizer (vocab.json, merges.txt) whose merges make one token of each of Toyland's words.

The alphabet is CLIP's (256 bytes, and again as ends of words), so any text becomes tokens; texts have LENGTH tokens and are
padded with `<|endoftext|>`, as those of Stable Diffusion 1.x.
"""

import json
import os

import edits
import world

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def _alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes, in CLIP's order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _apply(symbols: list[str], ranks: dict) -> list[str]:
    """Byte-pair encoding: the pair with the lowest rank is merged, again and again."""
    while len(symbols) > 1:
        pairs = {pair: ranks[pair] for pair in zip(symbols, symbols[1:]) if pair in ranks}
        if not pairs:
            break
        pair, merged, i = min(pairs, key=pairs.get), [], 0
        while i < len(symbols):
            hit = tuple(symbols[i:i + 2]) == pair
            merged.append("".join(pair) if hit else symbols[i])
            i += 2 if hit else 1
        symbols = merged
    return symbols


def merges() -> list[tuple[str, str]]:
    """Merges under which every word of captions and instructions is one token: the commonest pairs first, as in training on a
    text that has each word once."""
    words = sorted({*world.vocabulary(), *edits.vocabulary()})
    state = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    ranks: dict[tuple[str, str], int] = {}
    while any(len(symbols) > 1 for symbols in state.values()):
        counts: dict[tuple[str, str], int] = {}
        for symbols in state.values():
            for pair in zip(symbols, symbols[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(sorted(counts), key=counts.get)
        ranks[best] = len(ranks)
        state = {word: _apply(symbols, {best: 0}) for word, symbols in state.items()}
    return list(ranks)


def write(folder: str) -> int:
    """Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json; returns the size of the vocabulary."""
    os.makedirs(folder, exist_ok=True)
    letters, pairs = _alphabet(), merges()
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in pairs] + [START, END]
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True, "bos_token": START,
              "eos_token": END, "unk_token": END, "pad_token": END, "add_prefix_space": False, "errors": "replace"}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    for name, value in (("vocab.json", {token: i for i, token in enumerate(tokens)}), ("tokenizer_config.json", config),
                        ("special_tokens_map.json", special)):
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w") as file:
        file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    return len(tokens)


class Captions:
    """Texts to ids `[B, LENGTH]`, read back from the folder that will be shipped."""

    def __init__(self, folder: str):
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(folder)

    def ids(self, texts: list[str]):
        return self.tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids


if __name__ == "__main__":
    import sys

    print(write(sys.argv[1]), "tokens")
    print(Captions(sys.argv[1]).ids(["At night, an orange ball moves to the right in a green meadow", "make it snow", ""]))

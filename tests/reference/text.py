"""Goldens of the text room: a small T5 tokenizer, what transformers' T5Tokenizer makes of it, and T5 embeddings.

    python tests/reference/text.py tokenizer        # tests/golden/tokenizer (trains spiece.model; rarely needed)
    python tests/reference/text.py write            # tests/golden/text: token ids, embeddings
    python tests/reference/text.py cases DIR FILE   # token ids of any tokenizer folder, for a look by hand

The tokenizer has T5's ids (pad 0, eos 1, unk 2), no tokenizer.json like CogVideoX's folder, and a piece of nmt_nfkc as
its character map, because the whole of it is a quarter of a megabyte.
"""

import io
import json
import pathlib
import random
import sys
import tempfile
import unicodedata

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel, T5Tokenizer
from transformers.models.t5.modeling_t5 import T5Attention

import tiny

FOLDER = tiny.GOLDEN / "tokenizer"
GOLDEN = tiny.GOLDEN / "text"
PIECES = 480  # with 100 <extra_id_N> below the 600 rows of the tiny text encoders

WORDS = """a an the and of in on at over under through along with from to into across near behind above
red blue green yellow white black grey orange purple golden silver bright dark soft warm cold quiet busy
ball box car train ship horse knight dragon castle tower bridge river lake sea ocean beach desert meadow forest
mountain valley village city street market garden rose sunflower tree leaf snow rain storm cloud sky sun moon star
man woman child girl boy dog cat bird fish butterfly fox wolf bear robot astronaut dancer painter musician
rolls runs walks jumps flies swims rides dances plays paints sings sleeps wakes falls rises turns opens closes
slowly quickly gently suddenly again still together alone
camera pans zooms tracking close up wide shot cinematic slow motion light shadow sunset sunrise morning evening night
summer winter autumn spring film photo realistic detailed watercolor animation style 4k 8k highly""".split()
EXTRA = """Café crème brûlée à Zürich, señor; naïve façade — “quoted” ‘text’… (yes) [no] {maybe} #1 100% @home a&b c/d x+y=z ~ ^ | <tag> _x_
It's the knight's sword: don't, won't, I'm, you're. Is it? Yes! No.
Привет мир 東京の夜 北京 서울 Ελλάδα مرحبا שלום नमस्ते
0 1 2 3 4 5 6 7 8 9 10 16 24 48 1080 1920 2024 3.14 A B C D E F G H I J K L M N O P Q R S T U V W X Y Z""".splitlines()


def rules() -> str:
    """A subset of nmt_nfkc: space-likes, controls, full-width forms, ligatures, Latin letters with combining marks."""
    found = {}
    for code in (0x09, 0x0A, 0x0C, 0x0D, 0x1680, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD):
        found[(code,)] = (0x20,)
    for code in (*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F):
        found[(code,)] = ()
    singles = [0xA0, 0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE, 0x2026, 0x2122, 0x3000, 0x3392, 0x01C4,
               *range(0x2000, 0x200B), *range(0x2460, 0x2474), *range(0xFB00, 0xFB07), *range(0xFF01, 0xFF5F),
               *range(0xFF66, 0xFF9E)]
    for code in singles:
        target = unicodedata.normalize("NFKC", chr(code))
        if target != chr(code):
            found[(code,)] = tuple(map(ord, target))
    for letter in "AaCcEeIiNnOoSsUuYyZz":
        for mark in (0x300, 0x301, 0x302, 0x303, 0x308, 0x30C, 0x327):
            target = unicodedata.normalize("NFKC", letter + chr(mark))
            if len(target) == 1:
                found[(ord(letter), mark)] = (ord(target),)
    text = lambda codes: " ".join(f"{code:X}" for code in codes)
    return "".join(f"{text(source)}\t{text(target)}\n" for source, target in sorted(found.items()))


def sentences(count: int):
    chooser = random.Random(7)
    for _ in range(count):
        yield " ".join(chooser.choice(WORDS) for _ in range(chooser.randint(4, 14))).capitalize() + chooser.choice([".", ",", ""])
    for line in EXTRA:
        yield from [line] * 20


def train(folder: pathlib.Path, pieces: int, normalizer: dict) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(2000), model_writer=model, model_type="unigram", vocab_size=pieces, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, character_coverage=1.0, num_threads=1, minloglevel=2, **normalizer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    extra = [f"<extra_id_{index}>" for index in range(100)]
    token = lambda content, strip: dict(content=content, lstrip=strip, normalized=False, rstrip=strip, single_word=False, special=True)
    added = {str(i): token(name, False) for i, name in enumerate(["<pad>", "</s>", "<unk>"])}
    added |= {str(pieces + 99 - index): token(name, True) for index, name in enumerate(extra)}
    added = dict(sorted(added.items(), key=lambda item: int(item[0])))
    config = dict(add_prefix_space=True, added_tokens_decoder=added, additional_special_tokens=extra,
                  clean_up_tokenization_spaces=True, eos_token="</s>", extra_ids=100, legacy=True, model_max_length=226,
                  pad_token="<pad>", sp_model_kwargs={}, tokenizer_class="T5Tokenizer", unk_token="<unk>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def tokenizer() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.write(rules())
        file.flush()
        train(FOLDER, PIECES, dict(normalization_rule_tsv=file.name))


def strings() -> list[str]:
    """200 strings that a tokenizer can stumble over."""
    fixed = [
        "", " ", "   ", "\t", "\n", " \n\t ", "a", " a", "a ", "  a  ", "a b", "a  b", "a   b", "a\tb", "a\nb", "a\r\nb", "a\u000bb",
        "\u00a0", "a\u00a0b", "\u3000a\u3000b\u3000", "a\u2003b\u2009c", "a\u200bb", "a\u200db", "a\u200cb", "\ufeffa", "a\u00adb",
        "a\u2060b", "a\u180eb", "a\u0085b", "a\u2028b\u2029c", "\u2581", "\u2581a", "a\u2581b", "\u2581\u2581a \u2581", "a \u2581 b",
        "\x01", "a\x00b", "a\x01\x02b", "a\x1bb\x7f", "\x1f \x1e", "a\x8fb\x9fc", "a\ufffdb", "\ufffe\uffff", "a\x0cb",
        "ＡＢＣ１２３", "ｒｅｄ　ｂａｌｌ", "（ｗｉｄｅ）！", "ｶﾞｷﾞ ﾊﾟ", "ｱｲｳ", "①②③ ⑩", "ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ", "oﬃce", "½ ¼ ¾ x²y³", "™ ℡ ㎒ Ǆ", "…", "wait…",
        "Café", "Cafe\u0301", "cre\u0300me bru\u0302le\u0301e", "Zu\u0308rich", "n\u0303", "\u0301", "a\u0301\u0302\u0303", "e\u0301\u0301e",
        "s\u030c\u0327", "naïve façade", "A\u030a Å \u212b", "\u1e9b\u0323", "ǆ ĳ ŉ", "Ð þ ß ẞ ı İ", "\u0345\u0301",
        "東京の夜", "北京 市场", "日本語とEnglish", "서울의 밤", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "ひらがな カタカナ", "、。「」", "𠮷野家 𩸽", "㈱ ㍿ ㌔",
        "Привет мир", "ПРИВЕТ", "Ελλάδα", "مرحبا بالعالم", "\u0644\u0627 \ufefb", "שלום", "नमस्ते दुनिया", "ไทยภาษา", "தமிழ்", "ქართული", "Հայերեն",
        "🙂", "a 🙂 b", "a🙂b", "👩‍👩‍👧‍👦", "🏳️‍🌈 flag", "👍🏽", "🇩🇪🇯🇵", "1️⃣ 2️⃣", "☀️☁️", "❤", "🎬 a knight 🎥", "\U0001f9d1\u200d\U0001f680 astronaut",
        "</s>", "a</s>", "a </s> b", "</s></s>", "<pad>", "a <pad> b", "<unk>", "a<unk>b", "<extra_id_0>", "a <extra_id_0> b <extra_id_99>",
        "<extra_id_100>", "<extra_id_7", "<EXTRA_ID_0>", "x<extra_id_1>y", "  <extra_id_2>  z", "< pad >", "＜pad＞", "<s>", "[PAD]", "</s", "<pad><pad> red ball",
        "the knight's sword", "don't won't I'm", "“quoted” ‘text’", "em—dash – hyphen - minus −", "a,b;c:d.e!f?", "...", "!!!???", "100% #1 @home", "a&b c/d",
        "x+y=z ~ ^ |", "{curly} [square] (round)", "\\n \\t \\\\", "http://example.org/a?b=c&d=e#f", "C:\\dir\\file.txt", "user@example.com", "$5 €6 £7 ¥8",
        "1,234,567.89", "3.14", "1920x1080", "4k 8K 24fps", "0000000000", "MiXeD CaSe", "SHOUTING WORDS", "CamelCaseWord", "snake_case_word",
        "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "zzz qqq xxx", "ab" * 150, "a " * 300,
        "\u0430\u0430a\u0430", "ⅷ Ⅻ ⅓", "ª º µ", "\u2126 Ω \u212a K", "⁴₂ 10⁻³", "←→↑↓⇒", "∀x∈ℝ ∑∫√∞", "♠♥♦♣ ♪♫", "■□▲△●○", "╔══╗", "░▒▓█", "⠓⠑⠇⠇⠕",
        "𝐛𝐨𝐥𝐝 𝒊𝒕𝒂𝒍𝒊𝒄 𝔣𝔯𝔞𝔨 𝕕𝕓𝕝", "Ⓐⓑ", "🅰🅱", "e\u0301\u200be\u0301", "a\u202eb\u202cc", "\u2066a\u2069", "a\ufe0fb", "\U000e0041tag", "\ue000\U000f0000",
        "a red ball rolls to the right in a green meadow on a sunny day",
        "A dark knight rides a horse over grassland, cinematic, soft light.",
        "An astronaut dances through the market at night;  the camera pans slowly…",
        "Snow falls on a quiet village near the lake. \n\nA fox runs across the bridge!  ",
        "Close up, 4k, highly detailed: a butterfly wakes on a sunflower (slow motion)",
    ]
    chooser = random.Random(11)
    alphabet = [*"abcdefghij ABC  .,'-0123456789", "é", "e\u0301", "ﬁ", "Ａ", "　", "\u200b", "\t", "東", "я", "🙂", "\x01", "\u0308", "▁", "</s>", "<extra_id_3>"]
    while len(fixed) < 198:
        fixed.append("".join(chooser.choice(alphabet) for _ in range(chooser.randint(1, 40))))
    fixed.append(" ".join(chooser.choice(WORDS) for _ in range(400)))
    fixed.append("".join(chr(chooser.choice([*range(0x20, 0x250), *range(0x3040, 0x30FF), *range(0xFF00, 0xFFEF)])) for _ in range(300)))
    assert len(fixed) == len(set(fixed)) == 200, (len(fixed), len(set(fixed)))
    return fixed


SHORT = 12


def cases(folder, texts=None) -> list[dict]:
    """Ids without and with padding and cutting to SHORT."""
    loaded = T5Tokenizer.from_pretrained(folder)
    found = []
    for text in texts or strings():
        short = loaded(text, padding="max_length", max_length=SHORT, truncation=True, add_special_tokens=True).input_ids
        found.append(dict(text=text, ids=loaded(text).input_ids, short=short))
    return found


def dump(found: list[dict], file: pathlib.Path) -> None:
    file.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in found) + "\n]\n")


SPECIAL = ["", "a red ball", "</s> a", "a<pad>b", "<extra_id_0> <extra_id_2> <extra_id_3>", "<extra_id_4><extra_id_99>", "＜pad＞ ＜extra_id_1＞",
           "the red ball, redball, Red Ball", "ｒｅｄ ball zebra", "zebra ZEBRA zebras", "<end> a <end>", "x <s> y", "a\u3000b\tc"]


def variants() -> list[dict]:
    """Folders with other accompanying files: the files, and what T5Tokenizer makes of some texts."""
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    old = {name: value for name, value in config.items() if name not in ("added_tokens_decoder", "additional_special_tokens")}
    sentinels = config["additional_special_tokens"]
    ids = {token["content"]: int(index) for index, token in config["added_tokens_decoder"].items() if int(index) > 2}
    token = lambda content, **options: dict(dict(content=content, lstrip=False, rstrip=False, normalized=False, single_word=False, special=False), **options)
    found = [
        dict(files={}),
        dict(files={"tokenizer_config.json": old, "added_tokens.json": ids,
                    "special_tokens_map.json": dict(eos_token="</s>", pad_token=token("<pad>"), unk_token="<unk>",
                                                    additional_special_tokens=sentinels)}),
        dict(files={"tokenizer_config.json": dict(old, extra_ids=3)}),
        dict(files={"tokenizer_config.json": dict(config, eos_token="<end>", pad_token="</s>", additional_special_tokens=["<s>"],
                    added_tokens_decoder={"0": token("<pad>", special=True), "600": token("red ball", single_word=True),
                                          "601": token("zebra", normalized=True), "602": token("<end>", special=True, lstrip=True)})}),
    ]
    for variant in found:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "spiece.model").write_bytes((FOLDER / "spiece.model").read_bytes())
            for name, content in variant["files"].items():
                (folder / name).write_text(json.dumps(content))
            variant["cases"] = cases(folder, SPECIAL)
    with tempfile.TemporaryDirectory() as folder:
        T5Tokenizer.from_pretrained(FOLDER).save_pretrained(folder)
        files = {path.name: json.loads(path.read_text()) for path in pathlib.Path(folder).iterdir() if path.suffix == ".json"}
        found.append(dict(files=files, cases=cases(folder, SPECIAL)))
    return found


# other shapes than the tiny kinds: no gate, few buckets, five heads; a gate with SiLU; both longer than the last bucket
OTHERS = {
    "relu": dict(d_model=20, d_kv=6, d_ff=28, num_heads=5, feed_forward_proj="relu", relative_attention_num_buckets=12,
                 relative_attention_max_distance=40),
    "gated-silu": dict(d_model=24, d_kv=16, d_ff=36, num_heads=1, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-3),
}


def buckets() -> list[dict]:
    """For some shapes of the position table: the least distance of each bucket, and where none follows."""
    found = []
    for count, distance in [(32, 128), (12, 40), (64, 256), (32, 1000), (16, 20), (4, 2), (6, 100), (320, 128), (33, 77)]:
        positions = torch.arange(1200)
        values = T5Attention._relative_position_bucket(-positions, True, count, distance).tolist()
        after = T5Attention._relative_position_bucket(positions, True, count, distance).tolist()
        assert after[1:] == [value + count // 2 for value in values[1:]]
        edges = [[0, values[0]]] + [[at, values[at]] for at in range(1, 1200) if values[at] != values[at - 1]]
        found.append(dict(buckets=count, distance=distance, edges=edges))
    return found


def sequence(length: int, vocab: int) -> list[int]:
    return [(index * index * 31 + index * 7 + 3) % vocab for index in range(length - 4)] + [1, 0, 0, 0]


def embeddings() -> None:
    tensors = {}
    for kind in tiny.KINDS:
        encoder = tiny.build(kind)["text_encoder"]
        loaded = tiny.tokenizer(kind)
        for name, text in {"plain": "a red ball rolls to the right", "empty": "", "long": "the camera pans slowly over a quiet lake " * 4}.items():
            ids = loaded(text, padding="max_length", max_length=SHORT, truncation=True, return_tensors="pt").input_ids
            tensors[f"{kind}/{name}"] = encoder(ids)[0][0]
    encoder = tiny.build("tiny-2b")["text_encoder"]
    tensors["tiny-2b/226"] = encoder(torch.tensor([sequence(226, 600)]))[0][0]
    for name, options in OTHERS.items():
        config = T5Config(vocab_size=50, num_layers=3, dropout_rate=0.0, is_encoder_decoder=False, use_cache=False, **options)
        encoder = tiny.fill(T5EncoderModel(config), name)
        tensors[name] = encoder(torch.tensor([sequence(150, 50)]))[0][0]
        (GOLDEN / f"{name}.json").write_text(json.dumps(dict(config.to_diff_dict(), **options), indent=1) + "\n")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, GOLDEN / "embeddings.safetensors")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    match sys.argv[1:]:
        case ["tokenizer"]:
            tokenizer()
        case ["write"]:
            GOLDEN.mkdir(parents=True, exist_ok=True)
            dump(cases(FOLDER), GOLDEN / "tokens.json")
            dump(variants(), GOLDEN / "variants.json")
            dump(buckets(), GOLDEN / "buckets.json")
            embeddings()
        case ["cases", folder, file]:
            dump(cases(folder), pathlib.Path(file))
        case _:
            sys.exit(__doc__)

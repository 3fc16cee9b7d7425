"""Toyland: what a scene is, how it is described, and which scenes are held out.

A scene is one subject (colour x shape) that moves in one way through one place at one time of day, seen by a camera that
stands still or follows. Its caption names all five, so a video can be judged exactly against its caption. `render.py`
draws scenes; this file has no tensors in it, so that the tokenizer, the judge and the tools share it cheaply.

`held_out` is the rule that keeps a fifth of colour x shape x place x time away from every training stage. The Rust
program has the same rule (src/eval/toyland.rs); a test on each side holds the same list.
"""

import random
from dataclasses import dataclass

COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"]
SHAPES = ["ball", "box", "car", "star"]
MOTIONS = ["right", "left", "bounce", "still", "follow"]
PLACES = ["meadow", "desert", "snow", "sea", "city"]
TIMES = ["sunny", "sunset", "night", "cloudy"]
ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "place": PLACES, "time": TIMES}

FRAMES, HEIGHT, WIDTH, FPS = 49, 96, 144, 8

_MOTION_WORDS = {
    "right": ["moves to the right", "travels from left to right", "rolls to the right", "goes right"],
    "left": ["moves to the left", "travels from right to left", "rolls to the left", "goes left"],
    "bounce": ["bounces up and down", "jumps up and down", "bounces", "hops"],
    "still": ["stands still", "rests", "does not move", "stays in place"],
    "follow": ["moves ahead with the camera following", "travels along and the camera follows",
               "is followed by the camera", "moves along, the camera follows"],
}
_PLACE_WORDS = {
    "meadow": ["in a green meadow", "on the grass", "in the meadow"],
    "desert": ["in the desert", "on the sand", "in a sandy desert"],
    "snow": ["in the snow", "on a field of snow", "in a snowy field"],
    "sea": ["on the sea", "over the blue water", "on the water"],
    "city": ["on a city street", "in the city", "on the street"],
}
_TIME_WORDS = {
    "sunny": ["on a sunny day", "under a clear blue sky", "in the sun", "at noon"],
    "sunset": ["at sunset", "in the evening light", "in the evening"],
    "night": ["at night", "under the stars", "in the dark night"],
    "cloudy": ["under grey clouds", "on a cloudy day", "under a grey sky"],
}


@dataclass(frozen=True)
class Scene:
    """The five attributes, and the seed of everything that the caption does not say (positions, speeds, hills)."""

    colour: str
    shape: str
    motion: str
    place: str
    time: str
    seed: int

    def combination(self) -> tuple[str, str, str, str]:
        return self.colour, self.shape, self.place, self.time

    def label(self, attribute: str) -> int:
        return ATTRIBUTES[attribute].index(getattr(self, attribute))


def fnv1a(text: str) -> int:
    """FNV-1a in 64 bits, of the UTF-8 bytes."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def held_out(colour: str, shape: str, place: str, time: str) -> bool:
    """Whether this combination is never trained on: a fifth of all, fixed by a hash of the four words."""
    return (fnv1a(f"{colour} {shape} {place} {time}") >> 35) % 5 == 0


def sample(rng: random.Random, split: str = "train") -> Scene:
    """A random scene of `split`: "train" (never a held-out combination), "unseen" (only those) or "all"."""
    while True:
        colour, shape, motion, place, time = (rng.choice(values) for values in ATTRIBUTES.values())
        seed = rng.getrandbits(30)
        if split == "all" or held_out(colour, shape, place, time) == (split == "unseen"):
            return Scene(colour, shape, motion, place, time, seed)


def article(colour: str) -> str:
    return "an" if colour == "orange" else "a"


def caption(scene: Scene, rng: random.Random, drop: float = 0.0) -> str:
    """A caption of the scene in random words and order; each of motion, place and time is left out with probability
    `drop`, so that a short prompt is in the training data too."""
    subject = f"{rng.choice([article(scene.colour), 'the'])} {scene.colour} {scene.shape}"
    motion = [] if rng.random() < drop else [rng.choice(_MOTION_WORDS[scene.motion])]
    place = [] if rng.random() < drop else [rng.choice(_PLACE_WORDS[scene.place])]
    time = [] if rng.random() < drop else [rng.choice(_TIME_WORDS[scene.time])]
    order = rng.random()
    if order < 0.15 and time:
        return " ".join([time[0] + ",", subject, *motion, *place])
    if order < 0.25 and place:
        return " ".join([" ".join(place + time) + ",", subject, *motion])
    return " ".join([subject, *motion, *place, *time])


def unnamed(scene: Scene, rng: random.Random, drop: float = 0.0) -> str:
    """A caption that does not say what moves, for pictures that do."""
    text, named = caption(scene, rng, drop), f" {scene.colour} {scene.shape}"
    for article in ("an", "a", "the"):
        text = text.replace(article + named, "")
    return " ".join(text.split())


def said(scene: Scene, text: str) -> dict[str, bool]:
    """Which attributes a caption of the scene names."""
    tables = {"motion": _MOTION_WORDS, "place": _PLACE_WORDS, "time": _TIME_WORDS}
    named = {name: any(phrase in text for phrase in table[getattr(scene, name)]) for name, table in tables.items()}
    return {name: named.get(name, True) for name in ATTRIBUTES}


def plain_caption(scene: Scene) -> str:
    """The caption in the first words of each list: what an evaluation uses."""
    return (f"{article(scene.colour)} {scene.colour} {scene.shape} {_MOTION_WORDS[scene.motion][0]} "
            f"{_PLACE_WORDS[scene.place][0]} {_TIME_WORDS[scene.time][0]}")


def vocabulary() -> list[str]:
    """Every word a caption can hold, and the comma."""
    words = {"a", "an", "the", ","} | set(COLOURS) | set(SHAPES)
    for table in (_MOTION_WORDS, _PLACE_WORDS, _TIME_WORDS):
        for phrases in table.values():
            for phrase in phrases:
                words |= set(phrase.replace(",", " ").split())
    return sorted(words)


def evaluation_set(count: int, seed: int = 2026) -> list[Scene]:
    """`count` scenes for an evaluation, half of them held-out combinations, every attribute value about equally often.

    Values are dealt from shuffled decks instead of drawn, so that no value is rare; a deal whose combination is on the
    wrong side is redrawn within its place and time."""
    rng = random.Random(seed)

    def deck(values: list[str]) -> list[str]:
        cards = [values[i % len(values)] for i in range(count)]
        rng.shuffle(cards)
        return cards

    motions, places, times, shapes = deck(MOTIONS), deck(PLACES), deck(TIMES), deck(SHAPES)
    scenes = []
    for i in range(count):
        colours = COLOURS[:]
        rng.shuffle(colours)
        colours.sort(key=lambda c: sum(s.colour == c for s in scenes))
        unseen = i % 2 == 1
        options = [(c, s) for s in [shapes[i]] + SHAPES for c in colours
                   if held_out(c, s, places[i], times[i]) == unseen]
        colour, shape = options[0]
        scenes.append(Scene(colour, shape, motions[i], places[i], times[i], rng.getrandbits(30)))
    return scenes


if __name__ == "__main__":
    generator = random.Random(0)
    for _ in range(20):
        print(caption(sample(generator), generator, drop=0.1))

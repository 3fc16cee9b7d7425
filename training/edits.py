"""Edits of Toyland scenes, as instructions say them: one of colour, shape, place and time becomes another, all else stays."""

import random
from dataclasses import replace

from world import ATTRIBUTES, Scene, article, held_out, sample

EDITED = ("colour", "shape", "place", "time")

_TEMPLATES = {  # {new} and {old} values, {a} the article of the new one, {c} and {s} colour and shape before
    "colour": ["make it {new}", "make the {s} {new}", "make the {old} {s} {new}", "turn the {s} {new}", "paint it {new}",
               "paint the {s} {new}", "change the colour to {new}", "turn the {old} {s} into {a} {new} {s}"],
    "shape": ["make it a {new}", "turn it into a {new}", "turn the {old} into a {new}", "change the {old} to a {new}",
              "replace the {old} with a {new}", "turn the {c} {old} into a {new}", "make the {old} a {new}"],
    "place": ["put it {where}", "put the {s} {where}", "move it to the {new}", "move the {s} to the {new}",
              "change the place to the {new}", "turn the {old} into {a} {new}", "make it {adjective}"],
    "time": ["make it {new}", "make it {when}", "change the time to {new}", "turn the {light} into {other}", "change it to {new}"],
}
_WHERE = {"meadow": "in the meadow", "desert": "in the desert", "snow": "in the snow", "sea": "on the sea", "city": "in the city"}
_ADJECTIVE = {"meadow": "a meadow", "desert": "a desert", "snow": "snow", "sea": "the sea", "city": "a city"}
_WHEN = {"sunny": "a sunny day", "sunset": "evening", "night": "dark night", "cloudy": "a cloudy day"}
_LIGHT = {"sunny": "sunny day", "sunset": "sunset", "night": "night", "cloudy": "cloudy day"}


def neighbours(scene: Scene, attribute: str) -> list[Scene]:
    """The scenes that differ in this attribute alone."""
    return [replace(scene, **{attribute: value}) for value in ATTRIBUTES[attribute] if value != getattr(scene, attribute)]


def edit(rng: random.Random, split: str = "train") -> tuple[Scene, Scene, str]:
    """A scene, the scene after a random edit, and the attribute. With "train" neither is a held-out combination; with "unseen"
    the second is one."""
    while True:
        scene, attribute = sample(rng, "train"), rng.choice(EDITED)
        options = [other for other in neighbours(scene, attribute) if held_out(*other.combination()) == (split == "unseen")]
        if options:
            return scene, rng.choice(options), attribute


def instructions(before: Scene, after: Scene, attribute: str) -> list[str]:
    """All the ways to say this edit; the first is the plain one."""
    old, new = getattr(before, attribute), getattr(after, attribute)
    words = {"old": old, "new": new, "a": article(after.colour), "c": before.colour, "s": before.shape}
    if attribute == "place":
        words |= {"where": _WHERE[new], "adjective": _ADJECTIVE[new], "a": "a"}
    if attribute == "time":
        words |= {"when": _WHEN[new], "light": _LIGHT[old], "other": "a " + _LIGHT[new]}
    return [template.format(**words) for template in _TEMPLATES[attribute]]


def vocabulary() -> list[str]:
    """Every word of an instruction."""
    texts = []
    for attribute in EDITED:
        values = ATTRIBUTES[attribute]
        for i, value in enumerate(values):
            scene = Scene("red", "ball", "still", "meadow", "sunny", 0)
            before, after = replace(scene, **{attribute: value}), replace(scene, **{attribute: values[i - 1]})
            texts += instructions(before, after, attribute)
    return sorted({word for text in texts for word in text.split()} | {"an"})

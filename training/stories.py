"""Writes the Toyland stories of benches/multiprompt: 64 of two to five prompts, in which one thing changes.

    python training/stories.py ../benches/multiprompt/toyland

Kinds: place, time, motion, subject (colour), 16 stories each. Every scene is one that the models were trained on (no
held-out combination), captioned in the plain words of an evaluation; values are dealt so that none is rare.
"""

import pathlib
import random
import sys

from world import COLOURS, MOTIONS, PLACES, SHAPES, TIMES, Scene, held_out, plain_caption

KINDS = {"place": ("place", PLACES), "time": ("time", TIMES), "motion": ("motion", MOTIONS), "subject": ("colour", COLOURS)}
PER_KIND = 16
LENGTHS = [2, 3, 4, 5]


def stories(kind: str, rng: random.Random) -> list[list[Scene]]:
    field, values = KINDS[kind]
    found: list[list[Scene]] = []
    uses = {value: 0 for value in [*COLOURS, *SHAPES, *MOTIONS, *PLACES, *TIMES]}
    while len(found) < PER_KIND:
        length = min(LENGTHS[len(found) % len(LENGTHS)], len(values))

        def rarest(options, count=1):
            return sorted(options, key=lambda value: (uses[value], rng.random()))[:count]

        base = dict(colour=rarest(COLOURS)[0], shape=rarest(SHAPES)[0], motion=rarest(MOTIONS)[0],
                    place=rarest(PLACES)[0], time=rarest(TIMES)[0])
        base.pop(field)
        options = [value for value in values if not held_out(*(dict(base, **{field: value}).get(name)
                                                              for name in ("colour", "shape", "place", "time")))]
        if len(options) < length:  # this deal has too many held-out neighbours: shuffle on
            uses[base.get("shape")] += 1
            continue
        chosen = rarest(options, length)
        rng.shuffle(chosen)
        for value in [*chosen, *base.values()]:
            uses[value] += 1
        found.append([Scene(**base, **{field: value}, seed=0) for value in chosen])
    return found


def main():
    root = pathlib.Path(sys.argv[1])
    rng = random.Random(2026)
    for kind in KINDS:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number, story in enumerate(stories(kind, rng), 1):
            first = story[0]
            lines = [plain_caption(scene) + "\n" for scene in story]
            assert len(set(lines)) == len(lines)
            (root / kind / f"{number:02}-{first.colour}-{first.shape}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()

"""The noise recipe of src/noise.rs once more, with its own ChaCha8: prints the values pinned in its test.

    python tests/reference/noise.py
"""

import math
import struct

import numpy as np


def chacha8_block(key: bytes, counter: int) -> bytes:
    """One 64-byte block of ChaCha with 8 rounds, 64-bit counter, nonce 0 (Bernstein 2008)."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    x = list(start)

    def turn(value, by):
        return ((value << by) | (value >> (32 - by))) & 0xFFFFFFFF

    def quarter(a, b, c, d):
        for p, q, r, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & 0xFFFFFFFF
            x[r] = turn(x[r] ^ x[p], by)

    for _ in range(4):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start)))


def frame(seed: int, stream: int, frame: int, step: int, count: int) -> list[np.float32]:
    key = struct.pack("<4Q", seed, stream, frame, step)
    blocks = b"".join(chacha8_block(key, i) for i in range(count // 4 + 1))
    words = struct.unpack(f"<{len(blocks) // 8}Q", blocks)
    values = []
    for a, b in zip(words[::2], words[1::2]):
        u, v = ((a >> 11) + 1) / 2**53, (b >> 11) / 2**53
        radius = math.sqrt(-2 * math.log(u))
        values += [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    return [np.float32(value) for value in values[:count]]


if __name__ == "__main__":
    for place in ((0, 0, 0, 0), (42, 0, 5, 0), (42, 1, 5, 49), (2**64 - 1, 2, 2**40, 7)):
        print(place, ", ".join(str(value) for value in frame(*place, 5)))

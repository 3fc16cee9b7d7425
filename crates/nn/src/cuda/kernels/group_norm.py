"""Group norm of [T, C, H, W] whose statistics span all frames, in three launches: the moments of pieces, those of the groups
from them (in a fixed order, so that results repeat), and the result, with a condition and SiLU where they follow."""

import triton
import triton.language as tl


@triton.jit
def group_moments(x, moments, size, pieces, groups, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    """`moments` [groups, T * pieces, 2]: mean and sum of squared distances from it of every piece of PIECE numbers; a group
    has `size` numbers per frame, which follow each other. Grid (pieces, T, groups)."""
    piece = tl.program_id(0)
    frame = tl.program_id(1).to(tl.int64)
    group = tl.program_id(2).to(tl.int64)
    x += (frame * groups + group) * size
    start = piece * PIECE
    count = tl.minimum(PIECE, size - start)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, PIECE, BLOCK):
        i = first + tl.arange(0, BLOCK)
        total += tl.load(x + start + i, mask=i < count, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / count
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, PIECE, BLOCK):
        i = first + tl.arange(0, BLOCK)
        away = tl.load(x + start + i, mask=i < count, other=0.0).to(tl.float32) - mean
        away = tl.where(i < count, away, 0.0)
        total += away * away
    place = (group * tl.num_programs(1) + frame) * pieces + piece
    tl.store(moments + 2 * place, mean)
    tl.store(moments + 2 * place + 1, tl.sum(total, 0))


@triton.jit
def group_totals(moments, totals, size, pieces, frames, eps, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    """`totals` [groups, 2]: mean and inverse deviation of each group from the moments of its pieces. Grid (groups)."""
    group = tl.program_id(0).to(tl.int64)
    moments += 2 * group * frames * pieces
    count = size.to(tl.float32) * frames
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, frames * pieces, BLOCK):
        i = first + tl.arange(0, BLOCK)
        numbers = tl.minimum(PIECE, size - i % pieces * PIECE).to(tl.float32)
        share = tl.load(moments + 2 * i, mask=i < frames * pieces, other=0.0) * (numbers / count)
        total += tl.where(i < frames * pieces, share, 0.0)
    mean = tl.sum(total, 0)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, frames * pieces, BLOCK):
        i = first + tl.arange(0, BLOCK)
        numbers = tl.minimum(PIECE, size - i % pieces * PIECE).to(tl.float32)
        away = tl.load(moments + 2 * i, mask=i < frames * pieces, other=0.0) - mean
        square = tl.load(moments + 2 * i + 1, mask=i < frames * pieces, other=0.0)
        total += tl.where(i < frames * pieces, square / count + away * away * (numbers / count), 0.0)
    tl.store(totals + 2 * group, mean)
    tl.store(totals + 2 * group + 1, 1.0 / tl.sqrt(tl.sum(total, 0) + eps))


@triton.jit
def group_apply(
    x, totals, weight, bias, scale, shift, frames, out, channels, per_group, size, height, width, rows, columns, silu,
    condition,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """`(x - mean) * inverse * weight + bias`; with `condition` times `scale` plus `shift`, maps [f, C, rows, columns] whose
    frame `frames[t]` serves frame t and whose cells are enlarged; then SiLU, if asked. `size` is H * W. Grid (T * C, blocks
    of H * W)."""
    plane = tl.program_id(0).to(tl.int64)
    frame = plane // channels
    channel = plane % channels
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = totals + 2 * (channel // per_group)
    factor = tl.load(total + 1) * tl.load(weight + channel).to(tl.float32)
    y = tl.load(x + plane * size + i, mask=inside, other=0.0).to(tl.float32) - tl.load(total)
    y = y * factor + tl.load(bias + channel).to(tl.float32)
    known = tl.load(frames + frame, mask=condition != 0, other=0).to(tl.int64)
    cell = i // width // (height // rows) * columns + i % width // (width // columns)
    cell = (known * channels + channel) * rows * columns + cell
    given = inside & (condition != 0)
    y = y * tl.load(scale + cell, mask=given, other=1.0).to(tl.float32)
    y = y + tl.load(shift + cell, mask=given, other=0.0).to(tl.float32)
    y = tl.where(silu != 0, y / (1.0 + tl.exp(-y)), y)
    tl.store(out + plane * size + i, y.to(out.dtype.element_ty), mask=inside)

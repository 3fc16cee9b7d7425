"""Attention without a score tensor, after "FlashAttention-2" (arXiv 2307.08691): online softmax over blocks of keys.

Heads of any multiple of 8 up to D0 + D1: the rest of a block is zeros. (Block sizes are powers of two, so that heads of 80, 96
and 160 are computed as 64 + 16, 64 + 32 and 128 + 32 rather than as 128 and 256.)
"""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def keys_block(
    q0, q1, m, l, acc0, acc1, k, v, first, keys, dim, kl, vl, scale_log2,
    BLOCK_N: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """One block of keys: the maxima `m` (of scores in base 2), the sums `l` and the values so far go on."""
    cols = first + tl.arange(0, BLOCK_N)
    d0 = tl.arange(0, D0)
    keep = (d0 < dim)[:, None]
    if RAGGED:
        keep = keep & (cols < keys)[None, :]
    s = tl.dot(q0, tl.load(k + cols[None, :] * kl + d0[:, None], mask=keep, other=0.0))  # [M, N]
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        keep = (d1 < dim)[:, None]
        if RAGGED:
            keep = keep & (cols < keys)[None, :]
        s = tl.dot(q1, tl.load(k + cols[None, :] * kl + d1[:, None], mask=keep, other=0.0), s)
    s = s * scale_log2
    if RAGGED:
        s = tl.where((cols < keys)[None, :], s, float("-inf"))
    higher = tl.maximum(m, tl.max(s, 1))
    p = tl.exp2(s - higher[:, None])
    shrink = tl.exp2(m - higher)
    l = l * shrink + tl.sum(p, 1)
    p = p.to(q0.dtype)
    keep = (d0 < dim)[None, :]
    if RAGGED:
        keep = keep & (cols < keys)[:, None]
    acc0 = acc0 * shrink[:, None]
    acc0 = tl.dot(p, tl.load(v + cols[:, None] * vl + d0[None, :], mask=keep, other=0.0), acc0)
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        keep = (d1 < dim)[None, :]
        if RAGGED:
            keep = keep & (cols < keys)[:, None]
        acc1 = acc1 * shrink[:, None]
        acc1 = tl.dot(p, tl.load(v + cols[:, None] * vl + d1[None, :], mask=keep, other=0.0), acc1)
    return higher, l, acc0, acc1


@triton.jit
def attention(
    q, k, v, out, sums, scale_log2, heads, queries, keys, dim, qb, qn, ql, kb, kn, kl, vb, vn, vl,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
):  # fmt: skip
    """`out` [B, Lq, N, D] and `sums` [B, N, Lq] (log-sum-exp, f32) from q [B, N, Lq, D], k and v [B, N, Lk, D] with strides.

    Grid (blocks of queries, B * N)."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    q += batch * qb + head * qn
    k += batch * kb + head * kn
    v += batch * vb + head * vn
    d0 = tl.arange(0, D0)
    there = (rows < queries)[:, None]
    q0 = tl.load(q + rows[:, None] * ql + d0[None, :], mask=there & (d0 < dim)[None, :], other=0.0)
    q1 = q0
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc0 = tl.zeros([BLOCK_M, D0], tl.float32)
    acc1 = acc0
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        q1 = tl.load(q + rows[:, None] * ql + d1[None, :], mask=there & (d1 < dim)[None, :], other=0.0)
        acc1 = tl.zeros([BLOCK_M, D1], tl.float32)
    whole = keys // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        m, l, acc0, acc1 = keys_block(
            q0, q1, m, l, acc0, acc1, k, v, first, keys, dim, kl, vl, scale_log2, BLOCK_N, D0, D1, False
        )
    if whole < keys:
        m, l, acc0, acc1 = keys_block(
            q0, q1, m, l, acc0, acc1, k, v, whole, keys, dim, kl, vl, scale_log2, BLOCK_N, D0, D1, True
        )
    place = ((batch * queries + rows) * heads + head) * dim
    tl.store(out + place[:, None] + d0[None, :], (acc0 / l[:, None]).to(q0.dtype), mask=there & (d0 < dim)[None, :])
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        tl.store(out + place[:, None] + d1[None, :], (acc1 / l[:, None]).to(q0.dtype), mask=there & (d1 < dim)[None, :])
    tl.store(sums + (batch * heads + head) * queries + rows, (m + tl.log2(l)) * LN2, mask=rows < queries)


@triton.jit
def probe(
    q, k, columns, sums, out, scale, heads, queries, keys, count, dim, qb, qn, ql, kb, kn, kl,
    BLOCK_M: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`out` [B, N, Lq, J] in f32: the probabilities of the keys `columns` [J], by the log-sum-exps [B, N, Lq] of `attention`.
    A column beyond the `keys` is answered with NaN.

    Grid (blocks of queries, blocks of columns, B * N)."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places = tl.program_id(1) * BLOCK_J + tl.arange(0, BLOCK_J)
    batch = (tl.program_id(2) // heads).to(tl.int64)
    head = (tl.program_id(2) % heads).to(tl.int64)
    q += batch * qb + head * qn
    k += batch * kb + head * kn
    cols = tl.load(columns + places, mask=places < count, other=0).to(tl.int32)
    known = (places < count) & (cols >= 0) & (cols < keys)
    s = tl.zeros([BLOCK_M, BLOCK_J], tl.float32)
    for start in range(0, dim, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = tl.load(q + rows[:, None] * ql + d[None, :], mask=(rows < queries)[:, None] & (d < dim)[None, :], other=0.0)
        b = tl.load(k + cols[None, :] * kl + d[:, None], mask=known[None, :] & (d < dim)[:, None], other=0.0)
        s = tl.dot(a, b, s)
    place = (batch * heads + head) * queries + rows
    total = tl.load(sums + place, mask=rows < queries, other=0.0)
    p = tl.where(known[None, :], tl.exp(s * scale - total[:, None]), float("nan"))
    keep = (rows < queries)[:, None] & (places < count)[None, :]
    tl.store(out + place[:, None] * count + places[None, :], p, mask=keep)

"""Operations on the rows of token sequences: layer norm with modulation, gated residual, GELU with bias, the norm and rotation
of queries and keys. Everything is computed in f32, whatever the tensors hold."""

import triton
import triton.language as tl


@triton.jit
def layer_norm_modulate(
    x, weight, bias, shift0, scale0, shift1, scale1, out, length, dim, first, parts, weighted, biased,
    shift0_b, scale0_b, shift1_b, scale1_b, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """`norm(x) * (1 + scale) + shift` on [B, L, D]: the first `first` tokens of a sequence by shift0 and scale0, the others by
    shift1 and scale1 (each [B, D] with a batch stride). Pointers of what is not there (`parts` 0 or 1, not `weighted` ...) are
    not read. Grid (B * L)."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // length
    token = (row % length).to(tl.int32)
    x += row * dim
    out += row * dim
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK):
        d = start + tl.arange(0, BLOCK)
        total += tl.load(x + d, mask=d < dim, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / dim
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, dim, BLOCK):
        d = start + tl.arange(0, BLOCK)
        value = tl.load(x + d, mask=d < dim, other=0.0).to(tl.float32)
        away = tl.where(d < dim, value - mean, 0.0)
        total += away * away
    inverse = 1.0 / tl.sqrt(tl.sum(total, 0) / dim + eps)
    early = token < first
    shift0 += batch * shift0_b
    scale0 += batch * scale0_b
    shift1 += batch * shift1_b
    scale1 += batch * scale1_b
    for start in range(0, dim, BLOCK):
        d = start + tl.arange(0, BLOCK)
        inside = d < dim
        y = (tl.load(x + d, mask=inside, other=0.0).to(tl.float32) - mean) * inverse
        y = y * tl.load(weight + d, mask=inside & (weighted != 0), other=1.0).to(tl.float32)
        y = y + tl.load(bias + d, mask=inside & (biased != 0), other=0.0).to(tl.float32)
        one = inside & early & (parts > 0)
        two = inside & (token >= first) & (parts > 1)
        scale = tl.load(scale0 + d, mask=one, other=0.0).to(tl.float32)
        scale += tl.load(scale1 + d, mask=two, other=0.0).to(tl.float32)
        shift = tl.load(shift0 + d, mask=one, other=0.0).to(tl.float32)
        shift += tl.load(shift1 + d, mask=two, other=0.0).to(tl.float32)
        y = y * (1.0 + scale) + shift
        tl.store(out + d, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_residual(
    residual, x, gate0, gate1, out, length, dim, first, gate0_b, gate1_b,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """`residual + gate * x` on [B, L, D]: the first `first` tokens of a sequence by gate0, the others by gate1 (each [B, D]
    with a batch stride). Grid (B * L, blocks of D)."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // length
    early = (row % length).to(tl.int32) < first
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < dim
    gate = tl.load(gate0 + batch * gate0_b + d, mask=inside & early, other=0.0).to(tl.float32)
    gate += tl.load(gate1 + batch * gate1_b + d, mask=inside & (early == 0), other=0.0).to(tl.float32)
    y = tl.load(x + row * dim + d, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(residual + row * dim + d, mask=inside, other=0.0).to(tl.float32) + gate * y
    tl.store(out + row * dim + d, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def bias_gelu(x, bias, out, dim, BLOCK: tl.constexpr):
    """`gelu(x + bias)` in its tanh form on rows of `dim` numbers. Grid (rows, blocks of `dim`)."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < dim
    y = tl.load(x + row * dim + d, mask=inside, other=0.0).to(tl.float32)
    y = y + tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)
    # 0.5 (1 + tanh(z)) = sigmoid(2z), which runs over on neither side
    z = 1.5957691216057308 * (y + 0.044715 * y * y * y)
    y = y / (1.0 + tl.exp(-z))
    tl.store(out + row * dim + d, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def qk_norm_rope(
    x, weight, bias, cos, sin, out, rows, heads, length, dim, text, rotate, xb, xn, xl, eps,
    ROWS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Layer norm over D of x [B, N, L, D] (with strides), then, if `rotate`, the rotation of tokens from `text` on by cos and
    sin [L - text, D/2] in f32: pair (x[2i], x[2i+1]). `out` is [B, L, N, D]. Grid (blocks of the B * L * N `rows`)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    head = row % heads
    token = row // heads % length
    batch = row // heads // length
    d = tl.arange(0, 2 * HALF)
    inside = d < dim
    keep = there[:, None] & inside[None, :]
    start = batch * xb + head * xn + token * xl
    y = tl.load(x + start[:, None] + d[None, :], mask=keep, other=0.0).to(tl.float32)
    mean = tl.sum(y, 1) / dim
    y = tl.where(keep, y - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(y * y, 1) / dim + eps)
    y = y * inverse[:, None] * tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = y + tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)[None, :]
    even, odd = tl.split(tl.reshape(y, [ROWS, HALF, 2]))
    i = tl.arange(0, HALF)
    turns = (there & (token >= text) & (rotate != 0))[:, None] & (i < dim // 2)[None, :]
    place = (token - text)[:, None] * (dim // 2) + i[None, :]
    c = tl.load(cos + place, mask=turns, other=1.0)
    s = tl.load(sin + place, mask=turns, other=0.0)
    y = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), [ROWS, 2 * HALF])
    tl.store(out + (row * dim)[:, None] + d[None, :], y.to(out.dtype.element_ty), mask=keep)

"""Draws Toyland scenes in PyTorch, on any device, in one pass over all pixels of all frames.

Lengths are in picture heights. The subject's position is a function of the time since the clip began, and a clip of 49
frames is centred on the picture, so a short training clip is a true piece of a whole one. Every edge is drawn with its
coverage of the pixel: nothing flickers when it moves, and the autoencoder spends no bits on aliasing.
"""

import math
import random
from typing import NamedTuple

import torch

from world import ATTRIBUTES, FPS, FRAMES, HEIGHT, SHAPES, WIDTH, Scene

_COLOUR = {
    "red": (0.86, 0.10, 0.10), "orange": (0.98, 0.50, 0.05), "yellow": (0.98, 0.88, 0.12), "green": (0.08, 0.58, 0.18),
    "blue": (0.10, 0.28, 0.88), "purple": (0.48, 0.12, 0.66), "pink": (0.98, 0.48, 0.72), "white": (0.97, 0.97, 0.97),
}
_SKY = {  # zenith, horizon, light
    "sunny": ((0.25, 0.55, 0.95), (0.75, 0.88, 1.00), (1.00, 1.00, 1.00)),
    "sunset": ((0.35, 0.20, 0.50), (1.00, 0.55, 0.25), (1.00, 0.80, 0.65)),
    "night": ((0.01, 0.02, 0.10), (0.08, 0.10, 0.25), (0.45, 0.48, 0.65)),
    "cloudy": ((0.50, 0.53, 0.58), (0.78, 0.80, 0.82), (0.82, 0.83, 0.85)),
}
_SUN = {"sunny": (1.0, 0.95, 0.6), "sunset": (1.0, 0.6, 0.3), "night": (0.95, 0.95, 0.85), "cloudy": (0.8, 0.8, 0.8)}
_CLOUD = {"sunny": 0.35, "sunset": 0.15, "night": 0.10, "cloudy": 0.65}
_GROUND = {  # near, far, hills
    "meadow": ((0.20, 0.55, 0.15), (0.45, 0.70, 0.30), (0.15, 0.42, 0.20)),
    "desert": ((0.85, 0.65, 0.35), (0.93, 0.80, 0.55), (0.75, 0.50, 0.28)),
    "snow": ((0.86, 0.91, 0.97), (0.96, 0.98, 1.00), (0.70, 0.78, 0.88)),
    "sea": ((0.05, 0.25, 0.50), (0.20, 0.50, 0.70), (0.25, 0.40, 0.50)),
    "city": ((0.28, 0.28, 0.30), (0.42, 0.42, 0.45), (0.35, 0.33, 0.38)),
}
_EXTENT = {  # of the outline around the centre, in radii: to the sides, up, down (a star turns: the circle around it)
    "ball": (1.0, 1.0, 1.0), "box": (0.9, 0.9, 0.9), "car": (1.35, 0.75, 1.0), "star": (1.08, 1.08, 1.08),
}
_CONSTANTS = 64  # random numbers per scene
_STARS = 9


class Clip(NamedTuple):
    video: torch.Tensor  # [B, 3, T, H, W] in [-1, 1]
    boxes: torch.Tensor  # [B, T, 4]: x0, y0, x1, y1 in pixels; may leave the frame
    mask: torch.Tensor  # [B, 1, T, H, W] in [0, 1]: how much of each pixel the subject covers


class _Brush:
    """The helpers that the parts of a picture share."""

    def __init__(self, scenes: list[Scene], height: int, width: int, device):
        self.scenes, self.device, self.b = scenes, device, len(scenes)
        rows = []
        for scene in scenes:
            rng = random.Random(scene.seed)
            rows.append([rng.random() for _ in range(_CONSTANTS)])
        self.u = self.tensor(rows)  # [B, constants]
        self.aspect, self.pixel = width / height, 1.0 / height
        self.y = ((torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height).view(1, 1, height, 1)
        self.x = ((torch.arange(width, device=device, dtype=torch.float32) + 0.5) / height).view(1, 1, 1, width)

    def tensor(self, rows) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def constant(self, i: int) -> torch.Tensor:
        return self.u[:, i].view(self.b, 1, 1, 1)

    def each(self, attribute: str, table: dict) -> torch.Tensor:
        """A row of `table` per scene: colours [B, 3, 1, 1, 1], numbers [B, 1, 1, 1]."""
        rows = [table[getattr(scene, attribute)] for scene in self.scenes]
        value = self.tensor(rows)
        return value.view(self.b, 3, 1, 1, 1) if value.dim() == 2 else value.view(self.b, 1, 1, 1)

    def is_(self, attribute: str, name: str) -> torch.Tensor:
        return self.each(attribute, {value: float(value == name) for value in ATTRIBUTES[attribute]})

    def cover(self, distance: torch.Tensor) -> torch.Tensor:
        """Coverage of a pixel by the inside of a signed distance."""
        return (0.5 - distance / (1.5 * self.pixel)).clamp(0, 1)

    def pulses(self, phase: torch.Tensor, share: float, width) -> torch.Tensor:
        """1 in the middle `share` of every period of `phase`, with edges `width` periods wide."""
        offset = (torch.frac(torch.frac(phase) + 1.0) - 0.5).abs()
        return (0.5 + (0.5 * share - offset) / width).clamp(0, 1)


def _over(image: torch.Tensor, colour: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """`colour` painted over `image` [B, 3, T, H, W] with `alpha` [B, T, H, W]."""
    return image + (colour - image) * alpha.unsqueeze(1)


class _Motion(NamedTuple):
    cx: torch.Tensor  # [B, T, 1, 1] centre
    cy: torch.Tensor
    radius: torch.Tensor  # [B, 1, 1, 1]
    floor: torch.Tensor  # [B, 1, 1, 1] where the subject stands
    spin: torch.Tensor  # [B, T, 1, 1] radians
    scroll: torch.Tensor  # [B, T, 1, 1] how far the camera has travelled, at the subject's distance


def _motion(brush: _Brush, t: torch.Tensor) -> _Motion:
    c, is_ = brush.constant, brush.is_
    radius, floor, speed = 0.14 + 0.05 * c(0), 0.79 + 0.06 * c(1), 0.13 + 0.07 * c(2)
    right, left, bounce = is_("motion", "right"), is_("motion", "left"), is_("motion", "bounce")
    still, follow = is_("motion", "still"), is_("motion", "follow")
    span = (t - (FRAMES - 1) / (2 * FPS)) * speed
    cx = 0.5 * brush.aspect + (right - left) * span + (bounce + still) * (c(3) - 0.5) * 0.55 * brush.aspect \
        + follow * 0.02 * torch.sin(2.0 * t)
    hop = torch.sin(math.pi * (t * (0.45 + 0.20 * c(4)) + c(5))).abs()
    cy = floor - radius - bounce * hop * 0.26 + is_("place", "sea") * 0.012 * torch.sin(2.5 * t + 6.28 * c(6))
    scroll = follow * t * (0.20 + 0.10 * c(2))
    return _Motion(cx, cy, radius, floor, ((right - left) * span + scroll) / radius, scroll)


def _sky(brush: _Brush, t: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sky over the whole picture [B, 3, T, H, W], and the horizon [B, 1, 1, 1]."""
    c, x, y = brush.constant, brush.x, brush.y
    zenith, low, light = (brush.each("time", {k: v[i] for k, v in _SKY.items()}) for i in range(3))
    horizon = 0.52 + 0.08 * c(7)
    grade = (y / horizon).clamp(0, 1).unsqueeze(1)
    still = (zenith * (1 - grade) + low * grade).expand(brush.b, 3, 1, height, width)
    sx, sy = (0.12 + 0.76 * c(8)) * brush.aspect, 0.10 + 0.12 * c(9)
    disc = brush.cover(((x - sx) ** 2 + (y - sy) ** 2).sqrt() - 0.06)
    still = _over(still, brush.each("time", _SUN), disc * (1 - brush.is_("time", "cloudy")))
    stars = torch.zeros(brush.b, 1, height, width, device=brush.device)
    for i in range(_STARS):
        px, py = (i + c(24 + 2 * i)) / _STARS * brush.aspect, 0.02 + 0.40 * c(25 + 2 * i)
        stars = torch.maximum(stars, brush.cover(((x - px) ** 2 + (y - py) ** 2).sqrt() - 0.009))
    still = _over(still, brush.tensor([[1.0, 1.0, 0.9]]).view(1, 3, 1, 1, 1), stars * brush.is_("time", "night") * 0.9)
    drift = x + t * 0.02
    puff = torch.sin(drift * (4 + 2 * c(10)) + 6.28 * c(11)) * torch.sin(drift * (8 + 3 * c(12)))
    cloud = ((puff + 0.3) * 0.9).clamp(0, 1) * torch.exp(-((y - 0.22) / 0.09) ** 2)
    return _over(still, light * 0.98, cloud * brush.each("time", _CLOUD)), horizon


def _land(brush: _Brush, image: torch.Tensor, horizon: torch.Tensor, motion: _Motion, t: torch.Tensor) -> torch.Tensor:
    """Hills or skyline, then the ground, painted over the sky."""
    c, x, y = brush.constant, brush.x, brush.y
    near, far, hill = (brush.each("place", {k: v[i] for k, v in _GROUND.items()}) for i in range(3))
    light = brush.each("time", {k: v[2] for k, v in _SKY.items()})
    city, sea = brush.is_("place", "city"), brush.is_("place", "sea")

    hx = x + motion.scroll * 0.35
    ridge = 0.05 * torch.sin(hx * (3 + 2 * c(13)) + 6.28 * c(14)) + 0.03 * torch.sin(hx * (6 + 3 * c(15)) + 6.28 * c(16))
    blocks = hx * 6.0
    tower = lambda n: 0.5 + 0.5 * torch.sin(n * 12.9898 + 78.233 * c(13))
    edge = 9.0 * brush.pixel
    turn = ((torch.frac(blocks) - (1 - edge)) / edge).clamp(0, 1)
    skyline = torch.lerp(tower(torch.floor(blocks)), tower(torch.floor(blocks) + 1), turn)
    top = horizon - (0.05 + ridge) * (1 - city) * (1 - 0.75 * sea) - (0.09 + 0.15 * skyline) * city
    image = _over(image, hill * light, brush.cover(top - y))
    windows = brush.pulses(hx * 12, 0.45, 18 * brush.pixel) * brush.pulses(y * 12, 0.45, 18 * brush.pixel)
    windows = windows * brush.cover(top + 0.025 - y) * city * (brush.is_("time", "night") * 0.75 + 0.2)
    image = _over(image, brush.tensor([[1.0, 0.85, 0.45]]).view(1, 3, 1, 1, 1), windows)

    depth = ((y - horizon) / (1 - horizon)).clamp(1e-3, 1)  # 0 at the horizon, 1 at the lower edge
    ground = far + (near - far) * depth.unsqueeze(1)
    # the pattern at the subject's depth passes by as fast as the subject rolls
    distance = 0.35 + ((motion.floor - horizon) / (1 - horizon))
    gx = (x - 0.5 * brush.aspect) / (0.35 + depth) + motion.scroll / distance
    wave = torch.sin(gx * (8 + 3 * c(17)) + 2 * torch.sin(depth * (6 + 2 * c(18))) + 6.28 * c(19) + sea * t * 2.0)
    ground = ground * (1 + (0.10 - 0.06 * city) * wave).unsqueeze(1)
    lane = brush.pulses(gx * 1.6, 0.5, 0.04) * brush.cover((depth - 0.68).abs() * (1 - horizon) - 0.016) * city
    ground = _over(ground, torch.full_like(far, 0.9), lane)
    return _over(image, ground * light, brush.cover(horizon - y))


def _subject(brush: _Brush, image: torch.Tensor, motion: _Motion, opacity: torch.Tensor):
    """The subject with its shadow over the scene, and its coverage [B, T, H, W]."""
    x, y, r = brush.x, brush.y, motion.radius
    light = brush.each("time", {k: v[2] for k, v in _SKY.items()})
    dx, dy = (x - motion.cx) / r, (y - motion.cy) / r
    height = (motion.floor - r - motion.cy).clamp(min=0)
    shadow = (1 - (dx / 1.1) ** 2 - ((y - motion.floor - 0.005) / (r * 0.22)) ** 2).clamp(0, 1)
    image = image * (1 - shadow * (0.55 / (1 + 8 * height)) * opacity).unsqueeze(1)

    turn, lift = torch.cos(motion.spin), torch.sin(motion.spin)
    rx, ry = dx * turn + dy * lift, dy * turn - dx * lift
    round_ = (dx ** 2 + dy ** 2).sqrt()
    body = torch.maximum(dx.abs() - 1.35, (dy - 0.25).abs() - 0.40)
    cabin = torch.maximum((dx + 0.1).abs() - 0.75, (dy + 0.40).abs() - 0.35)
    wheels = torch.minimum(((dx - 0.75) ** 2 + (dy - 0.70) ** 2).sqrt(), ((dx + 0.75) ** 2 + (dy - 0.70) ** 2).sqrt()) - 0.30
    lobe = (torch.remainder(torch.atan2(rx, -ry), 2 * math.pi / 5) - math.pi / 5).abs() / (math.pi / 5)
    outline = {
        "ball": round_ - 1.0,
        "box": torch.maximum(dx.abs(), dy.abs()) - 0.90,
        "car": torch.minimum(torch.minimum(body, cabin), wheels),
        "star": round_ - (0.48 + 0.60 * lobe ** 1.2),
    }
    kind = {name: brush.is_("shape", name) for name in SHAPES}
    distance = sum(outline[name] * kind[name] for name in SHAPES) * r
    mask = brush.cover(distance) * opacity

    shade = (1.0 - 0.28 * (dx * 0.5 + dy * 0.8)).clamp(0.55, 1.25).unsqueeze(1)
    lit = brush.each("colour", _COLOUR) * shade
    lit = _over(lit, torch.ones_like(light), torch.exp(-((dx + 0.35) ** 2 + (dy + 0.40) ** 2) * 9) * 0.45)
    lit = lit * (1 - 0.35 * (brush.cover((rx.abs() - 0.13) * r) * kind["ball"]).unsqueeze(1))
    lit = _over(lit, torch.full_like(light, 0.08), brush.cover(wheels * r) * kind["car"])
    pane = torch.maximum((dx + 0.1).abs() - 0.55, (dy + 0.38).abs() - 0.22)
    lit = _over(lit, brush.tensor([[0.75, 0.88, 0.95]]).view(1, 3, 1, 1, 1), brush.cover(pane * r) * kind["car"])
    rim = brush.cover(-distance - 1.2 * brush.pixel)  # a darker line inside the outline: white shows on snow
    lit = lit * (1 - 0.45 * rim.unsqueeze(1)) * (0.35 + 0.65 * light)
    return _over(image, lit, mask), mask


def render(scenes: list[Scene], frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH, device="cpu",
           start=0.0, opacity=None) -> Clip:
    """`frames` frames of each scene from `start` on (seconds since its clip began; a number, or one per scene).

    `opacity` (one per scene, default 1) fades the subject: 0 gives the same scene without it."""
    brush = _Brush(scenes, height, width, device)
    begin = torch.as_tensor(start, dtype=torch.float32, device=device).reshape(-1, 1, 1, 1)
    t = begin + (torch.arange(frames, device=device, dtype=torch.float32) / FPS).view(1, frames, 1, 1)
    t = t.expand(brush.b, frames, 1, 1)
    alpha = torch.ones(brush.b, device=device) if opacity is None else torch.as_tensor(opacity, device=device).float()
    motion = _motion(brush, t)
    image, horizon = _sky(brush, t, height, width)
    image = _land(brush, image, horizon, motion, t)
    image, mask = _subject(brush, image, motion, alpha.view(brush.b, 1, 1, 1))
    wide, above, below = (brush.each("shape", {k: v[i] for k, v in _EXTENT.items()}) * motion.radius for i in range(3))
    centre_x, centre_y = motion.cx.expand_as(t), motion.cy.expand_as(t)
    boxes = torch.cat([centre_x - wide, centre_y - above, centre_x + wide, centre_y + below], -1).squeeze(2) * height
    return Clip(image.clamp(0, 1) * 2 - 1, boxes, mask.unsqueeze(1))


if __name__ == "__main__":
    import sys

    from PIL import Image

    from world import plain_caption, sample

    generator = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    chosen = [sample(generator, "all") for _ in range(12)]
    for one in chosen:
        print(plain_caption(one))
    clip = render(chosen)
    rows = [torch.cat([clip.video[i, :, f] for f in (0, 16, 32, 48)], -1) for i in range(len(chosen))]
    grid = torch.cat([torch.cat(rows[:6], 1), torch.cat(rows[6:], 1)], -1)
    Image.fromarray(((grid.permute(1, 2, 0) + 1) * 127.5).byte().numpy()).save(sys.argv[2] if len(sys.argv) > 2 else "toyland.png")

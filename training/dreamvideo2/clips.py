"""Clips with the boxes of one subject, and the subject alone: what DreamVideo-2 is trained on.

A data set is a file of JSON lines, one for each clip:

    {"frames": "clips/0001", "caption": "a dog runs in the snow", "masks": "masks/0001"}
    {"frames": "clips/0002", "caption": "a cat sleeps", "masks": "masks/0002", "boxes": [[0.1, 0.2, 0.4, 0.6], null, ...]}

`frames` is a folder of pictures in the order of their names, at the rate that the model makes (8 a second). `masks` is a folder of grey
pictures of the same names, white where the subject is; a frame may have none. `boxes`: x0, y0, x1, y1 of every frame in units of its
sides, or null; where they are left out, those around the masks. Paths are relative to the file.
"""

import json
import math
import os
import random

import numpy as np
import torch
from PIL import Image, ImageEnhance

NAMES = (".png", ".jpg", ".jpeg", ".webp")
LEAST, MOST, LOST = 0.03, 0.8, 0.25  # share of the frame that a box covers; share of frames whose box leaves the crop


def natural(name: str) -> list:
    """Numbers in a name count as numbers."""
    parts, digits = [""], False
    for letter in name:
        if letter.isdigit() != digits:
            parts.append("")
            digits = letter.isdigit()
        parts[-1] += letter
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def pictures(folder: str) -> list[str]:
    names = sorted((name for name in os.listdir(folder) if name.lower().endswith(NAMES)), key=natural)
    return [os.path.join(folder, name) for name in names]


def box_of(mask: np.ndarray):
    """Around what is brighter than 127 in a grey picture; none in a dark one."""
    rows, columns = np.flatnonzero((mask > 127).any(1)), np.flatnonzero((mask > 127).any(0))
    if not len(rows):
        return None
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def crop_of(width: int, height: int, to_width: int, to_height: int) -> tuple[float, int, int]:
    """The factor by which a picture covers the wanted size, and what is cut off at the left and at the top."""
    scale = max(to_width / width, to_height / height)
    return scale, (round(width * scale) - to_width) // 2, (round(height * scale) - to_height) // 2


def cropped(box, size: tuple[int, int], to: tuple[int, int]):
    """A box of a picture of `size` (width, height) as that of its crop; none where nothing of it is left."""
    if box is None:
        return None
    scale, left, top = crop_of(*size, *to)
    x0, x1 = (min(1.0, max(0.0, (x * size[0] * scale - left) / to[0])) for x in (box[0], box[2]))
    y0, y1 = (min(1.0, max(0.0, (y * size[1] * scale - top) / to[1])) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def covering(picture: Image.Image, to: tuple[int, int]) -> Image.Image:
    scale, left, top = crop_of(*picture.size, *to)
    large = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS)
    return large.crop((left, top, left + to[0], top + to[1]))


def alone(picture: Image.Image, mask: Image.Image, size: tuple[int, int], rng: random.Random | None) -> Image.Image:
    """The subject cut out, on white, at most four fifths of the frame. With `rng` it is varied, so that a model learns what the
    subject is, and not to copy how it stands."""
    box = mask.point(lambda value: 255 * (value > 127)).getbbox()
    white = Image.new("RGB", picture.size, (255, 255, 255))
    white.paste(picture, mask=mask)
    cut = white.crop(box)
    share = 0.8
    if rng is not None:
        if rng.random() < 0.5:
            cut = cut.transpose(Image.FLIP_LEFT_RIGHT)
        cut = cut.rotate(rng.uniform(-15, 15), Image.BICUBIC, expand=True, fillcolor=(255, 255, 255))
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            cut = enhancer(cut).enhance(rng.uniform(0.9, 1.1))
        share *= rng.uniform(0.6, 1.0)
    scale = min(share * size[0] / cut.width, share * size[1] / cut.height)
    cut = cut.resize([max(1, math.floor(scale * side + 0.5)) for side in cut.size], Image.BICUBIC)
    made = Image.new("RGB", size, (255, 255, 255))
    free = [whole - side for whole, side in zip(size, cut.size)]
    made.paste(cut, [space // 2 if rng is None else rng.randint(0, space) for space in free])
    return made


def tensor(picture: Image.Image) -> torch.Tensor:
    """[3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


class Clips(torch.utils.data.Dataset):
    """`size` is (width, height). What cannot be used is left out at the start, and counted in `left_out` by its reason."""

    def __init__(self, file: str, size: tuple[int, int], frames: int = 16, vary: bool = True, seed: int = 0):
        self.size, self.frames, self.vary, self.seed = size, frames, vary, seed
        self.root, self.clips, self.left_out = os.path.dirname(os.path.abspath(file)), [], {}
        with open(file) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    clip = json.loads(line)
                    reason = self._add(clip)
                except (KeyError, ValueError, OSError) as error:
                    raise SystemExit(f"{file}:{number}: {type(error).__name__}: {error}") from error
                if reason:
                    self.left_out[reason] = self.left_out.get(reason, 0) + 1
        if not self.clips:
            raise SystemExit(f"{file}: no clip can be used ({self.left_out or 'it is empty'})")

    def _add(self, clip: dict) -> str | None:
        """Why a clip is left out, or nothing."""
        frames = pictures(os.path.join(self.root, clip["frames"]))
        if len(frames) < self.frames:
            return f"fewer than {self.frames} frames"
        masks = {os.path.splitext(os.path.basename(path))[0]: path for path in pictures(os.path.join(self.root, clip["masks"]))}
        masks = [masks.get(os.path.splitext(os.path.basename(path))[0]) for path in frames]
        if not any(masks):
            return "no mask of any frame"
        boxes = clip.get("boxes")
        if boxes is None:
            boxes = [box_of(np.asarray(Image.open(path).convert("L"))) if path else None for path in masks]
        if len(boxes) != len(frames):
            raise ValueError(f"{len(boxes)} boxes for {len(frames)} frames")
        with Image.open(frames[0]) as first:
            boxes = [cropped(box, first.size, self.size) for box in boxes]
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes if box]
        if len(areas) < (1 - LOST) * len(boxes):
            return "the subject is out of the picture too often"
        mean = sum(areas) / len(areas)
        if not LEAST <= mean <= MOST:
            return "the subject is too small or too large"
        self.clips.append({"frames": frames, "masks": masks, "boxes": boxes, "caption": str(clip["caption"])})
        return None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        """`video` [F, 3, H, W] and `subject` [3, H, W] in [-1, 1], `boxes` [F, 4] (without area: none), `caption`."""
        clip = self.clips[index]
        rng = random.Random(torch.randint(1 << 31, ()).item() if self.vary else self.seed + index)
        start = rng.randint(0, len(clip["frames"]) - self.frames)
        taken = range(start, start + self.frames)
        seen = [i for i, mask in enumerate(clip["masks"]) if mask]
        rng.shuffle(seen)
        # the further away the reference is, the less of the clip it gives away
        seen.sort(key=lambda i: i in taken)
        for reference in seen:
            mask = Image.open(clip["masks"][reference]).convert("L")
            if box_of(np.asarray(mask)):
                break
        picture = Image.open(clip["frames"][reference]).convert("RGB")
        if mask.size != picture.size:
            mask = mask.resize(picture.size, Image.NEAREST)
        subject = alone(picture, mask, self.size, rng if self.vary else None)
        video = torch.stack([tensor(covering(Image.open(clip["frames"][i]).convert("RGB"), self.size)) for i in taken])
        boxes = torch.tensor([clip["boxes"][i] or (0.0, 0.0, 0.0, 0.0) for i in taken])
        return {"video": video, "subject": tensor(subject), "boxes": boxes, "caption": clip["caption"]}

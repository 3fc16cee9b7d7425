#!/bin/sh
# OpenCV 5.0.0: Canny of a colour picture is not Canny of its brightness.
#
# Expected: edges are those of the grey picture, which the documentation's parameter ("8-bit input image") and most tutorials mean, and
# which programs that prepare edge maps for a ControlNet compute after converting to grey: both ways should give one map.
# Seen: for a picture of three channels the gradient of each pixel is that of the channel in which it is strongest. Borders between
# colours of equal brightness, which the grey picture does not have at all, are edges; with random colours a third of the edges of
# the colour picture is missing in the grey one.
#
# Output: 5.0.0 / red beside green of equal brightness: 100 edge pixels, grey 0 / squares of random colours: 0.154, grey 0.106
# Exits with 0 while this is so.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6
"$place/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np


def edges(picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    return cv2.Canny(picture, 100, 200) > 0, cv2.Canny(grey, 100, 200) > 0


print(cv2.__version__)
halves = np.zeros((100, 100, 3), np.uint8)
halves[:, :50] = (0, 0, 200)  # blue, green, red
halves[:, 50:] = (0, 102, 0)
colour, grey = edges(halves)
print(f"red beside green of equal brightness: {colour.sum()} edge pixels, grey {grey.sum()}")
assert colour.sum() > 90 and grey.sum() == 0, "the behaviour has changed"
squares = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
colour, grey = edges(squares)
print(f"squares of random colours: {colour.mean():.3f}, grey {grey.mean():.3f}")
assert colour.mean() > 1.3 * grey.mean(), "the behaviour has changed"
PYTHON

#!/bin/sh
# PyAV 18.1.0 (libavcodec 62.28): an animated WebP is recognised and opened, and not one frame of it can be read.
#
# Expected: libavformat knows WebP, writes animated ones and says "webp" of this file, so decoding gives its four frames, or opening it
# is refused.
# Seen: the file opens, with one video stream of codec "webp" at 25 frames per second (it has 8), and the first packet fails with
# "Invalid data found when processing input": the decoder skips the chunks of an animation and finds no picture behind them. A program
# that probes a file first takes it for a readable video.
#
# Output: 18.1.0 / opened: webp, 25 per second / decoding: InvalidDataError / Pillow: 4 frames
# Exits with 0 while this is so.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 pillow==13.0.0
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import av
from PIL import Image

frames = [Image.new("RGB", (32, 32), (60 * i, 0, 0)) for i in range(4)]
frames[0].save("a.webp", save_all=True, append_images=frames[1:], duration=125, lossless=True)
print(av.__version__)
failed = None
with av.open("a.webp") as container:
    stream = container.streams.video[0]
    print(f"opened: {stream.codec_context.name}, {stream.average_rate} per second")
    assert stream.codec_context.name == "webp"
    try:
        list(container.decode(stream))
    except av.error.InvalidDataError as error:
        failed = type(error).__name__
print("decoding:", failed)
with Image.open("a.webp") as picture:
    picture.seek(1)
    print(f"Pillow: {picture.n_frames} frames")
    assert picture.n_frames == 4
assert failed, "the behaviour has changed"
PYTHON

#!/bin/sh
# PySceneDetect 0.7.2: the frame rate given for a sequence of pictures is kept for the length but not for the places of cuts.
#
# Expected: pictures have no rate of their own, and open_video(..., frame_rate=8) says that there are 8 in a second. 80 pictures whose
# colour changes at the 61st then last 10 seconds, with a cut at frame 60, 7.5 seconds from the start.
# Seen: rate 8 and length 10 s as given, but after 61 frames have been read the position is 2.4 s: its OpenCV backend takes the time
# stamps of OpenCV's own 25 pictures a second. The cut is reported at 2.4 s, as frame 19 although it is frame 60, and a least scene
# length in frames counts three times as long.
#
# Output: 0.7.2 / length 10.0 s of 80 frames at 8.0 / cut at frame 19, 2.4 s
# Exits with 0 while this is so.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check scenedetect==0.7.2 opencv-python-headless==5.0.0.93 pillow==13.0.0
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import scenedetect
from PIL import Image
from scenedetect import ContentDetector, SceneManager, open_video

for i in range(80):
    Image.new("RGB", (64, 48), (200, 30, 30) if i < 60 else (30, 30, 200)).save(f"{i:03}.png")
video = open_video("%03d.png", frame_rate=8.0)
manager = SceneManager()
manager.add_detector(ContentDetector(min_scene_len=1))
manager.detect_scenes(video)
cut = manager.get_scene_list()[1][0]
print(scenedetect.__version__)
print(f"length {video.duration.seconds} s of {video.duration.frame_num} frames at {float(video.frame_rate)}")
print(f"cut at frame {cut.frame_num}, {cut.seconds} s")
assert (video.duration.seconds, video.duration.frame_num) == (10.0, 80)
assert (cut.frame_num, cut.seconds) == (19, 2.4), "the behaviour has changed"
PYTHON

#!/bin/sh
# Twenty seconds from one prompt, through a pipe into ffmpeg: no file in between, and any encoder that ffmpeg has.
#
#   examples/pipe-to-ffmpeg.sh [FILE]  default: out/long.mkv; VIDGEN and FFMPEG are the programs
#
# Frames are written as they are decoded, so memory does not grow with the length of the video.
set -eu
vidgen=${VIDGEN:-vidgen}
ffmpeg=${FFMPEG:-ffmpeg}
file=${1:-out/long.mkv}
mkdir -p "$(dirname "$file")"

# y4m is raw frames with a header; vidgen says what it does on standard error, so standard output is the video alone.
# ffmpeg enlarges it four times without smoothing and packs it without loss.
"$vidgen" extend "a red ball rolls to the right in a green meadow on a sunny day" --duration 20s --seed 7 -o - |
    "$ffmpeg" -hide_banner -loglevel warning -y -f yuv4mpegpipe -i - -vf scale=iw*4:ih*4:flags=neighbor -c:v ffv1 "$file"
echo "$file"

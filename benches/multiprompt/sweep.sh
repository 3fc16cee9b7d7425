#!/usr/bin/env bash
# Where to share keys and values: renders stories once for each choice of layers and steps and prints a table, best consistency
# first. Goes on where it stopped.
#
#   CHOICES="5:0-4 3-5:0-4"   layers:steps, as --attn-proc kv-share takes them; none: no sharing
#   STORIES=4, and SET, MODEL, STEPS, SEED, CLIP, VIDGEN as in run.sh
#   OUT=                      folder of the results
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
CHOICES=${CHOICES:-none 5:0-4 3-5:0-4 0-5:0-4 5:0-9 3-5:0-9 0-5:0-9}
export STORIES=${STORIES:-4} SET=${SET:-toyland}
VIDGEN=${VIDGEN:-$here/../../target/release/vidgen}
OUT=${OUT:-$here/../../out/multiprompt/sweep-$(basename "$SET")-$STORIES-stories}

files=()
for choice in $CHOICES; do
  case $choice in
    none) flags="--transition blend" ;;
    *:*) flags="--attn-proc kv-share:layers=${choice%%:*},steps=${choice#*:}" ;;
    *) echo "error: CHOICES: $choice is neither layers:steps nor none" >&2; exit 2 ;;
  esac
  VIDGEN=$VIDGEN OUT=$OUT/$choice VARIANTS=ours FLAGS=$flags "$here/run.sh" > /dev/null
  cp "$OUT/$choice/ours.json" "$OUT/$choice.json"
  files+=("$OUT/$choice.json")
done
"$VIDGEN" eval "${files[@]}" --means | tee "$OUT/table.txt"

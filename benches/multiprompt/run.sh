#!/usr/bin/env bash
# Renders a set of stories in four variants, measures them, and prints the table of the DiTCtrl paper (its Tables 1 and 4).
# Goes on where it stopped: finished videos and measurements that are younger than their videos are kept.
#
#   SET=toyland          folder of stories beside this script (toyland, storyshift), or a path
#   STORIES=all          how many; the first of every kind come first
#   MODEL=toyland        as --model
#   STEPS=               as --steps; empty for the model's own
#   SEED=0               of every video
#   FLAGS=               more flags of multi-prompt, e.g. "--size 480x320 --device cuda"
#   CLIP=                as eval --clip; with MODEL=toyland the judge measures too
#   VARIANTS=            of: ours no-sharing no-blending isolated
#   OUT=                 folder of the results
#   VIDGEN=              the program
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
SET=${SET:-toyland} STORIES=${STORIES:-all} MODEL=${MODEL:-toyland} STEPS=${STEPS:-} SEED=${SEED:-0} FLAGS=${FLAGS:-} CLIP=${CLIP:-}
VARIANTS=${VARIANTS:-ours no-sharing no-blending isolated}
VIDGEN=${VIDGEN:-$here/../../target/release/vidgen}
OUT=${OUT:-$here/../../out/multiprompt/$(basename "$SET")-$(basename "$MODEL")-${STEPS:-default}-steps-seed-$SEED}

fail() { echo "error: $*" >&2; exit 2; }
[ -d "$here/$SET" ] && folder=$here/$SET || folder=$SET
[ -d "$folder" ] || fail "$SET: no such set of stories; known: $(cd "$here" && ls -d */ | tr -d / | paste -sd' ')"
[ -x "$VIDGEN" ] || fail "$VIDGEN: no such program; make build makes it"

# by number first, so that a few stories are of many kinds
mapfile -t stories < <(cd "$folder" && ls -- */*.txt | awk -F/ '{ print $2 "\t" $0 }' | sort -k1.1,1.2 -s | cut -f2)
case $STORIES in all) ;; *[!0-9]* | 0) fail "STORIES=$STORIES: give a number, or all" ;; *) stories=("${stories[@]:0:$STORIES}") ;; esac

# what is in the folder must be of the same settings
mkdir -p "$OUT"
settings="set $SET, model $MODEL, steps ${STEPS:-default}, seed $SEED, flags $FLAGS, $("$VIDGEN" --version)"
[ ! -e "$OUT/settings.txt" ] || [ "$(cat "$OUT/settings.txt")" = "$settings" ] ||
  fail "$OUT holds videos of other settings ($(cat "$OUT/settings.txt")): choose another OUT"
echo "$settings" > "$OUT/settings.txt"

name() { local story=${1%.txt}; echo "${story/\//-}"; }
broken=0
render() { # variant, story, flags
  local variant=$1 story=$2 video; shift 2
  video=$OUT/$variant/$(name "$story").mp4
  [ ! -e "$video" ] || return 0
  mkdir -p "$OUT/$variant"
  # FLAGS is a list of words
  # shellcheck disable=SC2086
  "$VIDGEN" multi-prompt "$folder/$story" --model "$MODEL" ${STEPS:+--steps "$STEPS"} --seed "$SEED" $FLAGS "$@" \
    --manifest embed --quiet -o "$video" < /dev/null > /dev/null || { echo "failed: $variant $story" >&2; broken=1; }
}

done=0
for story in "${stories[@]}"; do
  # the other variants are as long as ours
  render ours "$story"
  frames=$("$VIDGEN" inspect "$OUT/ours/$(name "$story").mp4" --json | sed -n 's/^ *"frames": \([0-9]*\).*/\1/p' | head -n 1)
  for variant in $VARIANTS; do
    case $variant in
      ours) ;;
      no-sharing) render "$variant" "$story" --transition blend --frames "$frames" ;;
      no-blending) render "$variant" "$story" --overlap 0 --transition-windows 0 --frames "$frames" ;;
      isolated) render "$variant" "$story" --transition cut --frames "$frames" ;;
      *) fail "VARIANTS: $variant is not one of ours, no-sharing, no-blending, isolated" ;;
    esac
  done
  done=$((done + 1))
  echo "$done of ${#stories[@]}: $story" >&2
done

judges=(${CLIP:+--clip "$CLIP"})
[ "$MODEL" != toyland ] || judges+=(--judge toyland)
results=()
for variant in $VARIANTS; do
  json=$OUT/$variant.json
  if [ ! -s "$json" ] || [ "$(cat "$json.by")" != "${judges[*]}" ] || [ -n "$(find "$OUT/$variant" -name '*.mp4' -newer "$json" | head -n 1)" ]; then
    "$VIDGEN" eval "$OUT/$variant" --json "${judges[@]}" > "$json.part" && mv "$json.part" "$json"
    echo "${judges[*]}" > "$json.by"
  fi
  results+=("$json")
done
echo "$settings" | tee "$OUT/table.txt"
"$VIDGEN" eval "${results[@]}" --means | tee -a "$OUT/table.txt"
exit $broken

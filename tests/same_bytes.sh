#!/usr/bin/env bash
# Whether two builds make the same frames: five commands on the embedded model with each, frames as PNG, compared byte for
# byte. For a change that must not move anything; not part of `make test`, since it needs the build before.
#
#   tests/same_bytes.sh OLD_VIDGEN NEW_VIDGEN [FOLDER]
#
# Prints a line for each command and ends with 1 where a frame differs.
set -euo pipefail
old=$(realpath "$1") new=$(realpath "$2")
work=${3:-$(mktemp -d)}
mkdir -p "$work/home"
work=$(realpath "$work")
export HOME="$work/home" VIDGEN_PROGRESS=none
cd "$work"

ball="a red ball rolls to the right in a green meadow on a sunny day"
seasons=("-p" "a red ball rests in the snow in the evening" "-p" "a red ball rests in the desert on a sunny day")
cat > jobs.jsonl <<'JOBS'
{"id": "one", "command": "generate", "prompt": "a blue box rests on a beach at night", "seed": 3, "steps": 4, "output": "one/"}
{"id": "two", "prompt": ["a green star bounces in a city", "a pink star bounces in a city"], "seed": 4, "steps": 4, "output": "two/"}
JOBS
[ -e clip.mp4 ] || "$old" generate "$ball" --seed 5 --steps 4 --frames 33 -o clip.mp4 > /dev/null

render() { # build, folder
  mkdir -p "$2"
  "$1" generate "$ball" --seed 1 -y -o "$2/generate/" > /dev/null
  "$1" multi-prompt "${seasons[@]}" --seed 2 --attn-proc kv-share:layers=2-5,steps=0-6 --subject "red ball" -y -o "$2/multi-prompt/" > /dev/null
  "$1" extend clip.mp4 "a red ball rests on a beach" --seed 3 --steps 6 --duration 5s -y -o "$2/extend/" > /dev/null
  "$1" edit "$ball" --swap "red=>blue" --seed 1 -y -o "$2/edit/" > /dev/null
  "$1" batch jobs.jsonl --output-root "$2/batch" -y > /dev/null
}

render "$old" old
render "$new" new
differing=0
for command in generate multi-prompt extend edit batch; do
  frames=$(find "old/$command" -name '*.png' | wc -l)
  if [ "$frames" -gt 0 ] && diff -rq --exclude='*.json' "old/$command" "new/$command" > "$command.diff"; then
    echo "$command: $frames frames, the same bytes"
  else
    echo "$command: $frames frames, $(wc -l < "$command.diff") differ"
    differing=1
  fi
done
exit $differing

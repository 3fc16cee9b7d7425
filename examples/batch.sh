#!/bin/sh
# Six videos from one file: two prompts, three seeds each, with one load of every network.
#
#   examples/batch.sh [DIRECTORY]      default: out/batch; VIDGEN is the program
#
# Run it again: what is finished is left alone.
set -eu
vidgen=${VIDGEN:-vidgen}
out=${1:-out/batch}
mkdir -p "$out"

# a list for a key that takes one value makes a job of each value
cat > "$out/jobs.toml" <<'JOBS'
[defaults]
frames = 25

[[job]]
id = "ball"
prompt = "a red ball rolls to the right in a green meadow on a sunny day"
seed = [1, 2, 3]

[[job]]
id = "car"
prompt = "a blue car travels along the city street at night"
seed = [1, 2, 3]
JOBS

"$vidgen" batch "$out/jobs.toml" --output-root "$out" --dry-run    # every mistake in the file is told here
"$vidgen" batch "$out/jobs.toml" --output-root "$out"

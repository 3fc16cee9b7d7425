#!/bin/sh
# Which guidance scale shows best what a prompt asks for? A sweep, measured with `eval`.
#
#   examples/sweep.sh [DIRECTORY]      default: out/sweep; VIDGEN is the program
set -eu
vidgen=${VIDGEN:-vidgen}
out=${1:-out/sweep}
prompt="a yellow star bounces in the snow at sunset"

# jobs as JSON lines through a pipe: a directory for each value, three seeds in each
for scale in 1 2.5 6; do
    for seed in 1 2 3; do
        echo "{\"id\": \"g$scale-s$seed\", \"prompt\": \"$prompt\", \"guidance_scale\": $scale, \"seed\": $seed, \
\"output\": \"guidance-$scale/$seed.mp4\"}"
    done
done | "$vidgen" batch - --output-root "$out"

# one row for each directory: what the judge sees of the prompt, and how evenly the frames follow each other.
# With --json instead of --means it is for programs, with --fail-below judge=0.9 a check that ends with exit code 7.
"$vidgen" eval "$out"/guidance-*/ --judge toyland --means

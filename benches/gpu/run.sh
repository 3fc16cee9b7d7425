#!/usr/bin/env bash
# Runs items of the GPU checklist (README.md beside this file), each in a process of its own: run.sh 1 2 4, or run.sh all.
#
#   VIDGEN=target/cuda/release/vidgen   the program, as make cuda makes it; with SMOKE target/release/vidgen
#   OUT=out/gpu                    itemN.md and itemN.json go there
#   WORK=/tmp                      random models are made under it, once: 14 GB for 2B, 13 GB for 5B
#   PYTHON=python3                 with torch, diffusers, transformers, accelerate, safetensors, sentencepiece
#   DEVICE=cuda                    as --device
#   ROUNDS=3                       rounds of the items that compare
#   REFERENCE_STEPS=10             steps of item 3's reference that are measured
#   SMOKE=                         1: small models on the CPU, to see that the scripts work
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
items=([1]=parity [2]=clip [3]=windows [4]=parts [5]=kernels [6]=offload)

fail() { echo "error: $*" >&2; exit 2; }
[ $# -gt 0 ] || fail "say which items: 1 to 6, or all"
[ "$1" != all ] || set -- "${!items[@]}"
for item in "$@"; do
  [[ $item =~ ^[1-6]$ ]] || fail "$item: no such item; there are 1 to 6, or all"
done
[ "${SMOKE:-0}" != 0 ] && build='' target=build || build=cuda/ target=cuda
vidgen=${VIDGEN:-$here/../../target/${build}release/vidgen}
[ -x "$vidgen" ] || fail "$vidgen: no such program; make $target makes it, VIDGEN names another"
VIDGEN=$(cd "$(dirname "$vidgen")" && pwd)/$(basename "$vidgen")
"$PYTHON" -c 'import accelerate, diffusers, safetensors, torch, transformers' 2>/dev/null ||
  fail "$PYTHON lacks one of torch, diffusers, transformers, accelerate, safetensors; PYTHON names another"
if [ "$target" = cuda ]; then
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || fail "no CUDA device answers; SMOKE=1 tries the scripts without"
fi
export VIDGEN

failed=()
for item in "$@"; do
  echo "item $item: ${items[$item]}" >&2
  "$PYTHON" "$here/${items[$item]}.py" || failed+=("$item")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }

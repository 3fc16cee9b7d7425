#!/usr/bin/env bash
# Whether NVIDIA's assembler takes the PTX in the repository, for the GPUs it is meant for; needs no GPU. Says so and does nothing
# where there is no ptxas (on PATH, under CUDA_HOME, or that of `make cuda CUDA_TOOLKIT=pypi`).
set -euo pipefail
cd "$(dirname "$0")/.."
for ptxas in "${CUDA_HOME:-}/bin/ptxas" target/cuda-toolkit/site/nvidia/cu13/bin/ptxas "$(command -v ptxas || true)"; do
  if [ -x "$ptxas" ]; then break; fi
done
if [ ! -x "$ptxas" ]; then
  echo "cuda-check: SKIPPED: no ptxas; install the CUDA toolkit, or run scripts/cuda-toolkit.sh" >&2
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xzf crates/nn/src/cuda/kernels/ptx.tar.gz -C "$work"
count=0
for file in "$work"/*.ptx; do
  arch=${file%.ptx}
  if ! said=$("$ptxas" -v -arch="${arch##*.}" "$file" -o /dev/null 2>&1); then
    printf 'cuda-check: %s\n%s\n' "${file##*/}" "$said" >&2
    exit 1
  fi
  # registers that do not fit go to memory: right, but slow
  if grep -q '[1-9][0-9]* bytes spill' <<<"$said"; then
    echo "cuda-check: ${file##*/}: $(grep -o '[0-9]* bytes spill stores' <<<"$said")" >&2
  fi
  count=$((count + 1))
done
echo "cuda-check: $count kernels, each taken by $("$ptxas" --version | tail -n 1)"

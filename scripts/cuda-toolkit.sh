#!/usr/bin/env bash
# Puts a CUDA 13.0 compiler and the libraries of a CUDA build under $1 (default: target/cuda-toolkit), from PyPI's wheels, and
# prints the environment to build with. It needs python3 with pip; neither a GPU nor a system toolkit. `make cuda
# CUDA_TOOLKIT=pypi` uses it. With `--cudnn` cuDNN comes as well (feature `cudnn`).
set -euo pipefail
cd "$(dirname "$0")/.."
cudnn=
if [ "${1:-}" = --cudnn ]; then
  cudnn=nvidia-cudnn-cu13
  shift
fi
root=${1:-$PWD/target/cuda-toolkit}
cu=$root/site/nvidia/cu13
if [ ! -e "$root/.done$cudnn" ]; then
  mkdir -p "$root"
  # shellcheck disable=SC2086
  python3 -m pip install -q --disable-pip-version-check --root-user-action ignore --target "$root/site" --upgrade \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-nvvm==13.0.*' \
    'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.0.*' $cudnn >&2
  ln -sfn lib "$cu/lib64"
  touch "$root/.done$cudnn"
fi
cat <<ENV
export CUDA_HOME='$cu' CUDA_PATH='$cu' CUDA_ROOT='$cu' CUDA_TOOLKIT_ROOT_DIR='$cu'
export PATH='$cu/bin':"\$PATH"
ENV

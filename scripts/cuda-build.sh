#!/usr/bin/env bash
# Runs cargo for a CUDA build, into target/cuda: cuda-build.sh build --release --features cuda (which is `make cuda`)
#
# The toolkit is that of the nvcc on PATH or under CUDA_HOME; with CUDA_TOOLKIT=pypi one from PyPI's wheels. CUDA_COMPUTE_CAP
# says for which GPUs candle's kernels are compiled: 80 (the default) serves every GPU from Ampere on, the driver compiles
# the rest of the way.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${CUDA_TOOLKIT:-}" = pypi ]; then
  case "$*" in *cudnn*) eval "$(scripts/cuda-toolkit.sh --cudnn)" ;; *) eval "$(scripts/cuda-toolkit.sh)" ;; esac
elif [ -x "${CUDA_HOME:-}/bin/nvcc" ]; then
  export PATH="$CUDA_HOME/bin:$PATH"
elif command -v nvcc >/dev/null 2>&1; then
  CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
  export CUDA_HOME
else
  echo "cuda: no nvcc on PATH nor under CUDA_HOME: install NVIDIA's CUDA toolkit (12 or 13), or say" >&2
  echo "  make cuda CUDA_TOOLKIT=pypi    which takes the compiler and libraries of CUDA 13.0 from PyPI (1.2 GB, in target)" >&2
  exit 1
fi
nvcc --version | sed -n 's/^Cuda compilation tools, /cuda: nvcc /p' >&2

export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
# The toolkit as the build scripts of the dependencies see it: the compiler, but libraries that a missing driver does not stop.
home=$PWD/target/cuda-home
mkdir -p "$home/lib"
python3 scripts/cuda-link.py "$CUDA_HOME" "$home/lib"
ln -sfn lib "$home/lib64"
for part in bin include nvvm targets; do
  if [ -e "$CUDA_HOME/$part" ]; then ln -sfn "$CUDA_HOME/$part" "$home/$part"; fi
done
export CUDA_HOME=$home CUDA_PATH=$home CUDA_ROOT=$home CUDA_TOOLKIT_ROOT_DIR=$home NVCC=$home/bin/nvcc
exec cargo "$1" --locked --target-dir target/cuda "${@:2}"

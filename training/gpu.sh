#!/usr/bin/env bash
# Trains on a lent GPU machine, in calls of a few minutes: pairs of a stage and its minutes.
#
#   training/gpu.sh vae 8.5
#   training/gpu.sh transformer 8.5
#   training/gpu.sh transformer 6.5 judge 0.7 evaluate 1
#
# What a call leaves in $OUT (default training/out; at most 8 files, each under 16 MiB) goes into training/state before the
# next call, which continues from there. To continue a transformer, vae.tar, raw, ema and adam.safetensors and
# transformer-state.json are enough (35 MB); transformer.tar is the result. VAE_TOTAL and TRANSFORMER_TOTAL are the minutes of all calls of a stage together:
# the learning rate follows them. Extra flags: VAE_FLAGS, TRANSFORMER_FLAGS, JUDGE_FLAGS, EVALUATE_FLAGS.
# Packages that the machine lacks (diffusers) travel as wheels in .whl at the root of the repository.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out} state=$here/state work=${WORK:-$here/work}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONPATH=/tmp/toyland-site${PYTHONPATH:+:$PYTHONPATH}
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$out" "$work/model" "$work/state/vae" "$work/state/transformer"

if ! "$python" -c 'import diffusers' 2>/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/toyland-site "$here"/../.whl/*.whl
fi
for file in "$state"/{vae,vae-state,transformer,judge}.tar; do
  if [ -f "$file" ]; then tar -xf "$file" -C "$work"; fi
done
for name in raw ema adam; do
  if [ -f "$state/$name.safetensors" ]; then cp "$state/$name.safetensors" "$work/state/transformer/"; fi
done
if [ -f "$state/transformer-state.json" ]; then cp "$state/transformer-state.json" "$work/state/transformer/state.json"; fi

# Files in $OUT come back even when the call runs out of time, so they are renewed as the training saves.
pack() {
  take() { if [ -f "$work/$1" ]; then cp "$work/$1" "$out/.part" && mv "$out/.part" "$out/$2"; fi; }
  put() { if [ -e "$work/$2" ]; then tar -cf "$out/.$1" -C "$work" "${@:2}" && mv "$out/.$1" "$out/$1"; fi; }
  case $1 in
    vae) put vae-state.tar state/vae; put vae.tar model/vae ;;
    transformer)
      for name in raw ema adam; do take "state/transformer/$name.safetensors" "$name.safetensors"; done
      take state/transformer/state.json transformer-state.json
      put transformer.tar model/transformer model/text_encoder model/tokenizer model/scheduler model/model_index.json ;;
    judge) put judge.tar judge ;;
    evaluate) put evaluate.tar evaluate ;;
  esac
}

run() {
  local stage=$1; shift
  (while sleep 50; do pack "$stage" || true; done) >/dev/null 2>&1 &
  local packer=$!
  echo "== $stage: $*"
  "$python" "$@" 2>&1 | tee -a "$out/log.txt" || { kill $packer; pack "$stage"; exit 1; }
  kill $packer; wait $packer 2>/dev/null || true
  pack "$stage"
}

while [ $# -ge 2 ]; do
  stage=$1 minutes=$2; shift 2
  case $stage in
    vae)
      run vae "$here/train_vae.py" --out "$work/model" --state "$work/state/vae" --minutes "$minutes" \
        --total "${VAE_TOTAL:-$minutes}" --resume ${VAE_FLAGS:-} ;;
    transformer)
      run transformer "$here/train_transformer.py" --vae "$work/model/vae" --out "$work/model" --state "$work/state/transformer" \
        --minutes "$minutes" --total "${TRANSFORMER_TOTAL:-12.5}" --resume --compile --refresh 40 ${TRANSFORMER_FLAGS:-} ;;
    judge)
      run judge "$here/train_judge.py" --out "$work/judge" --minutes "$minutes" --frames 40000 --batch 256 \
        --vae "$work/model/vae" --reconstructed 400 ${JUDGE_FLAGS:-}
      run judge "$here/train_judge.py" --out "$work/judge" --evaluate 2000 --vae "$work/model/vae" --reconstructed 200 ;;
    evaluate)
      judge=$work/judge; [ -f "$judge/model.safetensors" ] || judge=$here/../models/toyland-judge
      run evaluate "$here/evaluate.py" --model "$work/model" --judge "$judge" --out "$work/evaluate" --videos 128 \
        --steps 6 8 10 12 16 --guidance 2 4 6 ${EVALUATE_FLAGS:-} ;;
    bench) # which of the fast modes pay on this machine; the last lines of each run show steps per second
      VAE="$here/train_vae.py --out $work/bench --steps 150 --evaluate 1"
      run bench $VAE; run bench $VAE --channels-last; run bench $VAE --eager
      for flag in "" --compile; do
        run bench "$here/train_transformer.py" --vae "$work/bench/vae" --out "$work/bench" --steps 100 --bank 512 $flag
      done ;;
    *) echo "unknown stage $stage: vae, transformer, judge, evaluate or bench" >&2; exit 2 ;;
  esac
done
ls -l "$out"

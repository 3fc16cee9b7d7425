#!/usr/bin/env bash
# Every stage end to end, tiny and on the CPU, each twice where it can resume. A few minutes; nothing it makes is any good.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
out=${1:-$(mktemp -d)}
export OMP_WAIT_POLICY=PASSIVE KMP_BLOCKTIME=0
tiny="--size 32 48 --steps 3"
"$python" "$here/test_training.py" -q
for resume in "" --resume; do
  "$python" "$here/train_vae.py" --out "$out" $tiny --batch 2 --evaluate 1 $resume
done
for resume in "" --resume; do
  "$python" "$here/train_transformer.py" --vae "$out/vae" --out "$out" $tiny --batch 4 --bank 8 --bank-file "$out/bank" --short 0.5 --refresh 2 $resume
done
for resume in "" --resume; do
  "$python" "$here/train_vae.py" --start "$out/vae" --anchor 0.5 --muon --out "$out/again" $tiny --batch 2 --evaluate 1 $resume
done
"$python" "$here/train_transformer.py" --start "$out" --vae "$out/again/vae" --out "$out/again" $tiny --batch 2 --frames 9 --bank 4 --stills 4 --muon --check --read-at 2 --least 50
"$python" "$here/train_judge.py" --out "$out/judge" --steps 3 --frames 64 --clips 8 --batch 8
"$python" "$here/train_judge.py" --out "$out/judge" --steps 2 --frames 64 --clips 8 --batch 8 --resume
"$python" "$here/train_judge.py" --out "$out/judge" --evaluate 8
"$python" "$here/evaluate.py" --model "$out" --judge "$out/judge" --videos 4 --steps 2 --frames 9 --size 32 48 --schedulers ddim dpm --out "$out"
echo "all stages ran: $out"

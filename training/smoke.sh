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
for resume in "" --resume; do
  "$python" "$here/train_image_vae.py" --video "$out/vae" --out "$out/image" $tiny --batch 4 --evaluate 16 $resume
done
"$python" "$here/train_image_vae.py" --decoder "$out/image/vae" --out "$out/image/decoder" $tiny --batch 4 --evaluate 16
few="--bank 16 --first 8 --grow 4 --batch 4"
for resume in "" --resume; do
  "$python" "$here/train_image.py" --vae "$out/image/vae" --out "$out/image" $tiny $few --bank-file "$out/stills" $resume
  "$python" "$here/train_control.py" --out "$out/image" $tiny $few $resume
  "$python" "$here/train_instruct.py" --out "$out/image" $tiny $few $resume
done
for kind in text control instruct; do
  "$python" "$here/evaluate_image.py" --model "$out/image" $kind --judge "$out/judge" --captions 4 --steps 2 --size 32 48 --sheet "$out/$kind.png"
done
for resume in "" --resume; do
  "$python" "$here/train_video_unet.py" --image "$out/image" --out "$out/video" $tiny $few --batch 2 --bank-file "$out/clips" $resume
  "$python" "$here/train_image_encoder.py" --out "$out/stream" $tiny $few $resume
  "$python" "$here/train_stream.py" --base "$out/video" --encoder "$out/stream/image_encoder" --out "$out/stream" --fit 3 $tiny $few --batch 2 $resume
done
for resume in "" --resume; do
  "$python" "$here/train_subject.py" --base "$out/video" --out "$out/subject" $tiny $few --batch 2 $resume
  "$python" "$here/train_stiv.py" --image "$out/image" --out "$out/stiv" --heads 2 --head 8 --layers 2 $tiny --bank 8 --first 4 --grow 2 --batch 2 $resume
done
"$python" "$here/evaluate_subject.py" --model "$out/subject" --judge "$out/judge" --captions 4 --steps 2 --size 32 48
for kind in text image tasks; do
  "$python" "$here/evaluate_stiv.py" --model "$out/stiv" $kind --judge "$out/judge" --captions 4 --steps 2 --size 32 48
done
"$python" "$here/dreamvideo2/test_dreamvideo2.py"
"$python" "$here/evaluate_video.py" --model "$out/video" clip --judge "$out/judge" --captions 4 --steps 2 --size 32 48 --sheet "$out/clip.png"
"$python" "$here/evaluate_video.py" --model "$out/stream" stream --judge "$out/judge" --captions 4 --chunks 3 --steps 2 --size 32 48 --sheet "$out/stream.png"
"$python" "$here/evaluate_video.py" --model "$out/stream" denoise --captions 4 --size 32 48
echo "all stages ran: $out"

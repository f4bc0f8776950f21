#!/usr/bin/env bash
# Everything of the training floor that needs a GPU, in one go: tests, the loop's share of a step,
# and, if an image folder of CIFAR-10 is given, the fast recipe on it.
#
#   bench/on_gpu.sh RESULTS_FOLDER [IMAGE_FOLDER]
#
# Needs an environment with scotoma's dependencies. Results are JSON lines, logs and run folders.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
images=${2:+$(cd "$2" && pwd)}
cd "$(dirname "$0")/.."
python3 -m pip install --quiet --no-deps --no-build-isolation -e . || exit
status=0

python3 -m pytest -m gpu tests -rs 2>&1 | tee "$out/gpu-tests.log" || status=1
for batch in 128 512; do
    for precision in bfloat16 float16; do
        python3 -m scotoma.bench.loop_overhead --device cuda --batch-size $batch \
            --precision $precision | tee -a "$out/loop-overhead.jsonl" || status=1
    done
done
if [ -n "$images" ]; then
    for defects in standard 0.3-Bottom; do
        python3 -m scotoma.train --dataset "$images" --defects $defects --recipe fast-cifar10 \
            --out "$out/runs" --name "$defects" || status=1
        rm -f "$out/runs/$defects/resume.pt" "$out/runs/$defects/best.safetensors"
    done
fi
exit $status

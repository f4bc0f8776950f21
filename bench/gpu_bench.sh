#!/usr/bin/env bash
# Everything that is measured on an NVIDIA GPU, most important first, as far as the time goes.
#
#   bench/gpu_bench.sh [RESULTS_FOLDER [IMAGE_FOLDER]]        default: bench/results/<device>
#
# With an image folder of CIFAR-10 (train/<class>/*, test/<class>/*) also the paper's tables at the
# quick budget (ResNet-18 rows; PAPER names them), and training to an accuracy.
#
# Environment:
#   PYTHON   interpreter that has scotoma's dependencies (python3)
#   STAGES   which to run (as below, in this order); those from "others" on are long
#   BUDGET   seconds for all of them (3600); every measurement starts nothing that would end later
#
# Exit status: as gpu_check.sh.
set -uo pipefail
stages=${STAGES:-install doctor tests step profile max layers roofline attacks loop paper convergence reference others works tuned report}
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
images=${2:+$(cd "$2" && pwd)}
begin gpu-bench "${1:-}" "${BUDGET:-3600}"

# measure NAME SECONDS VERB OPTIONS...: a stage that stops by itself in time.
measure() {
    local title=$1 limit=$2 verb=$3 left
    shift 3
    left=$(remaining)
    ((limit = limit < left - 20 ? limit : left - 20))
    stage "$title" $((limit + 15)) "$python" -m "scotoma.bench.$verb" "$@" \
        --budget-seconds $((limit > 1 ? limit : 1))
}

stage doctor 60 "$python" -m scotoma.bench.doctor
stage tests 240 "$python" -m pytest -m "gpu and not slow" -rs tests/train tests/bench
# ResNet-18 first: what the kernels and the graph gain, without the slow search for tiles.
quick=(eager compile fused eager-graph compile-graph fused-graph fused-compile fused-compile-graph)
measure step 420 step --networks resnet18 --work train --batch 512 128 \
    --contestants "${quick[@]}" --out "$out/step.jsonl"
for batch in 128 512; do
    stage profile-$batch 90 "$python" -m scotoma.bench.profiling resnet18 --defects 0.3-Bottom \
        --batch $batch --contestants eager fused fused-graph \
        --out "$out/profile/resnet18-0.3-Bottom-b$batch-train"
done
measure max 540 step --networks resnet18 --work train --batch 512 --out "$out/step.jsonl" \
    --contestants eager max-autotune max-autotune-graph fused-graph fused-compile-graph
measure layers 540 layers --sites networks --out "$out/layers.jsonl" \
    --contestants ours eager eager-fp16 compile released
measure roofline 240 roofline --out "$out/roofline.jsonl"
if "$python" -c 'import foolbox' 2>/dev/null; then
    measure attacks 600 attacks --out "$out/attacks.jsonl"
fi
for batch in 128 512; do
    stage loop-$batch 60 "$python" -m scotoma.bench.loop_overhead --device cuda --batch-size $batch
done
if [ -n "$images" ]; then
    # What is finished when the time is over is kept in the results, and the next call goes on.
    stage paper 1500 "$python" -m scotoma.train paper ${PAPER:-table5 table10 table12 figure4 figure5} \
        --budget quick --images source --data "cifar10=$images" --out "$out/paper"
    stage paper-table4 900 "$python" -m scotoma.train paper table4 --rows "ResNet-18*" \
        --budget quick --data "cifar10=$images" --out "$out/paper"
    for defects in standard 0.3-Bottom; do
        measure convergence-$defects 540 convergence --dataset "$images" --recipe fast-cifar10 --seeds 3 \
            --defects $defects --contestants eager fused-graph --out "$out/convergence.jsonl"
    done
fi
# What most training scripts do; workers need cores.
measure reference 120 step --networks resnet18 --work train --batch 128 512 \
    --contestants eager reference --out "$out/step.jsonl"
measure others 1500 step --networks resnet50 densenet121 senet18 vgg19 wrn32_4 --work train \
    --batch 512 --contestants eager compile fused fused-graph fused-compile-graph \
    --out "$out/step.jsonl"
measure works 1200 step --networks resnet18 --work evaluate pgd --batch 512 128 \
    --contestants eager compile fused fused-conv fused-graph compile-graph --out "$out/step.jsonl"
measure tuned 600 layers --sites headline --mode both --out "$out/layers.jsonl"
stage report 60 "$python" -m scotoma.bench.report "$out" --out "$out/report.md" \
    --html "$out/report.html"
finish

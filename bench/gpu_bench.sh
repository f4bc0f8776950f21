#!/usr/bin/env bash
# Everything that is measured on an NVIDIA GPU, most important first, in calls of ten minutes: each
# goes on where the last one ended, until all is measured at this commit.
#
#   bench/gpu_bench.sh [RESULTS_FOLDER [IMAGE_FOLDER]]        default: bench/results/<device>
#
# With an image folder of CIFAR-10 (train/<class>/*, test/<class>/*) also the paper's tables at the
# quick budget (ResNet-18 rows; PAPER names them), and training to an accuracy.
#
# Leaves everything in the folder, and an archive of it beside it: RESULTS_FOLDER-gpu-bench.tar.gz.
# On a machine that forgets, unpack that first, and the call goes on with it. Which stages are
# finished stands in gpu-bench/finished.txt there: without it all run again, and measure what rows
# lack.
#
# Environment:
#   PYTHON   interpreter that has what gpu_check.sh needs (python3)
#   STAGES   which to run (as below, in this order)
#   BUDGET   seconds for this call (560); every measurement starts nothing that would end later
#
# Exit status: as gpu_check.sh; 1 also as long as something is not finished.
set -uo pipefail
stages=${STAGES:-doctor tests step profile max layers roofline attacks loop paper convergence reference others works tuned report}
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
images=${2:+$(cd "$2" && pwd)}
begin gpu-bench "${1:-}" "${BUDGET:-560}"
marks=$logs/finished.txt

# Seconds for a stage that goes on in the next call: all but a minute for the page, or none.
long() {
    local left=$(($(remaining) - 60))
    echo $((left < 90 ? 0 : left))
}

# measure NAME VERB OPTIONS...: a long stage that stops by itself.
measure() {
    local title=$1 verb=$2 limit code
    limit=$(long)
    shift 2
    stage "$title" "$limit" "${scotoma[@]}" bench "$verb" "$@" \
        --resume --time-limit $((limit > 20 ? limit - 15 : 1))
    code=$?
    # A single case that takes longer than a call must not stop all that follow for ever.
    if ((code == 124 || code == 137)) && ((2 * limit > budget)); then
        mark "$title" "out of time"
    fi
}

advice doctor 60 "${scotoma[@]}" doctor
if needs tests jsonargparse yaml pandas; then
    tests tests 240 -m "gpu and not slow" -rs tests/train tests/bench
fi
# ResNet-18 first: what the kernels and the graph gain, without the slow search for tiles.
quick=(eager compile fused eager-graph compile-graph fused-graph fused-compile fused-compile-graph)
measure step step --networks resnet18 --work train --batch 512 128 \
    --contestants "${quick[@]}" --out "$out/step.jsonl"
for batch in 128 512; do
    stage profile-$batch 90 "${scotoma[@]}" profile resnet18 --defects 0.3-Bottom \
        --batch $batch --contestants eager fused fused-graph \
        --out "$out/profile/resnet18-0.3-Bottom-b$batch-train"
done
measure max step --networks resnet18 --work train --batch 512 --out "$out/step.jsonl" \
    --contestants eager max-autotune max-autotune-graph fused-graph fused-compile-graph
measure layers layers --sites networks --out "$out/layers.jsonl" \
    --contestants ours eager eager-fp16 compile released
measure roofline roofline --out "$out/roofline.jsonl"
if needs attacks foolbox; then
    measure attacks attacks --out "$out/attacks.jsonl"
fi
if needs loop jsonargparse yaml; then
    for batch in 128 512; do
        stage loop-$batch 60 "${scotoma[@]}" bench overhead --loop --device cuda \
            --batch-size $batch
    done
fi
if [ -z "$images" ]; then
    for each in paper convergence; do skip $each "no image folder is given"; done
else
    # What is finished when the time is over is kept in the results.
    if needs paper jsonargparse yaml torchvision; then
        paper=("${scotoma[@]}" paper --budget quick --data "cifar10=$images")
        paper+=(--out "$out/paper")
        stage paper "$(long)" "${paper[@]}" ${PAPER:-table5 table10 table12 figure4 figure5} \
            --images source
        stage paper-table4 "$(long)" "${paper[@]}" table4 --rows "ResNet-18*"
    fi
    if needs convergence jsonargparse yaml; then
        for defects in standard 0.3-Bottom; do
            measure convergence-$defects convergence --dataset "$images" --recipe fast-cifar10 \
                --seeds 3 --defects $defects --contestants eager fused-graph \
                --out "$out/convergence.jsonl"
        done
    fi
fi
# What most training scripts do; workers need cores.
if needs reference torchvision; then
    measure reference step --networks resnet18 --work train --batch 128 512 \
        --contestants eager reference --out "$out/step.jsonl"
fi
measure others step --networks resnet50 densenet121 senet18 vgg19 wrn32_4 --work train --batch 512 \
    --contestants eager compile fused fused-graph fused-compile-graph --out "$out/step.jsonl"
measure works step --networks resnet18 --work evaluate pgd --batch 512 128 \
    --contestants eager compile fused fused-conv fused-graph compile-graph --out "$out/step.jsonl"
measure tuned layers --sites headline --mode both --out "$out/layers.jsonl"
# From what there is.
marks= stage report 60 "${scotoma[@]}" bench report "$out" --out "$out/report.md" \
    --html "$out/report.html"
finish

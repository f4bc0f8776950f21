#!/usr/bin/env bash
# Whether the kernels are right on an NVIDIA GPU, in under ten minutes: tests, compute-sanitizer,
# and a first look at the layer benchmark. gpu_bench.sh measures the rest.
#
#   bench/gpu_check.sh [RESULTS_FOLDER]        default: bench/results/<device>
#
# Leaves everything in the folder, and an archive of it beside it: RESULTS_FOLDER-gpu-check.tar.gz
#
# Needs torch, triton, numpy, einops, safetensors, rich, matplotlib, tensorboard, pytest and
# hypothesis; what needs more is skipped, with a reason. scotoma itself need not be installed.
#
# Environment:
#   PYTHON   interpreter that has them (python3)
#   STAGES   which to run (as below)
#   BUDGET   seconds for all of them (560)
#
# Exit status: 0; 1 if a stage failed or ran out of time; 2 if this Python lacks something; 77
# without a GPU, where nothing is checked.
set -uo pipefail
stages=${STAGES:-doctor tests large sanitize memcheck racecheck layers}
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
begin gpu-check "${1:-}" "${BUDGET:-560}"

advice doctor 60 "${scotoma[@]}" doctor
folders=(tests/kernels tests/defective)
# Tensors of gigabytes come alone.
tests tests 190 -m "gpu and not slow" -rs -k "not beyond_2_to_the_31" "${folders[@]}"
stage large 40 "$python" -m pytest -m "gpu and not slow" -rs -k beyond_2_to_the_31 "${folders[@]}"
# Once without the sanitizer: results are compared, and its kernels are compiled before.
stage sanitize 50 "$python" -m scotoma.bench.sanitize
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage $tool 70 compute-sanitizer --tool $tool \
            --error-exitcode 9 "$python" -m scotoma.bench.sanitize
    elif wanted $tool; then
        status=1
        summary+=("$tool: not run, compute-sanitizer is not on the PATH")
    fi
done
seconds=$(($(remaining) - 10))
# It starts no site that would end later than half a minute before the limit.
stage layers "$seconds" "${scotoma[@]}" bench layers --out "$out/layers.jsonl" \
    --contestants ours eager eager-fp16 compile --sites headline \
    --time-limit $((seconds > 60 ? seconds - 30 : seconds > 1 ? seconds : 1))
finish

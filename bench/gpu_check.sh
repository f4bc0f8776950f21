#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU to be known about the kernels, in under ten minutes: tests,
# compute-sanitizer, the layer benchmark.
#
#   bench/gpu_check.sh [RESULTS_FOLDER]        default: bench/results/<device>
#
# Environment:
#   PYTHON   interpreter that has scotoma's dependencies (python3)
#   STAGES   which to run ("install tests large sanitize memcheck racecheck layers")
#   BUDGET   seconds for all of them (570); the layer benchmark gets what the others leave
#
# A failed stage does not stop the later ones. Exit status: 0; 1 if a stage failed or ran out of
# time; 2 if this Python lacks something; 77 without a GPU, where nothing is checked.
set -uo pipefail

python=${PYTHON:-python3}
stages=${STAGES:-install tests large sanitize memcheck racecheck layers}
budget=${BUDGET:-570}
case $python in */*) python=$(realpath --no-symlinks "$python") ;; esac
given=${1:+$(mkdir -p "$1" && cd "$1" && pwd)}
cd "$(dirname "$0")/.." || exit 2
export PYTHONUNBUFFERED=1

"$python" -c 'import torch, triton, rich' || {
    echo "gpu-check: $python lacks torch, triton or rich; set PYTHON to one that has them" >&2
    exit 2
}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu-check: no NVIDIA GPU on this machine (torch sees none): nothing was checked" >&2
    exit 77
}

remaining() { echo $((budget - SECONDS)); }
status=0
summary=()

# stage NAME SECONDS COMMAND...: runs it if wanted and time is left, keeps its output and verdict.
stage() {
    local name=$1 limit=$2 start=$SECONDS code verdict
    shift 2
    [[ " $stages " == *" $name "* ]] || return 0
    ((limit = limit < $(remaining) ? limit : $(remaining)))
    if ((limit < 5)); then
        status=1
        summary+=("$name: not run, no time left")
        return 1
    fi
    echo "== $name (at most $limit s): $*"
    # Interrupted first, so that Python can say what was done until then.
    timeout --signal=INT --kill-after=5 "$limit" "$@" 2>&1 | tee "${out:-/tmp}/$name.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=ok ;;
        124 | 137) verdict="out of time" ;;
        *) verdict="FAILED (status $code)" ;;
    esac
    ((code == 0)) || status=1
    summary+=("$name: $verdict, $((SECONDS - start)) s")
    return "$code"
}

# A name that no path hides: an editable install of this very folder.
installed() {
    (cd / && "$python" -c 'import pathlib, sys, scotoma
sys.exit(pathlib.Path(scotoma.__file__).parent.resolve() != pathlib.Path(sys.argv[1]).resolve())' \
        "$OLDPWD") 2>/dev/null
}
if [[ " $stages " == *" install "* ]] && ! installed; then
    stage install 60 "$python" -m pip install --quiet --no-deps --no-build-isolation -e .
fi
installed || {
    echo "gpu-check: scotoma is not installed from $PWD: $python -m pip install --no-deps -e ." >&2
    exit 2
}
out=${given:-$("$python" -c 'import torch
from scotoma.bench.results import default_path
print(default_path(torch.cuda.get_device_name(), "layers").parent)')}
mkdir -p "$out" || exit 2

# Most of the tests' time goes into compiling kernels, which processes share out and the cache
# keeps; tensors of gigabytes come alone.
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n 8)
tests=(tests/kernels tests/defective)
stage tests 190 "$python" -m pytest -m "gpu and not slow" -rs -k "not beyond_2_to_the_31" "${parallel[@]}" \
    "${tests[@]}"
stage large 45 "$python" -m pytest -m "gpu and not slow" -rs -k beyond_2_to_the_31 "${tests[@]}"
# Once without the sanitizer: results are compared, and its kernels are compiled before.
stage sanitize 50 "$python" -m scotoma.bench.sanitize
for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage $tool 60 compute-sanitizer --tool $tool \
            --error-exitcode 9 "$python" -m scotoma.bench.sanitize
    elif [[ " $stages " == *" $tool "* ]]; then
        status=1
        summary+=("$tool: not run, compute-sanitizer is not on the PATH")
    fi
done
seconds=$(($(remaining) - 10))
if ((seconds > 0)); then
    # It starts no site that would end later than half a minute before the limit.
    stage layers "$seconds" "$python" -m scotoma.bench.layers --out "$out/layers.jsonl" \
        --budget-seconds $((seconds > 60 ? seconds - 30 : seconds))
else
    stage layers 0
fi

printf '%s\n' "${summary[@]}" | tee "$out/summary.txt" | sed 's/^/gpu-check: /'
echo "gpu-check: results in $out, $SECONDS s"
exit $status

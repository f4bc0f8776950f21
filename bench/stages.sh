# What the scripts for a GPU machine have in common: sourced, not run. See gpu_check.sh.
#
#   begin NAME FOLDER BUDGET     check the machine, choose the results folder ($out), install
#   stage NAME SECONDS COMMAND   run a command if it is wanted ($stages) and time is left
#   finish                       print what happened and exit with its status

begin() {
    name=$1 given=${2:+$(mkdir -p "$2" && cd "$2" && pwd)} budget=$3
    python=${PYTHON:-python3}
    case $python in */*) python=$(realpath --no-symlinks "$python") ;; esac
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
    export PYTHONUNBUFFERED=1
    "$python" -c 'import torch, triton, rich' || {
        echo "$name: $python lacks torch, triton or rich; set PYTHON to one that has them" >&2
        exit 2
    }
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
        echo "$name: no NVIDIA GPU on this machine (torch sees none): nothing was checked" >&2
        exit 77
    }
    status=0
    summary=()
    if wanted install && ! installed; then
        stage install 60 "$python" -m pip install --quiet --no-deps --no-build-isolation -e .
    fi
    installed || {
        echo "$name: scotoma is not installed from $PWD: $python -m pip install --no-deps -e ." >&2
        exit 2
    }
    out=${given:-$("$python" -c 'import torch
from scotoma.bench.results import default_path
print(default_path(torch.cuda.get_device_name(), "layers").parent)')}
    mkdir -p "$out" || exit 2
}

# The name of a stage may have a part of its own after a dash: "profile-128" is wanted by "profile".
wanted() { [[ " $stages " == *" ${1%%-*} "* ]]; }

remaining() { echo $((budget - SECONDS)); }

# A failed stage does not stop the later ones.
stage() {
    local title=$1 limit=$2 start=$SECONDS code verdict
    shift 2
    wanted "$title" || return 0
    ((limit = limit < $(remaining) ? limit : $(remaining)))
    if ((limit < 5)); then
        status=1
        summary+=("$title: not run, no time left")
        return 1
    fi
    echo "== $title (at most $limit s): $*"
    # Interrupted first, so that Python can say what was done until then.
    timeout --signal=INT --kill-after=5 "$limit" "$@" 2>&1 | tee "${out:-/tmp}/$title.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=ok ;;
        124 | 137) verdict="out of time" ;;
        *) verdict="FAILED (status $code)" ;;
    esac
    ((code == 0)) || status=1
    summary+=("$title: $verdict, $((SECONDS - start)) s")
    return "$code"
}

# A name that no path hides: an editable install of this very folder.
installed() {
    (cd / && "$python" -c 'import pathlib, sys, scotoma
sys.exit(pathlib.Path(scotoma.__file__).parent.resolve() != pathlib.Path(sys.argv[1]).resolve())' \
        "$OLDPWD") 2>/dev/null
}

finish() {
    printf '%s\n' "${summary[@]}" | tee "$out/summary-$name.txt" | sed "s/^/$name: /"
    echo "$name: results in $out, $SECONDS s"
    exit $status
}

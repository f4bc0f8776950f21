# What the scripts for a GPU machine have in common: sourced, not run. See gpu_check.sh.
#
#   begin NAME FOLDER BUDGET     check the machine, choose folders of results and logs ($out, $logs)
#   stage NAME SECONDS COMMAND   run a command if it is wanted ($stages) and time is left
#   advice NAME SECONDS COMMAND  the same, but its failure is none of the whole
#   tests NAME SECONDS OPTIONS   pytest, shared out to several processes
#   needs NAME MODULE...         whether a stage is wanted and this Python has what it needs
#   skip NAME REASON             leave a stage out, and say why
#   finish                       print what happened, and exit with its status
#
# $marks may name a file: what an earlier call finished at this commit is then not run again.

begin() {
    name=$1 given=${2:+$(mkdir -p "$2" && cd "$2" && pwd)} budget=$3
    python=${PYTHON:-python3}
    case $python in */*) python=$(realpath --no-symlinks "$python") ;; esac
    scotoma=("$python" -m scotoma.train.cli)
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
    export PYTHONUNBUFFERED=1
    # Under its name, whatever this folder is called and whatever is installed.
    links=$(mktemp -d) && trap leave EXIT && ln -s "$PWD" "$links/scotoma" || exit 2
    export PYTHONPATH=$links${PYTHONPATH:+:$PYTHONPATH}
    local found
    found=$("$python" -c 'import sys, torch, triton
if not torch.cuda.is_available(): sys.exit(77)
from scotoma.bench import harness
print(harness.commit() or "")
print(harness.default_path(torch.cuda.get_device_name(), "layers").parent.resolve())')
    case $? in
        0) ;;
        77)
            echo "$name: no NVIDIA GPU on this machine (torch sees none): nothing was checked" >&2
            exit 77
            ;;
        *)
            echo "$name: $python lacks what is named above; set PYTHON to one that has it" >&2
            exit 2
            ;;
    esac
    # The same for all that follows.
    export SCOTOMA_COMMIT=${found%%$'\n'*}
    out=${given:-${found#*$'\n'}}
    logs=$out/$name
    mkdir -p "$logs" || exit 2
    status=0 unfinished=0 marks=
    summary=()
}

# The name of a stage may have a part of its own after a dash: "profile-128" is wanted by "profile".
wanted() { [[ " $stages " == *" ${1%%-*} "* ]]; }

remaining() { echo $((budget - SECONDS)); }

# A failed stage does not stop the later ones.
stage() {
    local title=$1 limit=$2 start=$SECONDS code verdict
    shift 2
    wanted "$title" || return 0
    verdict=$(marked "$title")
    if [ -n "$verdict" ]; then
        [ "$verdict" = ok ] || status=1
        summary+=("$title: $verdict, in an earlier call")
        return 0
    fi
    if ((limit < 5 || $(remaining) < 5 || $(remaining) < limit / 2)); then
        status=1 unfinished=1
        summary+=("$title: not run, no time left")
        return 1
    fi
    ((limit = limit < $(remaining) ? limit : $(remaining)))
    {
        echo "== $title (at most $limit s): $*"
        # Interrupted first, so that Python can say what was done until then.
        timeout --signal=INT --kill-after=5 "$limit" "$@"
    } 2>&1 | tee -a "$logs/$title.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=ok ;;
        75) verdict="the next call goes on" ;; # scotoma.bench.harness.UNFINISHED
        124 | 130 | 137) verdict="out of time" ;;
        *) verdict="FAILED (status $code)" ;;
    esac
    case $code in
        75 | 124 | 130 | 137) unfinished=1 ;;
        *) mark "$title" "$verdict" ;;
    esac
    ((code == 0)) || status=1
    summary+=("$title: $verdict, $((SECONDS - start)) s")
    return "$code"
}

advice() {
    local before=$status
    stage "$@" || summary[-1]+=", which decides nothing: see $1.log"
    status=$before
}

tests() {
    local title=$1 limit=$2 cores
    shift 2
    cores=$(nproc)
    export -f in_parts
    stage "$title" "$limit" bash -c 'in_parts "$@"' tests "$logs/$title" \
        $((cores < 12 ? cores : 12)) "$python" -m pytest "$@"
}

# in_parts LOGS PARTS COMMAND: at once, each with a part of the tests and a log of its own. Most of
# the time goes into compiling kernels, and Triton's cache keeps those for all.
in_parts() {
    local logs=$1 parts=$2 part code failed=0 pids=()
    shift 2
    trap : INT # an interrupted part has something to say
    for ((part = 1; part <= parts; part++)); do
        SCOTOMA_TEST_PART=$part/$parts "$@" >"$logs-$part.log" 2>&1 &
        pids+=($!)
    done
    for part in "${!pids[@]}"; do
        wait "${pids[part]}"
        code=$?
        ((code == 0 || code == 5)) || failed=1 # 5: there are fewer tests than parts
        cat "$logs-$((part + 1)).log"
    done
    return $failed
}

needs() {
    local title=$1 missing
    shift
    wanted "$title" || return 1
    missing=$("$python" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@")
    [ -z "$missing" ] || skip "$title" "this Python lacks $missing"
}

skip() {
    if wanted "$1"; then summary+=("$1: skipped, $2"); fi
    return 1
}

mark() { [ -z "$marks" ] || echo "$SCOTOMA_COMMIT $1: $2" >>"$marks"; }

marked() {
    [ ! -f "$marks" ] || awk -v start="$SCOTOMA_COMMIT $1: " \
        'index($0, start) == 1 { found = substr($0, length(start) + 1) } END { print found }' \
        "$marks"
}

finish() {
    printf '%s\n' "${summary[@]}" | tee "$logs/summary.txt" | sed "s/^/$name: /"
    if [ -n "$marks" ] && ((unfinished)); then
        echo "$name: not finished; the same command goes on"
    fi
    echo "$name: results in $out, $SECONDS s"
    exit $status
}

# However the script ends. Weights are large, and made again where they are needed.
leave() {
    rm -rf "$links"
    [ -d "${logs:-}" ] || return
    tar czf "$out-$name.tar.gz" --exclude='*.safetensors' --exclude='*.pt' \
        -C "$(dirname "$out")" "$(basename "$out")" && echo "$name: packed as $out-$name.tar.gz"
}

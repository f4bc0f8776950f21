# Read by the scripts beside it, which set FOLDER (for everything that they make), SCOTOMA (the
# command) and, where wanted, TRAIN (further options of scotoma train, which have the last word).

# train_once NAME [OPTION ...]: the network FOLDER/runs/NAME, by these options of scotoma train. One
# that is trained stays, and an interrupted training goes on.
train_once() {
    run="$FOLDER/runs/$1"
    if [ -f "$run/summary.json" ]; then
        echo "$run is trained already"
    elif [ -f "$run/config.yaml" ]; then
        $SCOTOMA train --resume "$run"
    else
        $SCOTOMA train --name "$@" --out "$FOLDER/runs" ${TRAIN:-}
    fi
}

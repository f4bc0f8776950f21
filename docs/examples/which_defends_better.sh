#!/bin/sh
# Which of two networks is fooled less by adversarial images made for a third one?
#
# Trains a standard network to attack with, and as targets another standard one and a defective one,
# on the sample that ships with scotoma. Under five minutes on two CPU cores. Every step can be
# interrupted; run the script again and it goes on.
#
# FOLDER, WIDTH, EPOCHS, SAMPLES change what the names say; TRAIN holds further options of scotoma train.
set -eu

FOLDER=${FOLDER:-which-defends-better}
WIDTH=${WIDTH:-16} EPOCHS=${EPOCHS:-5} SAMPLES=${SAMPLES:-800}
SCOTOMA=${SCOTOMA:-scotoma}

train() { # name, defects, seed
    run="$FOLDER/runs/$1"
    if [ -f "$run/summary.json" ]; then
        echo "$run is trained already"
    elif [ -f "$run/config.yaml" ]; then
        $SCOTOMA train --resume "$run"
    else
        $SCOTOMA train --name "$1" --defects "$2" --seed "$3" --out "$FOLDER/runs" \
            --width "$WIDTH" --epochs "$EPOCHS" ${TRAIN:-}
    fi
}

train source standard 1
train standard standard 0
train 0.3-Bottom 0.3-Bottom 0

# The same images for all: those that all three networks classify right.
$SCOTOMA attack "$FOLDER/runs/source" \
    --correct-for "$FOLDER/runs/standard" "$FOLDER/runs/0.3-Bottom" --samples "$SAMPLES" \
    --attack fgsm:eps=32/255 --attack pgd:eps=32/255,step=4/255,steps=10 \
    --out "$FOLDER/adversarial"

$SCOTOMA evaluate "$FOLDER/runs/standard" "$FOLDER/runs/0.3-Bottom" \
    --against "$FOLDER/adversarial" --out "$FOLDER/evaluation"

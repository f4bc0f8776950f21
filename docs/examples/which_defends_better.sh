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

. "$(dirname "$0")/train_once.sh"

train() { train_once "$@" --width "$WIDTH" --epochs "$EPOCHS"; }

train source --defects standard --seed 1
train standard --defects standard --seed 0
train 0.3-Bottom --defects 0.3-Bottom --seed 0

# The same images for all: those that all three networks classify right.
$SCOTOMA attack "$FOLDER/runs/source" \
    --correct-for "$FOLDER/runs/standard" "$FOLDER/runs/0.3-Bottom" --samples "$SAMPLES" \
    --attack fgsm:eps=32/255 --attack pgd:eps=32/255,step=4/255,steps=10 \
    --out "$FOLDER/adversarial"

$SCOTOMA evaluate "$FOLDER/runs/standard" "$FOLDER/runs/0.3-Bottom" \
    --against "$FOLDER/adversarial" --out "$FOLDER/evaluation"

#!/bin/sh
# Adversarial images of a standard ResNet-18 against ResNet-18s of falling keep probability: the
# first rows of the paper's Table 15, and of its Table 4 where source and target are ResNet-18.
#
#   sh cifar10_transfer.sh [DATASET]     cifar10 (fetched if it is not there), or an image folder
#
# Five trainings by the fast recipe: minutes each on a GPU, days on a CPU. Run it again to go on.
# FOLDER, SAMPLES change what the names say; TRAIN holds further options of scotoma train, SEED the
# targets' seed (the source has seed 100).
set -eu

DATASET=${1:-cifar10}
FOLDER=${FOLDER:-cifar10-transfer} SAMPLES=${SAMPLES:-5000} SEED=${SEED:-0}
SCOTOMA=${SCOTOMA:-scotoma}

. "$(dirname "$0")/train_once.sh"

train() { train_once "$@" --dataset "$DATASET" --download --recipe fast-cifar10; }

train source --defects standard --seed 100
targets=
for defects in standard 0.5-Bottom 0.3-Bottom 0.1-Bottom; do
    train "$defects" --defects "$defects" --seed "$SEED"
    targets="$targets $FOLDER/runs/$defects"
done

# The paper's settings, (step, steps, eps) in levels of 255: FGSM 8, 16, 32 and PGD (1, 20, 16),
# (2, 10, 16), (1, 40, 32); rounded to 8 bits as its release does. FOLDER has no spaces.
$SCOTOMA attack "$FOLDER/runs/source" --correct-for $targets --samples "$SAMPLES" --pixels uint8 \
    --attack fgsm:eps=8/255 --attack fgsm:eps=16/255 --attack fgsm:eps=32/255 \
    --attack pgd:eps=16/255,step=1/255,steps=20 --attack pgd:eps=16/255,step=2/255,steps=10 \
    --attack pgd:eps=32/255,step=1/255,steps=40 \
    --out "$FOLDER/adversarial"

$SCOTOMA evaluate $targets --against "$FOLDER/adversarial" --noise --out "$FOLDER/evaluation"

"""On an NVIDIA GPU: precision, and that no step waits for the host."""

from dataclasses import replace

import pytest
import torch
from engines import engine_of
from scotoma.train.run import run_training

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("augment", ["flip", "crop-flip"])
def test_a_step_never_waits_for_the_device(tiny, precision, augment):
    """Data, augmentation, step and metrics; the first steps may still compile and allocate."""
    config = tiny(device="cuda", precision=precision, augment=augment, clip_norm=1.0, ema=0.9)
    config.cuda_graph = False  # a captured step could not wait anyway
    engine, batches = engine_of(config, torch.device("cuda", 0))
    correct = torch.zeros((), dtype=torch.int64, device="cuda")
    losses = torch.zeros(5, device="cuda")
    try:
        for step, batch in enumerate(batches.epoch(0, 0, 64)):
            loss, right = engine.step(batch, step, 0.1, 64)
            losses[step] = loss
            correct += right
            torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert bool(losses[:4].isfinite().all())


@pytest.mark.parametrize("precision", ["auto", "float32", "float16"])
def test_runs_learn_on_a_gpu(tiny, precision):
    config = tiny(device="cuda", precision=precision, width=8, train_limit=2000, test_limit=500)
    outcome, _ = run_training(replace(config, name=precision))
    assert outcome.summary["test/acc1"] > 0.6


def test_batches_are_those_of_the_cpu(tiny):
    """The same images in the same order on every device."""
    on_cpu, on_gpu = (
        engine_of(tiny(augment="crop-flip", device=name), torch.device(name))[1].epoch(0, 1, 64)
        for name in ("cpu", "cuda")
    )
    for (images, labels), (gpu_images, gpu_labels) in zip(on_cpu, on_gpu, strict=True):
        assert torch.equal(images, gpu_images.cpu())
        assert torch.equal(labels, gpu_labels.cpu())


def test_compiled_training_runs(tiny):
    outcome, _ = run_training(tiny(device="cuda", compile="reduce-overhead", train_limit=256))
    assert outcome.summary["epochs"] == 2

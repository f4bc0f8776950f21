"""``scotoma train``: train a network and leave a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ...defective import mask_sites
from ..config import TrainConfig, load_resolved, parse
from ..distributed import World, choose_device, join, leave, world_from_environment
from ..engine import Engine
from ..loop import Outcome, Trainer, device_name, resume_hint
from ..runfolder import CONFIG, RunFolder
from ..setup import build_model, load_data, resolve

SUMMARY = "train a network and leave a run folder"


def main(argv: list[str]) -> int:
    config, resume = parse(argv)
    world = world_from_environment()
    outcome, folder = train(config, Path(resume) if resume else None, world)
    if outcome.stopped_by is not None:
        if world.is_main:
            print(f"stopped; everything is saved. Continue with: {resume_hint(folder.path)}")
        return 128 + outcome.stopped_by
    if world.is_main:
        _print_result(outcome, folder)
    return 0


def train(
    config: TrainConfig, resume: Path | None = None, world: World | None = None
) -> tuple[Outcome, RunFolder]:
    """Train a network.

    Args:
        config: the settings; with ``resume`` only its device counts.
        resume: folder of a run to continue.
        world: this process among several; None for one alone.

    Raises:
        UserError: bad settings, data or files, a diverged run, a full disk.
    """
    world = world or World()
    folder = None
    if resume is not None:
        folder = RunFolder.open(resume)
        asked, config = config.device, load_resolved(resume / CONFIG)
        # The folder may have been moved or renamed since.
        config = replace(config, out=str(resume.parent), name=resume.resolve().name)
        device = choose_device(config.device if asked == "auto" else asked, world)
    else:
        device = choose_device(config.device, world)
        config = resolve(config, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = config.tf32
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    # Everything that can be wrong with the settings is found before a folder is made.
    data = load_data(config)
    model = build_model(config, data)
    join(world, device)
    try:
        if folder is None:
            folder = RunFolder.create(config) if world.is_main else _main_folder(config)
        world.barrier()
        trainer = Trainer(config, data, Engine(model, config, device, world), folder, world)
        if world.is_main:
            _print_plan(trainer, resumed=resume is not None)
        return trainer.run(), folder
    finally:
        leave(world)


def _main_folder(config: TrainConfig) -> RunFolder:
    return RunFolder(Path(config.out) / config.name)


def _print_plan(trainer: Trainer, resumed: bool) -> None:
    config, data, model = trainer.config, trainer.data, trainer.engine.model
    masks = mask_sites(model).values()
    neurons = sum(m.numel() for m in masks)
    kept = sum(int(m.sum()) for m in masks)
    masked = f", {len(masks)} masks keep {kept / neurons:.1%} of {neurons:,}" if masks else ""
    parameters = sum(p.numel() for p in model.parameters())
    where = device_name(trainer.device)
    ranks = f", {trainer.world.size} processes" if trainer.world.size > 1 else ""
    size = f"{data.in_channels}x{data.image_size}x{data.image_size}"
    print(
        f"{'resuming' if resumed else 'training'} {config.name} in {trainer.folder.path}\n"
        f"  data     {data.name}: {len(data.train):,} training and {len(data.test):,} test images, "
        f"{size}, {len(data.classes)} classes\n"
        f"  network  {config.arch} {config.defects}: {parameters:,} parameters{masked}\n"
        f"  recipe   {config.recipe}: {config.epochs} epochs of {trainer.steps} steps, batch "
        f"{config.batch_size}, {config.schedule} from lr {config.lr:g}\n"
        f"  device   {where}, {config.precision}{ranks}",
        flush=True,
    )


def _print_result(outcome: Outcome, folder: RunFolder) -> None:
    summary = outcome.summary
    best = summary["best"]
    print(
        f"test accuracy {summary['test/acc1']:.2%} after {summary['epochs']} epochs "
        f"(best on {best['on']}: {best['acc1']:.2%} in epoch {best['epoch']}), "
        f"{summary['train_s']:.0f} s of training\n"
        f"run folder {folder.path}: curves.png, metrics.jsonl, summary.json, last.safetensors"
    )

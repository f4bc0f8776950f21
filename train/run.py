"""``scotoma train``, and training from Python: train a network and leave a run folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError

from ..defective import load_model, mask_sites
from ..defective.errors import RankError, UserError, counted
from ..defective.models.base import Network
from ..kernels import backends
from .config import TrainConfig, check_graph, graph_line
from .data import DataSet
from .distributed import World, choose_device, device_name, join, leave, world_from_environment
from .engine import Engine
from .loop import NonFiniteLoss, Outcome, StopRequest, Trainer
from .precision import busy, slow_precision
from .runfolder import CONFIG, METRICS, WEIGHTS, RunFolder
from .screen import make_console, show
from .setup import MOVED, as_asked, as_saved, begin, build_model, check_same, load_data, resolve


def main(argv: list[str]) -> int:
    from .settings import parse  # imports jsonargparse, which training itself does not need

    config, resume = parse(argv)
    world = world_from_environment()
    outcome, folder = run_training(config, Path(resume) if resume else None, world)
    if outcome.summary is None:  # a run that a signal found finished is a success
        if world.is_main:
            print(f"stopped; everything is saved. Continue with: {world.command(folder.path)}")
        return 128 + outcome.stopped_by
    if world.is_main:
        _print_result(outcome, folder)
    return 0


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: what it left. summary: the result, as in summary.json. history: a mapping an epoch,
            as in metrics.jsonl.
    """

    folder: Path
    summary: dict[str, Any]
    history: list[dict[str, Any]]

    @cached_property
    def model(self) -> Network:
        """The network after the last epoch, on the CPU, in evaluation mode, masks included."""
        return load_model(self.folder / WEIGHTS).eval()


def train(*, resume: str | Path | None = None, **settings: Any) -> Run:
    """Train a network, as ``scotoma train`` does: with a recipe, a run folder and a report.

    Args:
        resume: folder of a run to continue, with its own settings; ``device`` alone may be given.
        settings: fields of :class:`~scotoma.train.config.TrainConfig`, which are the options of the
            command, with ``_`` for ``-``: ``train(arch="vgg19", defects="0.3-Bottom", epochs=5)``.

    Raises:
        UserError: an unknown setting, with the nearest known one; a value of the wrong type or out
            of range; or as of :func:`run_training`.
        KeyboardInterrupt, SystemExit: Ctrl-C, SIGTERM; after all is saved, to be resumed.
    """
    from .settings import parse_keywords

    config = parse_keywords(settings, resuming=resume is not None)
    outcome, folder = run_training(config, None if resume is None else Path(resume))
    if outcome.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.stopped_by is not None:
        raise SystemExit(128 + outcome.stopped_by)
    lines = (folder.path / METRICS).read_text().splitlines()
    return Run(folder.path, outcome.summary, [json.loads(line) for line in lines])


def run_training(
    config: TrainConfig,
    resume: Path | None = None,
    world: World | None = None,
    *,
    whole: bool = False,
    stop: StopRequest | None = None,
) -> tuple[Outcome, RunFolder]:
    """Train a network.

    Args:
        config: the settings; with ``resume`` only its device counts, if not ``whole``.
        resume: folder of a run to continue.
        world: this process among several; None for one alone.
        whole: all of ``config`` counts with ``resume`` too. Data and whatever else decides no
            weights may be in other places than before; any other setting has to be the run's. The
            caller answers for it that the images are the same.
        stop: notes signals while the network is trained, as of :meth:`Trainer.run`.

    Raises:
        UserError: bad settings, data or files, a diverged run, a full disk or device memory; or
            another run is in ``resume``.
    """
    world = world or World()
    saved = None
    if resume is None:
        device = choose_device(config.device, world)
        config = resolve(config, device, world.size)
    else:
        from .settings import load_resolved

        RunFolder(resume).check_run()
        saved = load_resolved(resume / CONFIG)
        kept = config.device == "auto" and not whole
        device = choose_device(saved.device if kept else config.device, world)
        if whole:
            config = as_asked(config, saved, device, world.size)
        else:
            config = as_saved(saved, device, world.size)
        # The folder may have been moved or renamed since.
        config = replace(config, out=str(resume.parent), name=resume.resolve().name)
    check_graph(config, device, world.size)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        backends.allow_tf32(convolutions=config.tf32, products=config.tf32)
    with _group(config, device, world):
        # The names of runs depend on what exists, so that ranks have to agree on one.
        config = world.from_main(lambda: config)
        with closing(RunFolder(Path(config.out) / config.name)) as folder:
            if saved is not None:
                world.from_main(folder.hold)
            data = _load_data(config, world)
            model = build_model(config, data)
            config = replace(config, width=model.spec.width, image_size=data.image_size)
            moved = MOVED if saved is not None and whole else ()
            if moved:
                check_same(saved, config, folder.path)
            engine = Engine(model, config, device, world)
            trainer = Trainer(config, data, engine, folder, world, moved)
            # Everything that can be wrong with the settings is found by now.
            if saved is None:
                world.from_main(partial(begin, config, folder))
            elif moved:  # so that it goes on by its folder alone, too
                world.from_main(partial(folder.write_config, config))
            if world.is_main:
                _print_plan(trainer, resumed=saved is not None)
            return trainer.run(stop), folder


@contextmanager
def _group(config: TrainConfig, device: torch.device, world: World) -> Iterator[None]:
    """The processes of a training; what ends it becomes an error that says how to go on."""
    join(world, device)
    try:
        yield
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own.
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise RankError(
                f"{device} is out of memory; try a --batch-size below {config.batch_size}, "
                f"{'--no-cuda-graph, ' if config.cuda_graph else ''}or --precision bfloat16"
            ) from None
        if world.size > 1 and ("gloo" in str(error) or isinstance(error, DistError)):
            # Two of them say so, since one may be the one that ended.
            raise (RankError if world.rank < 2 else UserError)(
                "another process of this training ended, or the connection to it; what was saved "
                f"before is whole. Continue with: {world.command(Path(config.out) / config.name)}"
            ) from None
        raise
    except UserError as error:
        # What is wrong on another machine may not be wrong on the first, which does the talking.
        if world.rank and world.local_rank == 0 and not isinstance(error, NonFiniteLoss):
            raise RankError(str(error)) from error
        raise
    finally:
        leave(world)


def _load_data(config: TrainConfig, world: World) -> DataSet:
    """The data set; with several processes one on each machine fetches what is missing."""
    if world.size == 1 or not config.download:
        return load_data(config)
    data = load_data(config) if world.local_rank == 0 else None
    world.barrier()
    return data or load_data(config)


def _print_plan(trainer: Trainer, resumed: bool) -> None:
    config, data, model = trainer.config, trainer.data, trainer.engine.model
    masks = mask_sites(model).values()
    neurons = sum(m.numel() for m in masks)
    kept = sum(int(m.sum()) for m in masks)
    masked = ""
    if masks:
        verb = "keeps" if len(masks) == 1 else "keep"
        masked = f", {counted(len(masks), 'mask')} {verb} {kept / neurons:.1%} of {neurons:,}"
    parameters = sum(p.numel() for p in model.parameters())
    ranks = f", {trainer.world.size} processes" if trainer.world.size > 1 else ""
    launched = graph_line(config, trainer.device, trainer.world.size)
    layout = "channels_last" if config.channels_last else "contiguous"
    size = f"{data.in_channels}x{data.image_size}x{data.image_size}"
    where = f" in {', '.join(config.where)}" if config.where else ""
    lines = [
        f"{'resuming' if resumed else 'training'} {config.name} in {trainer.folder.path}",
        f"  data     {data.name}: {len(data.train):,} training and "
        f"{counted(len(data.test), 'test image')}{data.test_note}, {size}, "
        f"{counted(len(data.classes), 'class')}",
        f"  network  {config.arch} {config.defects}{where}: {parameters:,} parameters{masked}",
        f"  recipe   {config.recipe}: {counted(config.epochs, 'epoch')} of "
        f"{counted(trainer.steps, 'step')}, batch {config.batch_size}, {config.schedule}, peak lr "
        f"{config.lr:g}",
        f"  device   {device_name(trainer.device)}, {config.precision}, {layout}{ranks}"
        f"{launched and '; ' + launched}",
    ]
    if config.batch_size > len(data.train):
        lines.append(
            f"  warning  --batch-size {config.batch_size} is more than all training images: an "
            "epoch is one step; give a smaller one"
        )
    advice = (slow_precision(config.precision, trainer.device), busy(trainer.device))
    lines += [f"warning: {words}" for words in advice if words]
    show(make_console(), *lines)


def _print_result(outcome: Outcome, folder: RunFolder) -> None:
    summary = outcome.summary
    best = summary["best"]
    robust = summary.get("test/robust_acc1")
    attacked = "" if robust is None else f"{robust:.2%} under the training's attack, "
    curves = "".join(f"{path.name}, " for path in sorted(folder.path.glob("curves.*")))
    show(
        make_console(),
        f"test accuracy {summary['test/acc1']:.2%} after {counted(summary['epochs'], 'epoch')} "
        f"(best on {best['on']}: {best['acc1']:.2%} in epoch {best['epoch']}), {attacked}"
        f"{summary['train_s']:.0f} s of training",
        f"run folder {folder.path}: {curves}metrics.jsonl, summary.json, last.safetensors",
    )

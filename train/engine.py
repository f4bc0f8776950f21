"""One training step and one evaluation: precision, loss, gradients, averaged weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..defective.attacks import LSPGA, PGD, Attack, Oracle, Status
from ..defective.attacks.lspga import relaxed_gradient
from ..defective.attacks.oracle import FLOAT16_SCALE, loss_gradient
from ..defective.attacks.pgd import moved
from ..defective.graph import GraphedStep
from ..defective.layers import synchronise_statistics, use_backend
from ..defective.masks import mask_sites
from ..defective.models.base import Network
from ..defective.regularizers import smoothed_cross_entropy
from .config import TrainConfig, check_graph
from .data import Batch, derived_seed
from .distributed import World, check_same_masks, share_statistics
from .precision import DTYPES, CastWeights, FastWeightGradients


def _pgd(
    model: Network, config: TrainConfig, images: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """PGD with a random start (Madry et al., 2018)."""
    eps = config.adversarial_eps
    attacked = (images + eps * (2 * torch.rand_like(images) - 1)).clamp_(0, 1)
    for _ in range(config.adversarial_steps):
        _, gradient = loss_gradient(model, attacked, labels, scale)
        attacked = moved(attacked, gradient, images, eps, config.adversarial_step, "linf")
    return attacked


def _lspga(
    model: Network, config: TrainConfig, images: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """LS-PGA for thermometer encoding, through which PGD gets no gradient (Buckman, 2018)."""

    def gradient(logits: Tensor, encoded) -> Tensor:
        return relaxed_gradient(model, encoded, logits, labels, scale)

    count, channels, height, width = images.shape
    start = torch.randn((count, channels, config.thermometer, height, width), device=images.device)
    return _held_out_attack(config).ascend(gradient, images, start)


def _held_out_attack(config: TrainConfig) -> Attack:
    """The same attack on images that training does not see; its start is each image's own.

    Of LS-PGA, radius and number of steps are the run's, and the rest the attack's own defaults.
    """
    eps, steps, seed = config.adversarial_eps, config.adversarial_steps, config.seed
    if config.thermometer:
        return LSPGA(eps=eps, steps=steps, seed=seed)
    step = config.adversarial_step
    return PGD(eps=eps, step=step, steps=steps, random_start=True, seed=seed)


def paired_loss(
    logits: Tensor, labels: Tensor, weight: float, label_smoothing: float = 0.0
) -> Tensor:
    """Adversarial logit pairing (Kannan, Kurakin and Goodfellow, 2018), summed over the images.

    For each image: half the cross entropy of the clean and half that of the adversarial version
    (their mixed minibatch, whose images all count alike), and ``weight`` times the mean over
    classes of the squared difference between the two logits, as in the authors' release. Gradients
    flow into both. With weight 0 the mixed minibatch remains.

    Args:
        logits: [2N,K], of N clean images and then of their adversarial versions; widened to
            float32. labels: int64 [N].

    Returns:
        A scalar; divide it by the number of images for the mean.
    """
    logits = logits.float()
    entropy = smoothed_cross_entropy(logits, labels.repeat(2), label_smoothing, reduction="sum")
    clean, attacked = logits.chunk(2)
    return entropy / 2 + weight * (clean - attacked).square().mean(1).sum()


# Buffers are the batch norms' business, not DDP's; torch 2.14 renames the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


class Engine:
    """A network with all that turns batches into better weights.

    No method waits for the device but :meth:`evaluate` and :meth:`state_dict`; losses and counts
    stay there as tensors.

    Args:
        model: on the CPU; it is moved.
        config: resolved settings (no "auto").
        device, world: of this process.
    """

    def __init__(self, model: Network, config: TrainConfig, device: torch.device, world: World):
        check_graph(config, device, world.size)
        config.check_together()
        self.config, self.device, self.world = config, device, world
        use_backend(model, None if config.backend == "auto" else config.backend)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)
        self.dtype = DTYPES[config.precision]
        # float16 alone needs its gradients scaled; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.optimizer = _zeroed(
            torch.optim.SGD(
                model.parameters(),
                lr=config.lr,
                momentum=config.momentum,
                nesterov=config.nesterov,
                weight_decay=config.weight_decay,
                # One kernel, and no host synchronisation under the gradient scaler.
                fused=device.type == "cuda" or None,
            )
        )
        self.average = None
        if config.ema is not None:
            self.average = MovingAverage(self.model, config.ema)
        self.stochastic = config.regularizer != "none" or config.adversarial_eps > 0
        self.network: nn.Module = self.model
        if world.size > 1:
            check_same_masks(model, world, device)
            if config.sync_stats:
                synchronise_statistics(self.model)
            self.network = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                **_KEEP_BUFFERS,
            )
        if config.compile != "none":
            mode = None if config.compile == "default" else config.compile
            # Static shapes: a graph for each batch size, whichever comes first, so that a resumed
            # run computes what an uninterrupted one does.
            self.network = torch.compile(self.network, mode=mode, dynamic=False)
        self.cast_weights = None
        plain = self.network is self.model and config.backend != "eager"
        # The compiler arranges casts itself, and DDP wants parameters used where they are.
        if plain and self.dtype != torch.float32:
            self.cast_weights = CastWeights(self.model, self.dtype)
        self.convolutions = None
        on_cpu = device.type == "cpu" and self.dtype != torch.float32
        if on_cpu and config.compile == "none" and config.backend != "eager":
            self.convolutions = FastWeightGradients(self.dtype)
        self.graph = None
        if config.cuda_graph:
            self.lr = torch.zeros((), device=device)  # a graph reads it when it runs
            self.graph = GraphedStep(lambda *batch: self._update(*batch, config.batch_size), device)

    def autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(
            self.device.type, dtype=self.dtype if enabled else None, enabled=enabled
        )

    def step(self, batch: Batch, number: int, lr: float, global_size: int) -> tuple[Tensor, Tensor]:
        """Forward, backward, update.

        Args:
            batch: this rank's images and labels. number: of the step, from the run's start.
            lr: learning rate. global_size: images of all ranks in this step.

        Returns:
            This rank's part of the mean loss (the parts of all ranks add up to it), and its
            number of correctly classified images; both detached, on the device. Under
            ``cuda_graph`` the next step overwrites them.
        """
        if self.stochastic:
            # Random numbers are a function of the step, so that resuming needs no generator state.
            torch.manual_seed(derived_seed(self.config.seed, "step", number, self.world.rank))
        if self.config.compile != "none":
            torch.compiler.cudagraph_mark_step_begin()
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.graph is None else self.lr.fill_(lr)
        # The first average is a copy, which is none of the steps that a graph repeats.
        copies = self.average is not None and self.average.steps == 0
        if self.graph is not None and global_size == self.config.batch_size and not copies:
            result = self.graph(*batch)
        else:
            result = self._update(*batch, global_size)
        if self.average is not None:
            self.average.steps += 1
        return result

    def _update(self, images: Tensor, labels: Tensor, global_size: int) -> tuple[Tensor, Tensor]:
        """The part of a step that is the device's alone; see :meth:`step`."""
        config = self.config
        with self.autocast():
            if config.adversarial_eps > 0:
                attacked = self._attacked(images, labels)
                # Clean and adversarial images share one pass, and so their batch statistics.
                images = torch.cat([images, attacked]) if config.logit_pairing > 0 else attacked
            with self.cast_weights or nullcontext(), self.convolutions or nullcontext():
                logits = self.network(images)
        if config.logit_pairing > 0:
            total = paired_loss(logits, labels, config.logit_pairing, config.label_smoothing)
            logits = logits[len(labels) :]  # accuracy is that of the attacked images
        else:
            total = smoothed_cross_entropy(
                logits.float(), labels, config.label_smoothing, reduction="sum"
            )
        part = total / global_size
        # DDP averages gradients over ranks; the parts are to be added.
        self.scaler.scale(part * self.world.size).backward()
        if config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        before = self.scaler._scale.clone() if self.scaler.is_enabled() else None
        self.scaler.update()
        if before is not None:  # a smaller scale is how it answers gradients that overflowed
            self.skipped += self.scaler._scale < before
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        correct = (logits.detach().argmax(1) == labels).sum()
        return part.detach(), correct

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial training's inner loop: images like ``images``, at most eps away.

        Attacked in evaluation mode, so that the attack leaves the running statistics alone.
        """
        scale = FLOAT16_SCALE if self.dtype == torch.float16 else 1.0
        attack = _lspga if self.config.thermometer else _pgd
        self.model.eval()
        attacked = attack(self.model, self.config, images, labels, scale)
        self.model.train()
        return attacked

    @property
    def result(self) -> Network:
        """The network to evaluate and to keep: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.network()

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """(mean cross entropy, accuracy) over this rank's batches and the other ranks'.

        Accuracy is a fraction. Waits for the device once, at the end.
        """
        model = self.result.eval()
        if not self.config.sync_stats:
            share_statistics(self.model, self.world)
            if self.average is not None:
                share_statistics(model, self.world)
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)
        count = 0
        for images, labels in batches:
            with self.autocast():
                logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            totals[0] += loss
            totals[1] += (logits.argmax(1) == labels).sum()
            count += len(labels)
        totals[2] = count
        loss, correct, count = self.world.sum(totals).tolist()
        return loss / count, correct / count

    def robust_accuracy(self, batches: Iterable[Batch]) -> float:
        """The share of images, a fraction, that are classified right before and under attack.

        The attack of training, with the same radius, step and number of steps, from a random start
        that depends on (seed, image) alone, against the network that is kept, without autocast.
        All ranks' batches count. Waits for the device.
        """
        attack = _held_out_attack(self.config)
        oracle = Oracle(self.result.eval())
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for images, labels in batches:
            totals[0] += (attack(oracle, images, labels).status == Status.RESISTED).sum()
            totals[1] += len(labels)
        correct, count = self.world.sum(totals).tolist()
        return correct / count

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, gradient scaler and averaged weights: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: the state has other masks, or momentum of another network. RuntimeError,
            LookupError, TypeError, AttributeError: it is none.
        """
        for site, mask in mask_sites(self.model).items():
            if not torch.equal(state["model"][f"{site}.mask"].cpu(), mask.cpu()):
                raise ValueError(f"another mask at {site} than the settings draw")
        own, momentum = self.optimizer.state_dict(), state["optimizer"]["state"]
        if _shapes(momentum) != _shapes(own["state"]):
            raise ValueError("momentum of another network")
        self.model.load_state_dict(state["model"])
        # Momentum, weight decay and the like are the settings', whatever the state says.
        self.optimizer.load_state_dict(own | {"state": momentum})
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


class MovingAverage(AveragedModel):
    """The exponential moving average of a network's weights and statistics, by one operator a step.

    After the first step it is the network itself, after every later one
    ``average += (1 - decay) * (network - average)`` for parameters and floating buffers: torch's
    ``AveragedModel`` with ``get_ema_multi_avg_fn`` and ``use_buffers``, whose state dict this has.
    Masks never change, and counters are copied when somebody looks.

    Args:
        model: on its device; its tensors must stay the same objects. decay: between 0 and 1.

    Attributes:
        steps: updates so far. Whoever calls :meth:`update`, perhaps by way of a graph, counts them.
    """

    def __init__(self, model: Network, decay: float):
        super().__init__(model, use_buffers=True)
        self.steps, self._weight = 0, 1 - decay
        pairs = [*zip(self.module.parameters(), model.parameters(), strict=True)]
        pairs += zip(self.module.buffers(), model.buffers(), strict=True)
        self._floats = _columns((a, b) for a, b in pairs if a.is_floating_point())
        counters = (torch.int32, torch.int64)
        self._counters = _columns((a, b) for a, b in pairs if a.dtype in counters)

    @torch.no_grad()
    def update(self) -> None:
        """One step further. Nobody waits for the device."""
        if self.steps == 0:
            torch._foreach_copy_(*self._floats)
        else:
            torch._foreach_lerp_(*self._floats, self._weight)

    @torch.no_grad()
    def network(self) -> Network:
        """The averaged network, with the counters of the other."""
        if self._counters:
            torch._foreach_copy_(*self._counters)
        return self.module

    def state_dict(self, *args, **kwargs) -> dict[str, Any]:
        self.network()
        self.n_averaged.fill_(self.steps)
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state: Mapping[str, Any], *args, **kwargs):
        result = super().load_state_dict(state, *args, **kwargs)
        self.steps = int(self.n_averaged)
        return result


def _shapes(states: Mapping[int, Mapping[str, Tensor]]) -> dict:
    return {k: {name: t.shape for name, t in state.items()} for k, state in states.items()}


def _columns(pairs: Iterable[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
    """Two lists of tensors, without their histories; none of no pairs."""
    return [[t.detach() for t in column] for column in zip(*pairs, strict=True)]


def _zeroed(optimizer: torch.optim.SGD) -> torch.optim.SGD:
    """The optimiser with momentum buffers of zero, which is how momentum begins anyway.

    Otherwise the fused step allocates them uninitialised, and keeps them so when the gradient
    scaler skips the first step.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer

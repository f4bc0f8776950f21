"""The patterns of a recorded forward that are one operator: batch norm, addition, ReLU.

:class:`Rewriting` finds them in a graph of torch.fx and replaces them (see :mod:`.fuse`). An
operator stands where the last part of its pattern stood, so that nothing in between may write into
what it reads, and nothing else may use a value that is no longer made.
"""

from __future__ import annotations

import operator
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from .batch_norm import (
    MaskedBatchNorm2d,
    MaskedSyncBatchNorm,
    NeuronMask,
    batch_norm_add_relu,
)

RELUS = (F.relu, F.relu_, torch.relu, torch.relu_)
ADDS = (operator.add, operator.iadd, torch.add)
FRESH = (
    *(operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul),
    *(torch.cat, F.relu, torch.relu),
)
"""Functions whose results share no memory with their arguments."""
IN_PLACE_OPERATORS = (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "iand",
    "ior",
)


NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, MaskedBatchNorm2d, MaskedSyncBatchNorm)


def other_norms(model: nn.Module) -> str:
    """What a network without batch norms of images has in their place, for an error."""
    leaves = {type(m).__name__ for m in model.modules() if not m._modules}
    found = sorted(name for name in leaves if "Norm" in name)
    return f"; it has {', '.join(found)}" if found else ""


def is_norm(module) -> bool:
    known = type(module) in NORMS or _act(module) is not None
    return known and "forward" not in module.__dict__


def _act(module) -> nn.Module | None:
    """The activation that is part of timm's BatchNormAct2d; None for all else."""
    known = type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)
    known = known and type(module).__module__.startswith("timm.")
    plain = known and type(getattr(module, "drop", None)) in (nn.Identity, NeuronMask)
    return getattr(module, "act", None) if plain else None


def is_last(norm: nn.Module) -> bool:
    """Whether nothing follows in the module itself, so that something outside may be part."""
    return _act(norm) is None or type(norm.act) is nn.Identity


class Rewriting:
    """Replaces the patterns of a graph.

    Attributes:
        operators: as in :class:`_Plan`. passed: names of modules that are not called any more.
    """

    def __init__(self, graph: fx.Graph, places: dict[str, nn.Module], shared: tuple[str, ...] = ()):
        self.graph, self.places, self.shared = graph, places, shared
        self.operators: dict[int, str] = {}
        self.passed: list[str] = []
        called = [places[node.target] for node in graph.nodes if node.op == "call_module"]
        self.calls = Counter(map(id, called))

    def rewrite(self) -> None:
        norms = [node for node in self.graph.nodes if self._is_norm_call(node)]
        # Those of an addition come last: then fewer in-place activations lie between its parts.
        # Of two, the later one, or that into whose result the other is added, takes the other.
        summed = [node for node in norms if self._sum(node) is not None]
        adding = [node for node in summed if self._adds(node) is not None]
        first = [node for node in norms if node not in summed]
        for node in [*first, *reversed(adding), *summed]:
            if id(self.places[node.target]) not in self.operators:
                self._replace(node)

    def _is_norm_call(self, node: fx.Node) -> bool:
        if node.op != "call_module" or not is_norm(self.places[node.target]):
            return False
        alone = self.calls[id(self.places[node.target])] == 1 and node.target not in self.shared
        plain = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)
        return alone and plain

    def _sum(self, node: fx.Node) -> fx.Node | None:
        """The addition that a batch norm's result goes into and nothing else, or None."""
        user = only_user(after_identities(node, self.places, []))
        known = user is not None and is_add(user) and is_last(self.places[node.target])
        return user if known else None

    def _adds(self, node: fx.Node) -> fx.Node | None:
        """The same, but for a sum that goes into a tensor which others may see."""
        add = self._sum(node)
        if add is None or add.args[0] is add.args[1]:
            return None
        target = add.args[0]
        own = target is after_identities(node, self.places, [])
        own |= only_user(target) is add and self._bases(target) == {target}
        return add if own or not _is_in_place(add) else None

    def _replace(self, node: fx.Node) -> None:
        norm = self.places[node.target]
        own = None if is_last(norm) else norm.act
        whole = self._pattern(node) if own is None else None
        found = whole or ([node], None, None, None, type(own) is nn.ReLU)
        erased, add, residual, second, relu = found
        with self.graph.inserting_before(erased[-1]):
            modules = [self.graph.get_attr(n.target) for n in (node, second) if n is not None]
            other = residual if second is None else second.args[0]
            arguments = modules[0], node.args[0], other, *modules[1:]
            options = {"relu": relu}
            if add is not None and _is_in_place(add):
                options["in_place"] = True
            call = self.graph.call_function(batch_norm_add_relu, arguments, options)
            if own is not None and not relu:
                call = self.graph.call_module(f"{node.target}.act", (call,))
        erased[-1].replace_all_uses_with(call)
        text = "BN" if second is None else "BN and BN of the projection"
        text += " + add" * (residual is not None or second is not None) + " + ReLU" * relu
        for each in (node, second):
            if each is not None:
                self.operators[id(self.places[each.target])] = text
        for each in reversed(erased):
            self.graph.erase_node(each)
            if each.op == "call_module":
                self.passed.append(each.target)

    def _pattern(self, node: fx.Node):
        """Nodes from a batch norm to the end of its pattern, what is added and by whom, ReLU."""
        erased = [node]
        end = after_identities(node, self.places, erased)
        residual = second = None
        add = self._adds(node)
        if add is not None:
            erased.append(add)
            residual = add.args[1] if add.args[0] is end else add.args[0]
            shortcut: list[fx.Node] = []
            second = self._norm_before(residual, shortcut)
            if second is not None:
                erased = [second, *shortcut, *erased]
                residual = None
            end = after_identities(add, self.places, erased)
        relu = only_user(end)
        if relu is not None and is_relu(relu, self.places):
            erased.append(relu)
        else:
            relu = None
            while erased[-1] not in (node, add):  # identities stay where nothing follows them
                erased.pop()
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        erased.sort(key=order.__getitem__)
        read = [n.args[0] for n in (node, second) if n is not None]
        read += [residual] if isinstance(residual, fx.Node) else []
        if self._changed_between(erased, read):
            return None
        return erased, add, residual, second, relu is not None

    def _norm_before(self, node, passed: list[fx.Node]) -> fx.Node | None:
        """The batch norm whose result is added and used nowhere else."""
        while isinstance(node, fx.Node) and len(node.users) == 1:
            if self._is_norm_call(node):
                return node if is_last(self.places[node.target]) else None
            if not is_identity(node, self.places):
                return None
            passed.append(node)
            node = node.args[0]
        return None

    def _changed_between(self, pattern: list[fx.Node], read: list[fx.Node]) -> bool:
        """Whether something in between may write into what the operator will read at the end."""
        bases = set().union(*(self._bases(node) for node in read))
        inside = False
        for node in self.graph.nodes:
            inside |= node is pattern[0]
            if node is pattern[-1]:
                return False
            written = self._written(node) if inside and node not in pattern else []
            if any(self._bases(target) & bases for target in written):
                return True
        return False

    def _written(self, node: fx.Node) -> list[fx.Node]:
        """What a call may write into; modules that are not torch's: all that they are given."""
        if node.op == "call_module":
            inner = list(self.places[node.target].modules())
            known = all(type(m).__module__.startswith("torch.nn.") for m in inner)
            known = known and not any(m._forward_hooks or m._forward_pre_hooks for m in inner)
            writes = not known or any(getattr(m, "inplace", False) for m in inner)
            return node.all_input_nodes if writes else []
        in_place = node.op in ("call_function", "call_method") and _is_in_place(node)
        return node.all_input_nodes[:1] if in_place else []

    def _bases(self, node: fx.Node) -> set[fx.Node | str]:
        """The nodes whose memory a node's result may share; arguments may be one tensor."""
        if node.op == "placeholder":
            return {"an argument"}
        if node.op == "call_module":
            module = self.places[node.target]
            owns = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or is_norm(module)
        else:
            owns = node.target in (*FRESH, batch_norm_add_relu) and not _is_in_place(node)
        if owns or not node.all_input_nodes:
            return {node}
        return set().union(*map(self._bases, node.all_input_nodes))


def only_user(node: fx.Node) -> fx.Node | None:
    """The only node that uses a node, if there is one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def after_identities(node: fx.Node, places: dict[str, nn.Module], passed: list[fx.Node]) -> fx.Node:
    """The last of the identities behind a node. They are added to ``passed``."""
    user = only_user(node)
    while user is not None and is_identity(user, places):
        passed.append(user)
        node, user = user, only_user(user)
    return node


def _is_of(module: nn.Module, cls: type) -> bool:
    return type(module) is cls and "forward" not in module.__dict__


def is_identity(node: fx.Node, places: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and _is_of(places[node.target], nn.Identity)


def is_relu(node: fx.Node, places: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return _is_of(places[node.target], nn.ReLU)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in RELUS


def is_add(node: fx.Node) -> bool:
    known = node.op == "call_function" and node.target in ADDS
    known |= node.op == "call_method" and node.target in ("add", "add_")
    return known and len(node.args) == 2 and not node.kwargs and _both_nodes(node.args)


def _both_nodes(arguments: tuple) -> bool:
    return all(isinstance(value, fx.Node) for value in arguments)


def _is_in_place(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else node.target.__name__
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in IN_PLACE_OPERATORS or bool(node.kwargs.get("inplace"))

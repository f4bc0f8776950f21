"""``fuse``: the batch norms of any network as fused operators, with every module left in its place.

A module whose forward calls batch norms gets another forward: the same calls, recorded by torch.fx
one level deep, in which ``relu(bn(x) + y)`` has become one operator. Its modules, parameters,
buffers and their names stay, so that state dicts, optimizers, copies and hooks know no difference.

What was recorded holds under conditions, which every call checks: plain attributes that were read
have the values that they had, the modules that are passed over are the same and nobody hooked them,
and tensors come where tensors came. Where one does not hold the module's own forward runs, which is
always right. Training and evaluation are recorded apart.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import _has_any_global_hook

from .patterns import (
    IN_PLACE_OPERATORS,
    Rewriting,
    after_identities,
    is_add,
    is_identity,
    is_last,
    is_norm,
    is_relu,
    only_user,
)

BOOKKEEPING = set(vars(nn.Module())) - {"_modules", "training"}
"""Attributes of every module, of which hooks are checked by themselves."""
STATELESS = (bool, int, float, complex, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Site:
    """A batch norm of a network that :func:`fuse` went through.

    Attributes:
        name: of the module. operator: what became one operator, such as "BN + add + ReLU"; None
            where the batch norm was left alone. reason: why it was.
    """

    name: str
    operator: str | None
    reason: str = ""


@dataclass(frozen=True)
class Fusion:
    """What :func:`fuse` did. ``str`` makes a table of it.

    Attributes:
        sites: every batch norm, in the order of ``named_modules``.
    """

    sites: tuple[Site, ...]

    @property
    def fused(self) -> int:
        """How many batch norms run as fused operators."""
        return sum(site.operator is not None for site in self.sites)

    def __str__(self) -> str:
        width = max(len(site.name) for site in self.sites)
        lines = [
            f"{site.name:{width}}  {site.operator or f'left alone: {site.reason}'}"
            for site in self.sites
        ]
        return "\n".join([*lines, f"{self.fused} of {len(self.sites)} batch norms fused"])


def fuse(model: nn.Module) -> Fusion:
    """Let every BatchNorm2d of a network run as :func:`bn_mask_add_relu`, in place.

    Addition and ReLU after it become part of it, also a second batch norm that is added (a
    projection shortcut). Functions and modules (ReLU modules may be shared), in-place additions and
    timm's BatchNormAct2d are recognised; SyncBatchNorm synchronises by the operator. Outputs,
    gradients, running statistics, counters, state dict, parameters, ``train()``, hooks,
    ``deepcopy`` and ``pickle`` are as before. What cannot be followed (control flow on values of
    tensors, Python's random numbers, attributes that forward sets) keeps its own forward.

    Convert to SyncBatchNorm, and prune or replace modules, before: modules that were replaced
    afterwards run unfused.

    Args:
        model: any module; on any device, in any mode.

    Returns:
        What was done with each batch norm, and why not more. ``print`` it.

    Raises:
        TypeError: model is no module, or one of TorchScript.
        ValueError: it has no batch norm of images, or is fused already.
    """
    norms = _checked(model)
    plans, reasons = {}, {}
    arguments: dict[int, Any] = {}
    skipped: set[int] = set()
    for name, module in model.named_modules():
        if _is_leaf(module) or id(module) in skipped:
            continue
        try:
            plan = _planned(module, arguments.get(id(module)))
        except Exception as error:
            reasons[id(module)] = _line(error)
            continue
        for child, spec in plan.calls:
            arguments.setdefault(id(child), spec)
        skipped |= {id(child) for child in plan.inlined}
        if plan.operators:
            plans[name] = module, plan
    operators = {}
    for module, plan in plans.values():
        _install(module, plan)
        operators |= plan.operators
    sites = []
    for name, norm in norms.items():
        found = operators.get(id(norm))
        sites.append(Site(name, found, "" if found else _why_not(model, name, norm, reasons)))
    return Fusion(tuple(sites))


def unfuse(model: nn.Module) -> None:
    """Give every module the forward back that it had before :func:`fuse`, in place.

    Raises:
        ValueError: nothing in the model is fused.
    """
    fused = [module for module in model.modules() if _is_fused(module)]
    if not fused:
        raise ValueError(f"model is {type(model).__name__}, in which nothing is fused")
    for module in fused:
        module.__class__ = type(module).unfused
        del module.__dict__["_fusion"]


def _checked(model) -> dict[str, nn.Module]:
    """The batch norms of a model by name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is of type {type(model).__name__}; expected an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model is of TorchScript, which is compiled; fuse the module it came from")
    if any(_is_fused(module) for module in model.modules()):
        raise ValueError(
            f"model is {type(model).__name__}, which is fused already; unfuse it first"
        )
    norms = {name: m for name, m in model.named_modules() if is_norm(m)}
    if not norms:
        others = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
        has = f"; it has {', '.join(sorted(others))}" if others else ""
        raise ValueError(
            f"model is {type(model).__name__}, which has no BatchNorm2d or SyncBatchNorm{has}"
        )
    return norms


def _is_fused(module: nn.Module) -> bool:
    return "_fusion" in module.__dict__


def _is_leaf(module: nn.Module) -> bool:
    """Whether it calls no other module: also lists of modules, which are not called at all."""
    called = type(module).forward is not nn.Module.forward
    return not module._modules or not called or is_norm(module)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _why_not(model: nn.Module, name: str, norm: nn.Module, reasons: dict[int, str]) -> str:
    """The reason of the nearest module around a batch norm whose forward was not followed."""
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        reason = reasons.get(id(model.get_submodule(parent)))
        if reason:
            return f"the forward of {parent or 'the model'} cannot be followed ({reason})"
    return "no forward calls it once, with one tensor"


# Recording one level of a network


class _TensorProxy(fx.Proxy):
    """Passes for a tensor where a forward asks with isinstance."""

    __class__ = property(lambda self: Tensor)


def _record_in_place(name: str) -> None:
    """fx would take ``a += b`` for ``a = a + b``, though others may hold ``a``."""
    function = getattr(operator, name)

    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    setattr(_TensorProxy, f"__{name}__", method)


for _name in IN_PLACE_OPERATORS:
    _record_in_place(_name)


TENSOR = Tensor
"""Stands for a tensor among the arguments of a forward. (A class: the same in every copy.)"""


class _Recorder(fx.Tracer):
    """Records what a module's forward calls; of its children those of ``inlined`` alone inside.

    arguments: of the call; lists, tuples, constants, and TENSOR where a tensor comes.
    """

    proxy_buffer_attributes = True

    def __init__(self, arguments: tuple, inlined: Iterable[nn.Module]):
        super().__init__()
        self.arguments, self.inlined = arguments, {id(module) for module in inlined}
        self.own_work = True  # what is read now is not read by a forward

    def is_leaf_module(self, module, name):
        return id(module) not in self.inlined

    def proxy(self, node):
        return _TensorProxy(node, self)

    def create_arg(self, value):
        if issubclass(type(value), fx.Proxy):
            return value.node
        before, self.own_work = self.own_work, True
        try:
            return super().create_arg(value)
        finally:
            self.own_work = before

    def create_args_for_root(self, forward, is_module, concrete_args=None):
        def stand_in(argument):
            if argument is TENSOR:
                count = sum(node.op == "placeholder" for node in self.graph.nodes)
                return self.create_proxy("placeholder", f"x{count}", (), {})
            if type(argument) in (list, tuple):
                return type(argument)(map(stand_in, argument))
            return argument

        arguments = [self.root, *map(stand_in, self.arguments)]
        self.own_work = False
        return forward, arguments


@dataclass
class _Plan:
    """A rewritten forward, and when it may run.

    Attributes:
        arguments: as those of :class:`_Recorder`. codes: forwards by mode: training or not.
        reads: (module, attribute, value) of plain attributes, by mode.
        passed: (parent, name, module) of modules that are not called any more.
        inlined: those of them whose calls were recorded.
        operators: what became one operator, by the id of each batch norm.
        calls: modules that are called, with their arguments.
    """

    arguments: tuple
    codes: dict[bool, Callable] = field(default_factory=dict)
    reads: dict[bool, list[tuple[nn.Module, str, Any]]] = field(default_factory=dict)
    passed: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)
    inlined: list[nn.Module] = field(default_factory=list)
    operators: dict[int, str] = field(default_factory=dict)
    calls: list[tuple[nn.Module, tuple]] = field(default_factory=list)

    def holds(self, training: bool) -> bool:
        for module, name, value in self.reads[training]:
            now = module.__dict__.get(name, TENSOR)
            if now is not value and not (type(now) is type(value) and _equal(now, value)):
                return False
        for parent, name, module in self.passed:
            if parent._modules.get(name) is not module:
                return False
            if module._forward_hooks or module._forward_pre_hooks:
                return False
            if module._backward_hooks or module._backward_pre_hooks:
                return False
        return not _has_any_global_hook()

    def flat(self, arguments: tuple) -> list[Tensor] | None:
        """The tensors of a call's arguments; None if they are others than were recorded."""
        found: list[Tensor] = []
        return found if _flatten(arguments, self.arguments, found) else None


def _flatten(given, expected, found: list[Tensor]) -> bool:
    if expected is TENSOR:
        found.append(given)
        return isinstance(given, Tensor)
    if type(expected) in (list, tuple):
        return (
            type(given) is type(expected)
            and len(given) == len(expected)
            and all(_flatten(g, e, found) for g, e in zip(given, expected, strict=True))
        )
    return given is expected or (type(given) is type(expected) and _equal(given, expected))


def _equal(a, b) -> bool:
    """Whether plain values are equal. Registered modules are the same ones, in the same order."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(a[key] is b[key] for key in a)
    return isinstance(a, STATELESS) and a == b


def _planned(module: nn.Module, arguments: tuple | None) -> _Plan:
    """How a module's forward is rewritten. Whatever stands against it is raised."""
    cls = type(module)
    if "forward" in module.__dict__:
        raise ValueError("its forward was replaced")
    _check_code(cls, cls.forward, set())
    plan = _Plan(_arguments(cls) if arguments is None else arguments)
    graph, _ = _recorded(module, plan.arguments, True, [])
    plan.inlined = _endings(module, graph)
    places = dict(module.named_modules(remove_duplicate=False))
    for training in (True, False):
        graph, reads = _recorded(module, plan.arguments, training, plan.inlined)
        plan.reads[training] = reads
        found = Rewriting(graph, places)
        found.rewrite()
        if training:
            plan.operators = found.operators
            plan.calls = _calls(graph, places)
        passed = {places[name]: name for name in found.passed}
        passed |= {child: name for name, child in places.items() if child in plan.inlined}
        for child, name in passed.items():
            parent, _, key = name.rpartition(".")
            entry = places[parent], key, child
            if entry not in plan.passed:
                plan.passed.append(entry)
        plan.codes[training] = _compiled(graph)
    return plan


def _arguments(cls: type) -> tuple:
    """Tensors, as many as forward demands."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    demanded = [p for p in parameters if p.default is p.empty]
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in demanded):
        raise ValueError("its forward takes any number of arguments")
    return (TENSOR,) * len(demanded)


def _check_code(cls: type, function, seen: set) -> None:
    """Refuse what a recording would freeze: Python's random numbers, global variables of state."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return
    seen.add(code)
    for name in code.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType) and value.__name__ in ("random", "numpy", "time"):
            raise ValueError(f"it uses {value.__name__}")
        if isinstance(value, (bool, int, float, list, dict, set)) and not name.isupper():
            raise ValueError(f"it reads the global variable {name}")
        method = inspect.getattr_static(cls, name, None)
        if isinstance(method, types.FunctionType) and not hasattr(nn.Module, name):
            _check_code(cls, method, seen)


def _recorded(
    module: nn.Module, arguments: tuple, training: bool, inlined: list[nn.Module]
) -> tuple[fx.Graph, list[tuple[nn.Module, str, Any]]]:
    """The graph of a module's forward in a mode, and the plain attributes that it read."""
    reads: dict[tuple[int, str], tuple[nn.Module, str, Any]] = {}
    recorder = _Recorder(arguments, inlined)

    def note(watched: nn.Module, name: str, value: Any) -> Any:
        if name == "training":
            value = training
            if watched is module:
                return value  # decides which code runs
        if not recorder.own_work:
            # Children may be replaced in the same dictionary.
            kept = copy.copy(value) if name == "_modules" else value
            reads[id(watched), name] = watched, name, kept
        return value

    watched = [module, *inlined]
    classes = [type(m) for m in watched]
    try:
        for each in watched:
            each.__class__ = _watching(type(each), note)
        graph = recorder.trace(module)
    finally:
        for each, cls in zip(watched, classes, strict=True):
            object.__setattr__(each, "__class__", cls)
    return graph, list(reads.values())


def _watching(cls: type, note: Callable[[nn.Module, str, Any], Any]) -> type:
    """A class whose instances tell what is read from them, and let nothing be set."""

    def __getattribute__(self, name):
        value = super(watching, self).__getattribute__(name)
        own = object.__getattribute__(self, "__dict__")
        return note(self, name, value) if name in own and name not in BOOKKEEPING else value

    def __setattr__(self, name, value):
        raise ValueError(f"it sets its attribute {name}")

    body = {"__getattribute__": __getattribute__, "__setattr__": __setattr__}
    watching = type(cls)(cls.__name__, (cls,), body)
    return watching


def _endings(module: nn.Module, graph: fx.Graph) -> list[nn.Module]:
    """Children that end in a batch norm which is added or goes through ReLU here, and theirs."""
    places = dict(module.named_modules(remove_duplicate=False))
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or _is_leaf(places[node.target]):
            continue
        user = only_user(after_identities(node, places, []))
        if user is not None and (is_add(user) or is_relu(user, places)):
            found += _ending(places[node.target])
    return list(dict.fromkeys(found))


def _ending(module: nn.Module) -> list[nn.Module]:
    """A module, and those in it, down to the batch norm whose result is the module's own."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    if hooked or "forward" in module.__dict__:
        return []
    try:
        _check_code(type(module), type(module).forward, set())
        graph, _ = _recorded(module, _arguments(type(module)), True, [])
    except Exception:
        return []
    places = dict(module.named_modules(remove_duplicate=False))
    (last,) = next(iter(reversed(graph.nodes))).args
    while isinstance(last, fx.Node) and is_identity(last, places):
        last = last.args[0]
    if not isinstance(last, fx.Node) or last.op != "call_module":
        return []
    child = places[last.target]
    if is_norm(child):
        return [module] if is_last(child) else []
    inner = [] if _is_leaf(child) else _ending(child)
    return [module, *inner] if inner else []


def _calls(graph: fx.Graph, places: dict[str, nn.Module]) -> list[tuple[nn.Module, tuple]]:
    """The modules that a graph calls by positions alone, with their arguments."""

    def spec(value):
        if isinstance(value, fx.Node):
            return TENSOR
        if isinstance(value, (list, tuple)):
            return (list if isinstance(value, list) else tuple)(map(spec, value))
        return value

    nodes = [node for node in graph.nodes if node.op == "call_module" and not node.kwargs]
    return [(places[node.target], tuple(map(spec, node.args))) for node in nodes]


def _compiled(graph: fx.Graph) -> Callable:
    """The Python function of a graph: of a module and of the tensors in its arguments."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<scotoma.kernels.fuse>", "exec"), names)
    return names["forward"]


# Modules with a rewritten forward


_classes: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def _fused_class(cls: type) -> type:
    """The class of fused modules of ``cls``: the same but for its forward."""
    if cls in _classes:
        return _classes[cls]

    @functools.wraps(cls.forward)
    def forward(self, *args, **kwargs):
        plan = self.__dict__["_fusion"]
        tensors = None if kwargs else plan.flat(args)
        if tensors is None or not plan.holds(self.training):
            return cls.forward(self, *args, **kwargs)
        return plan.codes[self.training](self, *tensors)

    def __reduce_ex__(self, protocol):
        state = {name: value for name, value in self.__dict__.items() if name != "_fusion"}
        return _restored, (cls, self.__dict__["_fusion"].arguments), state

    def __setstate__(self, state):
        """Recorded again: the code belongs to the modules that it was recorded from."""
        arguments = self.__dict__.pop("_fusion").arguments
        self.__class__ = cls
        cls.__setstate__(self, state)
        _install(self, _planned(self, arguments))

    body = {
        "forward": forward,
        "unfused": cls,
        "__reduce_ex__": __reduce_ex__,
        "__setstate__": __setstate__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    fused = type(cls)(cls.__name__, (cls,), body)
    _classes[cls] = fused
    return fused


def _restored(cls: type, arguments: tuple) -> nn.Module:
    module = cls.__new__(cls)
    object.__setattr__(module, "__class__", _fused_class(cls))
    module.__dict__["_fusion"] = _Plan(arguments)
    return module


def _install(module: nn.Module, plan: _Plan) -> None:
    module.__class__ = _fused_class(type(module))
    module.__dict__["_fusion"] = plan

"""``fuse``: the batch norms of any network as fused operators, with every module left in its place.

A module whose forward calls batch norms gets another forward: the same calls, recorded by torch.fx
one level deep, in which ``relu(bn(x) + y)`` has become one operator. Its modules, parameters,
buffers and their names stay, so that state dicts, optimizers, copies and hooks know no difference.

Only forwards of known things are recorded (:mod:`.rules`), and what was recorded holds under
conditions, which every call checks: plain attributes that were read have the values that they had,
the modules that are passed over are the same and nobody hooked them, and tensors come where tensors
came. Where one does not hold the module's own forward runs, which is always right. Training and
evaluation are recorded apart.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import inspect
import operator
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
    other_norms,
)
from .rules import check_module, check_value, followed, is_plain

BOOKKEEPING = {*vars(nn.Module()), *vars(nn.Module), *dir(object)} - {"_modules", "training"}
"""Attributes of every module, of which hooks are checked by themselves."""
ABSENT = object()


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
    ``deepcopy`` and ``pickle`` are as before. A forward that does more than known arithmetic
    (control flow on values of tensors, random numbers, ``with``, devices, ...) stays as it is.

    Convert to SyncBatchNorm, and prune or replace modules, before: modules that were replaced
    afterwards run unfused. No other thread may run modules meanwhile.

    Args:
        model: any module; on any device, in any mode.

    Returns:
        What was done with each batch norm, and why not more. ``print`` it.

    Raises:
        TypeError: model is no module, or one of TorchScript.
        ValueError: it has no batch norm of images, or is fused already.
    """
    norms = _checked(model)
    counts = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False) if is_norm(m))
    plans, reasons = {}, {}
    arguments: dict[int, Any] = {}
    skipped: set[int] = set()
    for name, module in model.named_modules():
        if _is_leaf(module) or id(module) in skipped:
            continue
        try:
            plan = _planned(module, arguments.get(id(module)), _shared(module, counts))
        except Exception as error:  # anybody's forward may raise anything; the table says what
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


def _shared(module: nn.Module, counts: Counter) -> tuple[str, ...]:
    """Batch norms below a module that have more than one name in the network."""
    found = module.named_modules(remove_duplicate=False)
    return tuple(name for name, m in found if is_norm(m) and counts[id(m)] > 1)


def unfuse(model: nn.Module) -> None:
    """Give every module the forward back that it had before :func:`fuse`, in place.

    Raises:
        ValueError: nothing in the model is fused.
    """
    fused = [module for module in model.modules() if _is_fused(module)]
    if not fused:
        raise ValueError(f"model is {type(model).__name__}, in which nothing is fused")
    for module in fused:
        del module.__dict__["_fusion"]
        # A class that something else was derived from meanwhile runs its own forward without it.
        module.__class__ = _class(module)


def _class(module: nn.Module) -> type:
    """Of a module as it was, before it was fused."""
    return vars(type(module)).get("_unfused", type(module))


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
        raise ValueError(
            f"model is {type(model).__name__}, which has no BatchNorm2d or SyncBatchNorm"
            f"{other_norms(model)}"
        )
    return norms


def _is_fused(module: nn.Module) -> bool:
    return "_fusion" in module.__dict__


def _is_leaf(module: nn.Module) -> bool:
    """Whether it calls no other module: also lists of modules, which are not called at all."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
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


class _Value(fx.Proxy):
    """A tensor of a recording. It may decide nothing: not by its hash, and not as text."""

    def __hash__(self):
        raise TypeError("it looks a tensor or a size up")

    def __format__(self, form):
        raise TypeError("it makes text of a tensor or a size")

    __str__ = __repr__ = lambda self: format(self)


def _record_in_place(name: str) -> None:
    """fx would take ``a += b`` for ``a = a + b``, though others may hold ``a``."""
    function = getattr(operator, name)

    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    setattr(_Value, f"__{name}__", method)


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
        return _Value(node, self)

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        if attr_val is None and not self.own_work:
            raise ValueError(f"it reads {attr}, which is None and may become a tensor or module")
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, module, forward, args, kwargs):
        if type(module).__call__ is not nn.Module.__call__:
            raise ValueError(f"{type(module).__name__} has a __call__ of its own")
        return super().call_module(module, forward, args, kwargs)

    def create_arg(self, value):
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
        self.given = [each for each in arguments if type(each) is list]
        self.lengths = [len(each) for each in self.given]
        self.own_work = False
        return forward, arguments


@dataclass
class _Plan:
    """A rewritten forward, and when it may run.

    Attributes:
        arguments: as those of :class:`_Recorder`. codes: forwards by mode: training or not.
        reads: (module, attribute, value) of plain attributes, by mode.
        passed: (parent, name, module, class) of modules that are not called any more.
        called: (parent, name) of modules that are.
        shared: names of batch norms that other modules have, too.
        inlined: those of them whose calls were recorded, or whose children are called one by one.
        operators: what became one operator, by the id of each batch norm.
        calls: modules that are called, with their arguments.
    """

    arguments: tuple
    codes: dict[bool, Callable] = field(default_factory=dict)
    reads: dict[bool, list[tuple[nn.Module, str, Any]]] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    called: list[tuple[nn.Module, str]] = field(default_factory=list)
    passed: list[tuple[nn.Module, str, nn.Module, type]] = field(default_factory=list)
    inlined: list[nn.Module] = field(default_factory=list)
    operators: dict[int, str] = field(default_factory=dict)
    calls: list[tuple[nn.Module, tuple]] = field(default_factory=list)

    def holds(self, training: bool) -> bool:
        for module, name, value in self.reads[training]:
            now = module.__dict__.get(name, ABSENT)
            if now is ABSENT and _registered(module, name, ABSENT) is not ABSENT:
                return False
            if now is not value and not (type(now) is type(value) and _equal(now, value)):
                return False
        for parent, name in self.called:
            if _registered(parent, name) is None:
                return False
        for parent, name, module, cls in self.passed:
            if parent._modules.get(name) is not module or _class(module) is not cls:
                return False
            if "forward" in module.__dict__:
                return False
            if module._forward_hooks or module._forward_pre_hooks:
                return False
            if module._backward_hooks or module._backward_pre_hooks:
                return False
        return not _has_any_global_hook()

    def copied(self, memo: dict[int, Any]) -> _Plan | None:
        """The plan of a copy, whose modules ``memo`` has by the ids of these; None if it lacks one.

        A condition that does not hold here does not hold there.
        """

        def other(value):
            if isinstance(value, dict):  # registered modules
                return {k: v if v is None else memo[id(v)] for k, v in value.items()}
            return value

        try:
            reads = {
                mode: [(memo[id(m)], name, other(value)) for m, name, value in found]
                for mode, found in self.reads.items()
            }
            called = [(memo[id(p)], name) for p, name in self.called]
            passed = [(memo[id(p)], name, memo[id(m)], cls) for p, name, m, cls in self.passed]
        except KeyError:
            return None
        conditions = {"reads": reads, "called": called, "passed": passed}
        return replace(self, **conditions, inlined=[], operators={}, calls=[])

    def flat(self, arguments: tuple) -> list[Tensor] | None:
        """The tensors of a call's arguments; None if they are others than were recorded."""
        found: list[Tensor] = []
        return found if _flatten(arguments, self.arguments, found) else None


def _registered(module: nn.Module, name: str, missing=None):
    for kind in (module._modules, module._parameters, module._buffers):
        if name in kind:
            return kind[name]
    return missing


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
    return is_plain(a) and a == b


def _planned(module: nn.Module, arguments: tuple | None, shared: tuple[str, ...] = ()) -> _Plan:
    """How a module's forward is rewritten. Whatever stands against it is raised."""
    check_module(module)
    plan = _Plan(_arguments(type(module)) if arguments is None else arguments, shared=shared)
    graph, _ = _recorded(module, plan.arguments, True, [])
    plan.inlined = _endings(module, graph)
    places = dict(module.named_modules(remove_duplicate=False))
    over: set[nn.Module] = set()
    for training in (True, False):
        graph, plan.reads[training] = _recorded(module, plan.arguments, training, plan.inlined)
        found = Rewriting(graph, places, shared)
        found.rewrite()
        if training:
            plan.operators = found.operators
            plan.calls = _calls(graph, places)
        passed = [*found.passed, *(n for n, child in places.items() if child in plan.inlined)]
        # timm's batch norms have their activation inside.
        norms = [name for name in found.passed if is_norm(places[name])]
        passed += [f"{name}.{key}" for name in norms for key in places[name]._modules]
        used = [n.target for n in graph.nodes if n.op in ("call_module", "get_attr")]
        plan.called += [(places[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in used]
        # And what lies between them and this module.
        above = {name.rpartition(".")[0] for name in [*used, *passed]} - {""}
        over |= {places[name] for name in above} - {places.get(name) for name in used}
        passed += [name for name in above if name not in passed]
        for name in passed:
            parent, _, key = name.rpartition(".")
            entry = places[parent], key, places[name], _class(places[name])
            if entry not in plan.passed:
                plan.passed.append(entry)
        plan.codes[training] = _compiled(graph)
    plan.called = list(dict.fromkeys(plan.called))
    plan.inlined += over
    return plan


def _arguments(cls: type) -> tuple:
    """Tensors, as many as forward demands."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    demanded = [p for p in parameters if p.default is p.empty]
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in demanded):
        raise ValueError("its forward takes any number of arguments")
    return (TENSOR,) * len(demanded)


_recording = threading.Lock()
"""torch.fx changes nn.Module for the time of a recording."""


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
            if name != "_modules" and value is not ABSENT:
                check_value(name, value)
            reads[id(watched), name] = watched, name, kept
        return value

    watched = list(dict.fromkeys([module, *inlined, *_lists(module)]))
    classes = [type(m) for m in watched]
    with _recording:
        try:
            for each in watched:
                each.__class__ = _watching(type(each), note)
            with followed(watched):
                graph = recorder.trace(module)
            if [len(each) for each in recorder.given] != recorder.lengths:
                raise ValueError("it changes a list that it was given")
        finally:
            for each, cls in zip(watched, classes, strict=True):
                object.__setattr__(each, "__class__", cls)
    if any("out" in node.kwargs for node in graph.nodes):
        raise ValueError("it writes to out=")
    return graph, list(reads.values())


def _lists(module: nn.Module) -> list[nn.Module]:
    """Lists of modules below a module, which it may go through."""
    kinds = nn.ModuleList, nn.ModuleDict, nn.Sequential
    children = [m for m in module.children() if isinstance(m, kinds)]
    return children + [below for child in children for below in _lists(child)]


def _watching(cls: type, note: Callable[[nn.Module, str, Any], Any]) -> type:
    """A class whose instances tell what is read from them, and let nothing be set."""

    def __getattribute__(self, name):
        try:
            value = super(watching, self).__getattribute__(name)
        except AttributeError:  # a module or tensor, or nothing
            own = object.__getattribute__(self, "__dict__")
            if not any(name in own[kind] for kind in ("_modules", "_parameters", "_buffers")):
                note(self, name, ABSENT)
            raise
        if name in object.__getattribute__(self, "__dict__"):
            return value if name in BOOKKEEPING else note(self, name, value)
        # Of the class, as long as the instance has none.
        if is_plain(value) or (inspect.ismethod(value) and name not in BOOKKEEPING):
            note(self, name, ABSENT)
        return value

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
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return []
    try:
        check_module(module)
        graph, _ = _recorded(module, _arguments(type(module)), True, [])
    except Exception:  # a call like others, then; why, the table says of the module itself
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
        plan = self.__dict__.get("_fusion")  # another instance of this class may have none
        tensors = None if kwargs or plan is None else plan.flat(args)
        if tensors is None or not plan.holds(self.training):
            return cls.forward(self, *args, **kwargs)
        return plan.codes[self.training](self, *tensors)

    def __deepcopy__(self, memo):
        made = _empty(self)
        memo[id(self)] = made
        state = {name: value for name, value in self.__dict__.items() if name != "_fusion"}
        made.__dict__.update(copy.deepcopy(state, memo))
        plan = self.__dict__.get("_fusion")
        plan = type(self) is fused and plan and plan.copied(memo)
        return _install(made, plan) if plan else made

    def __reduce_ex__(self, protocol):
        """Recorded again in another process."""
        state = {name: value for name, value in self.__dict__.items() if name != "_fusion"}
        if type(self) is not fused:  # of a class that was derived from it: as that class has it
            return copyreg.__newobj__, (type(self),), state
        plan = self.__dict__.get("_fusion")
        return _restored, (cls, plan and (plan.arguments, plan.shared)), state

    def __setstate__(self, state):
        asked = self.__dict__.pop("_fusion", None)
        if type(self) is fused:
            self.__class__ = cls
        cls.__setstate__(self, state)
        if asked:
            with contextlib.suppress(Exception):  # of another version, perhaps: then unfused
                _install(self, _planned(self, *asked))

    body = {
        "forward": forward,
        "_unfused": cls,
        "__deepcopy__": __deepcopy__,
        "__reduce_ex__": __reduce_ex__,
        "__setstate__": __setstate__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    fused = type(cls)(cls.__name__, (cls,), body)
    _classes[cls] = fused
    return fused


def _empty(module: nn.Module) -> nn.Module:
    cls = _class(module)
    return cls.__new__(cls)


def _restored(cls: type, asked: tuple | None) -> nn.Module:
    module = cls.__new__(cls)
    object.__setattr__(module, "__class__", _fused_class(cls))
    module.__dict__["_fusion"] = asked
    return module


def _install(module: nn.Module, plan: _Plan) -> nn.Module:
    module.__class__ = _fused_class(type(module))
    module.__dict__["_fusion"] = plan
    return module

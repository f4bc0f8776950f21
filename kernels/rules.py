"""What a recorded forward may do: nothing that the recording would freeze.

A recording keeps what Python did once. So that this is what Python does every time, a forward may
be made of known things alone: calls of its modules and methods, known functions and methods of
tensors, plain attributes of its own (whose values become conditions of the recording), loops and
branches over these. All else is refused, whatever it may do: writing to anything but a local
variable, ``with``, closures, random numbers, modes of torch, devices and dtypes, attributes of
attributes, functions that are not known. What counts is the code that runs while it is recorded.
"""

from __future__ import annotations

import builtins
import dis
import gc
import inspect
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

PLAIN = (bool, int, float, str, type(None))
"""Types of attributes that a forward may read, beside tuples of them."""
# No random numbers but dropout's, which stay calls; no new tensors; nothing that asks for values.
_OF_TENSORS = (
    "abs adaptive_avg_pool2d add add_ amax amin avg_pool2d cat chunk clamp clamp_ clone concat "
    "contiguous conv2d div div_ dropout elu exp flatten gelu hardsigmoid hardswish hardtanh "
    "interpolate leaky_relu log matmul max_pool2d maximum mean mish mul mul_ narrow neg norm pad "
    "permute pow prod relu relu6 relu_ reshape shape sigmoid silu size softmax softplus split sqrt "
    "square squeeze stack sub sub_ sum t tanh transpose unbind unflatten unsqueeze var view"
)
TENSOR_NAMES = frozenset(_OF_TENSORS.split(" "))
OTHER_NAMES = ("nn", "functional", "jit", "is_scripting", "_assert", "append", "extend", "insert")
OTHER_NAMES += ("pop", "items", "keys", "values", "Tensor")
BUILTINS = ("enumerate", "isinstance", "len", "list", "range", "reversed", "sum", "super", "tuple")
BUILTINS += ("zip", "str", "repr", "min", "max", "map")
WRITES = ("STORE_ATTR", "STORE_GLOBAL", "STORE_NAME", "STORE_SUBSCR", "STORE_SLICE", "DELETE_")
SILENT = ("RESUME", "CACHE", "PRECALL", "PUSH_NULL", "COPY_FREE_VARS", "EXTENDED_ARG")
REFUSED = {
    "BEFORE_WITH": "has a with block",
    "BEFORE_ASYNC_WITH": "has a with block",
    "IMPORT_NAME": "imports",
    "PUSH_EXC_INFO": "handles exceptions",
    "YIELD_VALUE": "yields",
    "RETURN_GENERATOR": "yields",
}
TORCH = f"{Path(torch.__file__).parent}{os.sep}"
HERE = f"{Path(__file__).parent}{os.sep}"
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")


def is_plain(value) -> bool:
    return all(map(is_plain, value)) if type(value) is tuple else type(value) in PLAIN


def check_module(module: nn.Module) -> None:
    """Refuse a module of a class that does more than a forward.

    Raises:
        ValueError: with the reason.
    """
    cls = type(module)
    if isinstance(module, (fx.GraphModule, torch.jit.ScriptModule)):
        raise ValueError(f"it is a {cls.__name__}")
    if "forward" in module.__dict__:
        raise ValueError("its forward was replaced")
    usual = nn.Module, object
    names = ["__call__", "__getattr__", "__setattr__", "__getattribute__", "__init_subclass__"]
    names += ["__deepcopy__", "__copy__", "__getstate__", "__setstate__", "__reduce__"]
    names += ["__reduce_ex__", "__slots__"]
    for name in names:
        if any(name in vars(c) for c in cls.__mro__ if c not in usual):
            raise ValueError(f"its class has a {name} of its own")
    forward = inspect.getattr_static(cls, "forward")
    if forward is not nn.Sequential.forward and not _is_read(forward):
        raise ValueError("its forward is decorated, or a default of it can change")


def check_value(name: str, value) -> None:
    """Refuse an attribute that may change without being set.

    Raises:
        ValueError: it is no plain value, and no function of torch's.
    """
    function = isinstance(value, (types.FunctionType, types.BuiltinFunctionType))
    known = function and _is_of_torch(value) and value.__name__ in TENSOR_NAMES
    if not known and not is_plain(value):
        raise ValueError(f"it reads its attribute {name}, of type {type(value).__name__}")


@contextmanager
def followed(modules: list[nn.Module]) -> Iterator[None]:
    """Refuse what the forwards of modules, and what they call outside of torch, do beside that.

    modules: of which a recording notes what is read.

    Raises:
        ValueError: with the reason.
    """
    reasons: list[str] = []
    forwards = {type(module).forward.__code__ for module in modules}
    watched = set(map(id, modules))

    def follow(frame: types.FrameType, event: str, _argument):
        code = frame.f_code
        if event == "call":
            # Torch's own functions are known by their names, and call others as they like.
            called = code in forwards or (
                frame.f_back is not None and frame.f_back.f_trace is follow
            )
            if not called or code.co_filename.startswith((TORCH, HERE)):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if any(row[1].opname == "PUSH_EXC_INFO" for row in _instructions(code).values()):
                reasons.append("it handles exceptions")
                raise ValueError(reasons[0])
        elif event == "opcode" and not reasons:
            reason = _refusal(*_instructions(code)[frame.f_lasti], frame, watched)
            if reason:
                reasons.append(reason)
                raise ValueError(reason)
        return follow

    earlier, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # what collection calls is none of the forward's
    sys.settrace(follow)
    try:
        yield
    except Exception:  # the refusal itself, or what somebody made of it; others' errors go on
        if not reasons:
            raise
    finally:
        sys.settrace(earlier)
        if collecting:
            gc.enable()
    if reasons:  # also where somebody caught it
        raise ValueError(reasons[0])


@cache
def _instructions(code: types.CodeType) -> dict[int, tuple]:
    """Each instruction by its offset: the one before it, itself, and the two after it."""
    found = [i for i in dis.get_instructions(code) if i.opname not in SILENT]
    rows = zip([None, *found], found, [*found[1:], None], [*found[2:], None, None], strict=False)
    known = {row[1].offset: row for row in rows}
    silent = {i.offset: (None, i, None, None) for i in dis.get_instructions(code)}
    return silent | known


def _refusal(before, instruction, then, later, frame, watched: set[int]) -> str | None:
    kind, name = instruction.opname, instruction.argval
    inner = frame.f_code.co_name in COMPREHENSIONS
    if kind in REFUSED and not (inner and REFUSED[kind] == "yields"):
        return f"it {REFUSED[kind]}"
    if kind.startswith("MATCH_"):
        return "it asks for types"
    if kind.startswith(WRITES):
        return f"it sets {name if isinstance(name, str) else 'an item'}"
    if kind == "IS_OP" and not (before.opname == "LOAD_CONST" and before.argval is None):
        return "it asks which object a value is"
    free = kind in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE") and not inner
    if free and name in frame.f_code.co_freevars:
        return None if name == "__class__" else f"it is a closure over {name}"
    if kind == "LOAD_GLOBAL":
        value = frame.f_globals.get(name, getattr(builtins, name, None))
        if value is isinstance:  # stand-ins are no tensors, but lists of them are lists
            plain = type(frame.f_locals.get(_loaded(then))) in (list, tuple)
            return None if plain else "it asks for types"
        if value is getattr and _loaded(then) == "self" and later.opname == "LOAD_CONST":
            return _own_attribute(later.argval, frame, watched)
        return None if _is_known(name, value) else f"it uses {name}"
    if kind in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
        return _attribute(instruction, frame, watched)
    return None


def _attribute(instruction, frame: types.FrameType, watched: set[int]) -> str | None:
    name, before = instruction.argval, _instructions(frame.f_code)[instruction.offset][0]
    if _loaded(before) == "self" and isinstance(frame.f_locals.get("self"), nn.Module):
        return _own_attribute(name, frame, watched)
    owner = _owner(before, frame)
    if isinstance(owner, nn.Module):  # a child, of which a recording notes no attributes
        return None if name in owner._modules else f"it uses {name} of a module"
    return None if name in TENSOR_NAMES or name in OTHER_NAMES else f"it uses {name}"


def _owner(instruction, frame: types.FrameType):
    """The module that an instruction has loaded, if it is one that can be told."""
    if _loaded(instruction) is not None:
        return frame.f_locals.get(_loaded(instruction))
    if instruction.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
        return None
    owner = _owner(_instructions(frame.f_code)[instruction.offset][0], frame)
    return owner._modules.get(instruction.argval) if isinstance(owner, nn.Module) else None


def _loaded(instruction: dis.Instruction) -> str | None:
    """The local variable that an instruction loads; the last of two, as in Python 3.13."""
    if "LOAD_FAST" not in instruction.opname and instruction.opname != "LOAD_DEREF":
        return None
    return instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval


def _own_attribute(name: str, frame: types.FrameType, watched: set[int]) -> str | None:
    owner = frame.f_locals["self"]
    if id(owner) not in watched:
        return f"it uses {name} of a module"
    found = inspect.getattr_static(type(owner), name, None)
    method = _is_read(found) and name not in vars(nn.Module)
    method |= isinstance(owner, nn.ModuleDict) and name in ("items", "keys", "values")
    registered = found is None or is_plain(found) or name in ("training", "_modules")
    registered &= name not in ("_parameters", "_buffers")
    return None if method or registered else f"it uses its {name}"


def _is_of_torch(value) -> bool:
    return f"{getattr(value, '__module__', None)}.".startswith("torch.")


def _is_known(name: str, value) -> bool:
    if value is Tensor or (name in BUILTINS and value is getattr(builtins, name)):
        return True
    if isinstance(value, types.ModuleType):
        return value in (torch, F, nn, torch.jit)
    if isinstance(value, type):
        return issubclass(value, BaseException)
    if _is_of_torch(value):
        return name.lstrip("_") in TENSOR_NAMES or name == "_assert"
    return _is_read(value)


def _is_read(value) -> bool:
    """Whether a function is one whose code is read when it is called, and all that it is."""
    if not isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
        return False
    defaults = *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()
    return is_plain(defaults) and not value.__code__.co_filename.startswith((TORCH, HERE))

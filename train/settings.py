"""Settings from files and from the command line, for every verb.

Settings of a training come from several places, of which later ones win: defaults < the recipe <
YAML files (``--config``) < the command line.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonargparse

from ..defective.errors import UserError, nearest
from .config import PictureFormat, TrainConfig
from .screen import paragraphs

_KINDS = {"int": "a whole number", "float": "a finite number", "str": "text", "list": "a list"}
ALIASES = {"model": "arch"}
"""Other names of settings, which are options too."""
RECIPES = Path(__file__).parent / "recipes"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings. Raises UserError on a missing file, bad YAML or an unknown key."""
    import yaml

    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    known = [item.name for item in fields(TrainConfig)]
    renamed = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in known:
            raise UserError(f"{path}: unknown key {str(key)!r}.{nearest(name, known)}")
        renamed[name] = value
    return renamed


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    if name not in (known := recipe_names()):
        near = nearest(str(name), known)
        raise UserError(f"recipe {name!r} is unknown; expected one of {', '.join(known)}.{near}")
    return read_yaml(RECIPES / f"{name}.yaml")


def recipe_for(dataset: str) -> str:
    """The recipe that a data set gets unless one is named."""
    return {
        "sample": "quick",
        "mnist": "paper-mnist",
        "fashion-mnist": "paper-mnist",
        "imagenet": "imagenet",
    }.get(dataset, "fast-cifar10")


def tidy(message: str, parser: argparse.ArgumentParser) -> str:
    """One line of an argument parser's message, with the option that was perhaps meant."""
    line = " ".join(str(message).split())
    if "nrecognized arguments:" in line:
        word = line.split("nrecognized arguments:")[1].split()[0].split("=")[0]
        if not word.startswith("-"):
            several = parser._get_positional_actions()
            what = "that is one too many" if several else "takes options only, no arguments"
            return f"unexpected argument {word!r}: {what}"
        options = parser._option_string_actions
        known = [option for option in options if option.startswith("--") and "+" not in option]
        return f"unknown option {word!r}.{nearest(word, known)}"
    if found := re.match(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)$", line):
        names = [name.strip("'") for name in found[3].split(", ")]
        value = found[2].strip("'")
        return (
            f"{found[1]} is {value!r}; expected one of {', '.join(names)}.{nearest(value, names)}"
        )
    # What jsonargparse says of a value names Python's types.
    found = re.match(r'Parser key "(\w+)":.*?(?:Got value|Given value):(.*)', line)
    if not found:
        yes_no = r"argument (\S+)/\S+: invalid _boolean_type value: (.*)"
        return re.sub(yes_no, r"\1 is \2; expected yes or no", line)
    option, value = "--" + found[1].replace("_", "-"), found[2].strip()
    for choices in re.findall(r"Literal\[(.*?)\]", line):
        names = re.findall(r"'(.*?)'", choices)
        return f"{option} is {value!r}; expected one of {', '.join(names)}.{nearest(value, names)}"
    kinds = re.findall(r"Expected a <class '(\w+)'>", line)
    expected = " or ".join(_KINDS.get(kind, kind) for kind in kinds if kind != "NoneType")
    return f"{option} is {value!r}; expected {expected}"


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Fills paragraphs, and says what each option is without being given, but no Python types."""

    def _fill_text(self, text, width, indent):
        return paragraphs(text, width)

    def _get_help_string(self, action):
        text = (action.help or "").replace("%%", "%")  # which jsonargparse does not do
        flag = action.nargs == 0 and action.default is False
        if action.default in (None, [], (), "==SUPPRESS==") or "default:" in text or flag:
            return text
        return f"{text} (default: %(default)s)"


class Parser(jsonargparse.ArgumentParser):
    """Of every verb. Errors are one line that names the nearest known option, as UserError; what is
    no option may stand before, between and behind options."""

    def error(self, message: str, ex: Exception | None = None):
        raise UserError(tidy(message, self))

    def parse_args(self, args: Sequence[str], **keywords):
        return super().parse_args(self._arguments_first(args), **keywords)

    def _arguments_first(self, words: Sequence[str]) -> list[str]:
        """Options and their values behind all else, where argparse understands them."""
        rest = list(words)
        if "--" in rest or not self._get_positional_actions():
            return rest
        arguments, options = [], []
        while rest:
            word = rest.pop(0)
            if not _is_option(word):
                arguments.append(word)
                continue
            options.append(word)
            action = self._option_string_actions.get(word)
            most = {None: 1, "?": 1, "*": len(rest), "+": len(rest)}
            count = 0 if action is None else most.get(action.nargs, action.nargs)
            while rest and count > 0 and not _is_option(rest[0]):
                options.append(rest.pop(0))
                count -= 1
        return arguments + options


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None  # -1 is a number


def make_parser(verb: str, description: str, usage: str | None = None) -> Parser:
    """The parser of ``scotoma VERB``: ``add_argument`` as of argparse, or :func:`add_settings`."""
    return Parser(
        prog=f"scotoma {verb}",
        usage=usage,
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


def add_settings(parser: Parser, config: type) -> None:
    """An option for every field of a dataclass, as :func:`~scotoma.train.config.setting` has it."""
    groups, types = {None: parser}, get_type_hints(config)
    for item in fields(config):
        name, metadata = item.metadata["group"], dict(item.metadata["form"])
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        flag = "--" + item.name.replace("_", "-")
        default = item.default if item.default_factory is MISSING else item.default_factory()
        form = {"default": default, "help": item.metadata["help"], **metadata}
        flags = form.pop("flags", [flag])
        kind, metavar = types[item.name], item.metadata["metavar"]
        if kind in (bool, bool | None):
            # With a third answer, "as is best", a value may follow too: --channels-last false.
            value = {} if kind is bool else {"nargs": "?"}
            action = jsonargparse.ActionYesNo(no_prefix="no-")
            group.add_argument(flag, action=action, **form, **value).metavar = "yes|no"
        elif form.pop("positional", False):
            group.add_argument(item.name, metavar=metavar, **form)
        elif form.keys() & {"nargs", "action", "choices"}:  # texts, which the verb reads itself
            group.add_argument(*flags, metavar=metavar, **form)
        else:
            group.add_argument(*flags, type=kind, metavar=metavar, **form)


def add_picture_format(
    parser: argparse.ArgumentParser, help: str = "of the pictures", default: str = "png"
) -> None:
    """The same option for every command that draws."""
    formats = get_args(PictureFormat)
    parser.add_argument("--picture-format", choices=formats, default=default, help=help)


_DESCRIPTION = """\
Train a network on images and leave a run folder with curves, metrics and checkpoints.

  scotoma train                                          the sample, in half a minute
  scotoma train --defects 0.1-Bottom --epochs 10         another network on it
  scotoma train --dataset cifar10 --download --defects 0.3-Bottom
  scotoma train --dataset path/to/images --arch vgg19    train/<class>/*, test/<class>/*, or
                                                         <class>/* alone
  scotoma train --model torchvision:resnet50 --dataset cifar10 --defects 0.3-Bottom
  scotoma train --resume runs/NAME                       go on where a run stopped

A recipe is a preset; the defaults shown below are those without one. A --config file overrides the
recipe, and the command line overrides both.
Recipes: {recipes}."""


def build_parser() -> Parser:
    parser = make_parser(
        "train",
        _DESCRIPTION.format(recipes=", ".join(recipe_names())),
        "scotoma train [--config FILE] [--option VALUE ...]",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML file of settings below"
    )
    parser.add_argument(
        "--resume",
        type=str | None,
        default=None,
        metavar="RUN",
        help="continue the run in this folder, with its own settings",
    )
    add_settings(parser, TrainConfig)
    return parser


def parse(argv: list[str]) -> tuple[TrainConfig, str | None]:
    """Settings from command line arguments.

    Returns:
        The settings (the recipe applied, and named), and the folder to resume, if any.

    Raises:
        UserError: an unknown option or key, or a value of the wrong type or out of range.
    """
    parser = build_parser()
    given = parser.parse_args(argv, defaults=False).as_dict()
    resume = given.pop("resume", None)
    if resume is not None:
        if extra := [name for name in given if name != "device"]:
            raise UserError(
                "--resume takes all settings from the run; leave out "
                f"--{extra[0].replace('_', '-')} (only --device may be given)"
            )
        return TrainConfig(**given), resume
    asked: dict[str, Any] = {}
    for path in given.pop("config", []):
        asked |= _typed(parser, read_yaml(Path(path)))
    return _with_recipe(parser, asked | given), None


def parse_keywords(values: Mapping[str, Any], resuming: bool = False) -> TrainConfig:
    """Settings from keywords, as if each was an option of the command line.

    Args:
        resuming: a run goes on, with its own settings; only ``device`` may be among ``values``.

    Raises:
        UserError: as of :func:`parse`.
    """
    known = [item.name for item in fields(TrainConfig)]
    values = {ALIASES.get(name, name): value for name, value in values.items()}
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {name!r}.{nearest(name, known)}")
        if resuming and name != "device":
            raise UserError(
                f"resume takes all settings from the run; leave out {name} (only device may be "
                "given)"
            )
    plain = {n: os.fspath(v) if isinstance(v, os.PathLike) else v for n, v in values.items()}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in plain.items()}
    parser = build_parser()
    return TrainConfig(**_typed(parser, plain)) if resuming else _with_recipe(parser, plain)


def _with_recipe(parser: Parser, asked: dict[str, Any]) -> TrainConfig:
    """What is asked for over the recipe, which is named in the settings, over the defaults."""
    asked = _typed(parser, asked)
    recipe = asked.get("recipe", "auto")
    automatic = recipe == "auto"
    if automatic:
        recipe = recipe_for(asked.get("dataset", TrainConfig.dataset))
    values = _typed(parser, read_recipe(recipe))
    if ":" in asked.get("arch", ""):  # another library's network, which has its own
        values.pop("width", None)
    if automatic and asked.get("batch_size", math.inf) < values["batch_size"]:
        # The linear rule (Goyal et al., 2017): 0.4 is too much for batches of 64. A recipe that was
        # asked for is taken as it is.
        values["lr"] *= asked["batch_size"] / values["batch_size"]
    return TrainConfig(**values | asked | {"recipe": recipe})


def _typed(parser: Parser, values: dict[str, Any]) -> dict[str, Any]:
    """The values of settings in their types. Raises UserError on one of another type."""
    types = get_type_hints(TrainConfig)
    for key, value in values.items():
        if types[key] in (bool, bool | None) and not isinstance(value, types[key]):
            raise UserError(f"{key} is {value!r}; expected true or false")
    return parser.parse_object(values, defaults=False).as_dict()


def load_resolved(path: Path) -> TrainConfig:
    """The settings that a run folder holds. Raises UserError."""
    return TrainConfig(**_typed(build_parser(), read_yaml(path)))

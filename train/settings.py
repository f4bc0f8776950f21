"""Settings from files and from the command line, for every verb.

Settings of a training come from several places, of which later ones win: defaults < the recipe <
YAML files (``--config``) < the command line.
"""

from __future__ import annotations

import argparse
import re
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonargparse

from ..defective.errors import UserError, nearest
from .config import PictureFormat, TrainConfig
from .screen import wrapped

_KINDS = {"int": "a whole number", "float": "a finite number", "str": "text", "list": "a list"}
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
        if name not in known:
            raise UserError(f"{path}: unknown key {str(key)!r}.{nearest(name, known)}")
        renamed[name] = value
    return renamed


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    if name not in recipe_names():
        known = recipe_names()
        raise UserError(
            f"recipe {name!r} is unknown; expected one of {', '.join(known)}.{nearest(name, known)}"
        )
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
    # What jsonargparse says of a value names Python's types.
    found = re.match(r'Parser key "(\w+)":.*?(?:Got value|Given value):(.*)', line)
    if not found:
        yes_no = re.match(r"argument (\S+)/\S+: invalid _boolean_type value: (.*)", line)
        return f"{yes_no[1]} is {yes_no[2]}; expected yes or no" if yes_no else line
    option, value = "--" + found[1].replace("_", "-"), found[2].strip()
    for choices in re.findall(r"Literal\[(.*?)\]", line):
        names = re.findall(r"'(.*?)'", choices)
        return f"{option} is {value!r}; expected one of {', '.join(names)}.{nearest(value, names)}"
    kinds = re.findall(r"Expected a <class '(\w+)'>", line)
    expected = " or ".join(_KINDS.get(kind, kind) for kind in kinds if kind != "NoneType")
    return f"{option} is {value!r}; expected {expected}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs, and keeps lines that are indented apart."""

    def _fill_text(self, text, width, indent):
        blocks = []
        for block in re.split(r"\n\s*\n", text.strip("\n")):
            lines = block.splitlines()
            whole = not any(line.startswith(" ") for line in lines)
            filled = [" ".join(lines)] if whole else lines
            blocks.append("\n".join(wrapped(line, width, 0 if whole else None) for line in filled))
        return "\n\n".join(blocks)


class Parser(argparse.ArgumentParser):
    """Errors as one line that names the nearest known option."""

    def error(self, message: str):
        raise UserError(tidy(message, self))


def make_parser(verb: str, description: str) -> Parser:
    return Parser(
        prog=f"scotoma {verb}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def add_picture_format(
    parser: argparse.ArgumentParser, help: str = "of the pictures", default: str = "png"
) -> None:
    """The same option for every command that draws."""
    formats = get_args(PictureFormat)
    parser.add_argument("--picture-format", choices=formats, default=default, help=help)


class _Parser(jsonargparse.ArgumentParser):
    """Errors as one line that names the nearest known option."""

    def error(self, message: str, ex: Exception | None = None):
        raise UserError(tidy(message, self))


_DESCRIPTION = """\
Train a network on images and leave a run folder with curves, metrics and checkpoints.

  scotoma train                                          the sample, in half a minute
  scotoma train --defects 0.1-Bottom --epochs 10         another network on it
  scotoma train --dataset cifar10 --download --defects 0.3-Bottom
  scotoma train --dataset path/to/images --arch vgg19    train/<class>/*, test/<class>/*, or
                                                         <class>/* alone
  scotoma train --resume runs/NAME                       go on where a run stopped

A recipe is a preset; the defaults shown below are those without one. A --config file overrides the
recipe, and the command line overrides both.
Recipes: {recipes}."""


class _HelpFormatter(HelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Help texts with the default value, without the Python types."""

    def _get_help_string(self, action):
        text = action.help or ""
        if action.default in (None, [], "==SUPPRESS==") or "default:" in text:
            return text
        return f"{text} (default: %(default)s)"


def build_parser() -> _Parser:
    parser = _Parser(
        prog="scotoma train",
        usage="scotoma train [--config FILE] [--option VALUE ...]",
        description=_DESCRIPTION.format(recipes=", ".join(recipe_names())),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
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
    groups, types = {}, get_type_hints(TrainConfig)
    for item in fields(TrainConfig):
        name = item.metadata["group"]
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        flag = "--" + item.name.replace("_", "-")
        default = item.default if item.default_factory is MISSING else item.default_factory()
        kind = types[item.name]
        if kind in (bool, bool | None):
            action = jsonargparse.ActionYesNo(no_prefix="no-")
            # With a third answer, "as is best", a value may follow too: --channels-last false.
            value = {} if kind is bool else {"nargs": "?"}
            added = group.add_argument(
                flag, action=action, default=default, help=item.metadata["help"], **value
            )
            added.metavar = "yes|no"
        else:
            group.add_argument(
                flag,
                type=kind,
                default=default,
                help=item.metadata["help"],
                metavar=item.metadata["metavar"],
            )
    return parser


def parse(argv: list[str]) -> tuple[TrainConfig, str | None]:
    """Settings from command line arguments.

    Returns:
        The settings (the recipe applied, and named), and the folder to resume, if any.

    Raises:
        UserError: an unknown option or key, or a value of the wrong type or out of range.
    """
    parser = build_parser()
    asked = parser.parse_args(argv)
    if asked.resume is not None:
        extra = [a for a in argv if a.startswith("--") and not a.startswith("--resume")]
        allowed = [a for a in extra if a.split("=")[0] in ("--device",)]
        if extra != allowed:
            raise UserError(
                f"--resume takes all settings from the run; leave out {extra[0]} (only --device "
                "may be given)"
            )
        return TrainConfig(device=asked.device), asked.resume

    layers = [read_yaml(Path(path)) for path in asked.config]
    named = _lay(parser, layers, argv)
    recipe = named.recipe if named.recipe != "auto" else recipe_for(named.dataset)
    values = read_recipe(recipe)
    settings = _lay(parser, [values, *layers], argv)
    if named.recipe == "auto" and settings.batch_size < values["batch_size"]:
        # The linear rule (Goyal et al., 2017): 0.4 is too much for batches of 64. A recipe that was
        # asked for is taken as it is.
        values["lr"] *= settings.batch_size / values["batch_size"]
        settings = _lay(parser, [values, *layers], argv)
    settings.recipe = recipe
    return settings, None


def _lay(parser: _Parser, layers: list[dict[str, Any]], argv: list[str]) -> TrainConfig:
    """Defaults, then each layer, then the command line; all through the parser's types."""
    merged: dict[str, Any] = {}
    types = get_type_hints(TrainConfig)
    for layer in layers:
        merged |= layer
    for key, value in merged.items():
        if types[key] in (bool, bool | None) and not isinstance(value, types[key]):
            raise UserError(f"{key} is {value!r}; expected true or false")
    try:
        checked = parser.parse_object(merged).as_dict()
        with _defaults(parser, {key: checked[key] for key in merged}):
            values = parser.parse_args(argv).as_dict()
    except jsonargparse.ArgumentError as error:
        raise UserError(tidy(str(error), parser)) from None
    for extra in ("config", "resume"):
        values.pop(extra)
    return TrainConfig(**values)


@contextmanager
def _defaults(parser: _Parser, values: dict[str, Any]):
    """The parser with other defaults for a while."""
    before = {key: parser.get_default(key) for key in values}
    parser.set_defaults(values)
    yield
    parser.set_defaults(before)


def load_resolved(path: Path) -> TrainConfig:
    """The settings that a run folder holds. Raises UserError."""
    parser = build_parser()
    return _lay(parser, [read_yaml(path)], [])

"""The floors: each imports only what lies below it, and the list of packages is complete."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("kernels", "defective", "train", "bench")  # from the ground up
NOT_PACKAGES = {"tests", "docs", "build", "dist", "scratch"}


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def source_files(floor):
    return sorted((ROOT / floor).rglob("*.py"))


def imported_modules(path):
    """Absolute dotted names that a file imports anywhere, relative imports resolved."""
    package = ("scotoma", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # "from .. import train" names its floor in the alias, not in the module.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_the_reader_of_imports_sees_them_all():
    """The tests below trust ``imported_modules``; this file has a known set of imports."""
    found = set(imported_modules(Path(__file__)))
    assert {"ast", "tomllib", "pathlib.Path", "pytest"} <= found
    seen = set(imported_modules(ROOT / "defective" / "layers.py"))
    assert "scotoma.kernels.bn_mask_add_relu" in seen


@pytest.mark.parametrize("floor", [f for f in FLOORS if (ROOT / f).is_dir()])
def test_imports_point_downwards(floor):
    above = FLOORS[FLOORS.index(floor) + 1 :]
    files = source_files(floor)
    assert files
    for path in files:
        for module in imported_modules(path):
            parts = module.split(".")
            reached = parts[1] if parts[0] == "scotoma" and len(parts) > 1 else None
            assert reached not in above, f"{path.relative_to(ROOT)} imports {module}"


def test_kernels_need_only_torch():
    libraries = {"torch", "triton", "einops"}
    declared = {re.match(r"[\w-]+", text)[0] for text in settings()["project"]["dependencies"]}
    assert libraries <= declared  # the rest of the package's are no business of the ground floor
    allowed = {*libraries, "__future__", *sys.stdlib_module_names}
    for path in source_files("kernels"):
        for module in imported_modules(path):
            inside = module.startswith("scotoma.kernels")
            assert inside or module.split(".")[0] in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("floor", FLOORS)
def test_no_name_is_defined_twice(floor):
    """The second would be everybody's; it happens where two files become one."""
    for path in source_files(floor):
        tree = ast.parse(path.read_text())
        for body in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
            names = [
                node.name
                for node in body.body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not any(isinstance(each, ast.Attribute) for each in node.decorator_list)
            ]
            twice = {name for name in names if names.count(name) > 1 and name != "_"}
            assert not twice, f"{path.relative_to(ROOT)}: {twice}"


def test_every_package_is_listed():
    """A folder with an ``__init__.py`` that is missing in the list is missing in the wheel."""
    found = set()
    for init in ROOT.rglob("__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if not any(p in NOT_PACKAGES or p.startswith(".") for p in parts):
            found.add(".".join(("scotoma", *parts)))
    listed = settings()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == found

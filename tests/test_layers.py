"""Imports run one way: a package uses those below its own only, and what reads records never trains."""

import ast
from pathlib import Path

import pytest
import tree
from tree import imported

LAYERS = (
    {"__main__"}, {"cli"}, {"commands"}, {"book"}, {"report"}, {"running"}, {"verdicts"}, {"performance"},
    {"distributed"}, {"training"},
    {"codecs"}, {"registry"}, {"results"}, {"models", "data"}, {"experiments"},
    {"checkpoint"}, {"validation"}, {"files", "machine", "randomness"}, {"errors", "plain_yaml"},
)  # fmt: skip
"""From the roof to the ground."""
FLOOR = {name: len(LAYERS) - n for n, layer in enumerate(LAYERS) for name in layer}
PACKAGE = tree.REPOSITORY / "repro"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def rooms(path: Path) -> set[str]:
    """First part below ``repro`` of everything that a file imports."""
    found = set()
    for module, names in imported(path).items():
        parts = module.split(".")[1:]
        found |= {parts[0]} if parts else {name for name in names if not name.startswith("__")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert not {other for other in rooms(path) - {own} if FLOOR[other] >= FLOOR[own]}


def test_no_module_imports_itself_over_others() -> None:
    edges = {}
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        edges[name] = {
            full if (full := f"{module}.{each}") in known or not names else module
            for known in [modules()]
            for module, names in imported(path).items()
            for each in names or {""}
        } & modules()
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a cycle: {' -> '.join((*way, name))}"
        if name not in done:
            for other in sorted(edges.get(name, ())):
                walk(other, (*way, name))
            done.add(name)

    for name in edges:
        walk(name, ())


def modules() -> set[str]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_private_name_of_another_module(path: Path) -> None:
    aliases = {name for names in imported(path).values() for name in names}
    assert not {name for name in aliases if name.startswith("_") and not name.startswith("__")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert not node.attr.startswith("_") or node.attr.startswith("__"), f"line {node.lineno}: {node.attr}"

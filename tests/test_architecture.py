"""The import rules of the package, read from its source."""

import ast
import re
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Full names of the modules (and of the names taken from them) that `source` imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def modules() -> dict[str, set[str]]:
    found = {}
    for path in sorted((SOURCE / "hamcl").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = imports(path.read_text(), name, is_package)
    return found


MODULES = modules()


def breaches(room: str, allowed) -> list[str]:
    """What the modules of `room` import against the rule."""
    inside = [name for name in MODULES if within(name, room)]
    assert inside, f"there is no module {room}"
    return [f"{name} imports {other}" for name in inside for other in sorted(MODULES[name]) if not allowed(other)]


def test_imports_are_found_wherever_they_hide():
    source = (
        "import os.path\nfrom hamcl import nn\ndef f():\n    from .depths import x\n    from .. import cli\n"
        "if TYPE_CHECKING:\n    import peft\n"
    )
    shared = {"os.path", "hamcl.nn", "peft"}
    assert imports(source, "hamcl.nn.layers", False) == shared | {"hamcl.nn.depths.x", "hamcl.cli"}
    assert imports(source, "hamcl.nn.sub", True) == shared | {"hamcl.nn.sub.depths.x", "hamcl.nn.cli"}


ROOMS = (
    ("cli",),
    ("bench",),
    ("report",),
    ("store",),
    ("methods",),
    ("export",),
    ("learning",),
    ("training",),
    ("heads",),
    ("nn",),
    ("reading",),
    ("streams",),
    ("ham",),
    ("errors", "rng", "config", "machine", "files", "plain", "tensors", "metrics", "turns", "network", "words"),
)
"""From top to bottom: a room imports from its own line and those below it."""

UPWARD = {
    ("hamcl.methods.ham", "store"),  # HAM.save and HAM.load are a store of one state
}
"""Arrows that go up, each inside the function that needs it, with the reason."""


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_every_module_is_in_a_room():
    known = {room for line in ROOMS for room in line}
    assert {room_of(name) for name in MODULES} - {""} == known


def test_contributing_lists_the_rooms_in_this_order():
    page = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The rooms")[2]
    listed = re.findall(r"^\| `(\w+)` \|", page.partition("\n## ")[0], re.MULTILINE)
    assert listed == [line[0] for line in ROOMS if len(line) == 1]


def test_imports_go_down():
    level = {room: i for i, line in enumerate(ROOMS) for room in line}
    ups = {
        (name, room_of(other))
        for name in MODULES
        if room_of(name) in level
        for other in MODULES[name]
        if room_of(other) in level and within(other, "hamcl") and level[room_of(other)] < level[room_of(name)]
    }
    assert ups == UPWARD


@pytest.mark.parametrize("room", ["ham", "heads"])
def test_the_mathematics_needs_torch_alone(room):
    own = ("hamcl.ham", "hamcl.heads", "hamcl.errors", "hamcl.rng", "hamcl.config")

    def allowed(name):
        return within(name, "torch", "numpy", *own) or name.split(".")[0] in sys.stdlib_module_names

    assert breaches(f"hamcl.{room}", allowed) == []


def test_the_learner_and_the_baselines_do_not_know_each_other():
    rivals = [name for name in MODULES if within(name, "hamcl.methods") and name != "hamcl.methods.ham"]
    assert [name for name in rivals if any(within(o, "hamcl.methods.ham") for o in MODULES[name])] == []
    shared = ("hamcl.methods.ham", "hamcl.methods.registry")
    assert breaches("hamcl.methods.ham", lambda name: not within(name, "hamcl.methods") or within(name, *shared)) == []


@pytest.mark.parametrize("library", ["peft", "timm"])
def test_only_nn_and_export_know_the_libraries_of_models(library):
    users = [name for name in MODULES if any(within(other, library) for other in MODULES[name])]
    assert [name for name in users if not within(name, "hamcl.nn", "hamcl.export")] == []

"""The import rules of the package, read from its source."""

import ast
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
        "import os.path\nfrom hamcl import nn\ndef f():\n    from .heads import x\n    from .. import cli\n"
        "if TYPE_CHECKING:\n    import peft\n"
    )
    shared = {"os.path", "hamcl.nn", "peft"}
    assert imports(source, "hamcl.nn.layers", False) == shared | {"hamcl.nn.heads.x", "hamcl.cli"}
    assert imports(source, "hamcl.nn.sub", True) == shared | {"hamcl.nn.sub.heads.x", "hamcl.nn.cli"}


def test_ham_imports_only_torch_and_itself():
    def allowed(name):
        return within(name, "torch", "hamcl.ham") or name.split(".")[0] in sys.stdlib_module_names

    assert breaches("hamcl.ham", allowed) == []


def test_nn_builds_on_ham_alone():
    allowed = ("ham", "nn", "errors", "rng", "network", "streams.base", "streams.pixels")
    assert (
        breaches("hamcl.nn", lambda name: not within(name, "hamcl") or within(name, *(f"hamcl.{x}" for x in allowed)))
        == []
    )


def test_exports_build_on_nn_and_do_not_know_the_learner():
    allowed = ("hamcl.ham", "hamcl.nn", "hamcl.export", "hamcl.errors", "hamcl.streams.base", "hamcl.whole")
    assert (
        breaches("hamcl.export", lambda name: name == "hamcl" or not within(name, "hamcl") or within(name, *allowed))
        == []
    )


def test_streams_know_neither_modules_nor_the_method():
    assert breaches("hamcl.streams", lambda name: not within(name, "hamcl.nn", "hamcl.ham")) == []


@pytest.mark.parametrize(("room", "other"), [("hamcl.methods", "hamcl.learner"), ("hamcl.learner", "hamcl.methods")])
def test_the_learner_and_the_baselines_do_not_know_each_other(room, other):
    assert breaches(room, lambda name: not within(name, other)) == []


def test_tracking_knows_the_training_loop_alone():
    allowed = ("hamcl.tracking", "hamcl.errors", "hamcl.training")
    assert breaches("hamcl.tracking", lambda name: not within(name, "hamcl") or within(name, *allowed)) == []


def test_only_the_command_knows_the_command_line():
    outside = [name for name in MODULES if not within(name, "hamcl.cli", "hamcl.__main__")]
    assert [name for name in outside if any(within(other, "hamcl.cli") for other in MODULES[name])] == []


def test_only_nn_knows_peft():
    assert [
        name for name in MODULES if any(within(o, "peft") for o in MODULES[name]) and not within(name, "hamcl.nn")
    ] == []


def test_the_store_lies_below_the_command_line_and_beside_the_benchmarks():
    assert breaches("hamcl.store", lambda name: not within(name, "hamcl.bench", "hamcl.cli", "hamcl.methods")) == []
    users = {name for name in MODULES if any(within(other, "hamcl.store") for other in MODULES[name])}
    assert {name for name in users if not within(name, "hamcl.store", "hamcl.cli")} == {"hamcl", "hamcl.learner"}

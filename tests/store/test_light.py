"""What only reads and moves files waits for no PyTorch."""

import shutil
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "transformers", "peft", "datasets", "matplotlib"}


def loaded(code: str, *arguments: object) -> set[str]:
    """The modules a fresh interpreter holds after running `code`."""
    script = f"import sys\n{code}\nprint('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_a_store_is_opened_and_described_without_pytorch(learned):
    modules = loaded(
        "from hamcl.store import LightStore, lock\nstore = LightStore.open(sys.argv[1])\n"
        "assert store.manifest.state.tasks and store.sizes().groups and store.diff(store) == []",
        learned,
    )
    assert modules.isdisjoint(HEAVY)
    assert not any(name.startswith(("hamcl.methods", "hamcl.nn", "hamcl.bench")) for name in modules)


@pytest.mark.parametrize(
    "line",
    [["--help"], ["status", "COPY"], ["diff", "STORE", "COPY"], ["undo", "COPY"], ["gc", "COPY"]],
    ids=lambda line: line[0],
)
def test_a_command_that_computes_nothing_loads_no_pytorch(learned, tmp_path, line):
    shutil.copytree(learned, tmp_path / "copy")
    places = {"STORE": learned, "COPY": tmp_path / "copy"}
    modules = loaded(
        "from hamcl.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code",
        *(places.get(word, word) for word in line),
    )
    assert "hamcl.cli.main" in modules
    assert modules.isdisjoint(HEAVY)

"""The public names of the package, and that importing it costs nothing."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import hamcl

HEAVY = ("torch", "torchvision", "timm", "transformers", "peft", "accelerate", "datasets", "numpy", "matplotlib")


def loaded(code: str) -> set[str]:
    """The modules a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def typed_imports() -> set[str]:
    """The names imported under TYPE_CHECKING, which type checkers see and the interpreter does not."""
    blocks = [node for node in ast.parse(Path(hamcl.__file__).read_text()).body if isinstance(node, ast.If)]
    return {alias.name for block in blocks for node in block.body for alias in node.names}


def test_importing_the_package_loads_neither_the_libraries_nor_the_command_line():
    modules = loaded("import hamcl")
    assert "hamcl" in modules
    assert modules.isdisjoint(HEAVY)
    assert not any(name.startswith("hamcl.") for name in modules)


def test_a_config_needs_no_model_library():
    assert loaded("from hamcl import HAMConfig; HAMConfig(seed=1)").isdisjoint(HEAVY)


def test_learning_needs_no_command_line_and_no_model_library_before_a_backbone_is_loaded():
    modules = loaded("from hamcl import HAM, load_backbone, load_stream")
    assert "hamcl.methods.ham" in modules
    assert modules.isdisjoint({"hamcl.cli", "typer", "timm", "matplotlib"})


@pytest.mark.parametrize("name", hamcl.__all__)
def test_every_public_name_is_there_and_is_the_same_at_every_access(name):
    assert getattr(hamcl, name) is getattr(hamcl, name)


def test_public_names_are_those_of_their_modules():
    from hamcl.config import HAMConfig
    from hamcl.methods.ham import HAM
    from hamcl.streams import Samples, Stream, Task, load_stream

    assert (hamcl.HAM, hamcl.HAMConfig, hamcl.load_stream) == (HAM, HAMConfig, load_stream)
    assert (hamcl.Samples, hamcl.Stream, hamcl.Task) == (Samples, Stream, Task)


def test_type_checkers_see_exactly_the_lazy_names():
    assert typed_imports() | {"__version__"} == set(hamcl.__all__)


def test_dir_lists_names_before_they_are_loaded():
    done = subprocess.run(
        [sys.executable, "-c", "import hamcl; print(*dir(hamcl))"], capture_output=True, text=True, check=True
    )
    assert set(hamcl.__all__) <= set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hamcl' has no attribute 'Ham'"):
        _ = hamcl.Ham
    with pytest.raises(ImportError, match="Ham"):
        from hamcl import Ham  # noqa: F401


def test_the_version_is_that_of_the_installed_package():
    assert hamcl.__version__ == version("hamcl")

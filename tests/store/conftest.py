"""A backbone that loads in a moment, the settings of a small store, and its tasks."""

import copy
import os
import shutil
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hamcl.config import HAMConfig
from hamcl.machine import Machine

BACKBONE: dict[str, Any] = {
    "backbone": "timm/test_vit",
    "backbone_options": {"pretrained": False, "image_size": 32},
}
OPTIONS: dict[str, Any] = {
    "rank": 2,
    "merge_rank": 3,
    "max_groups": 2,
    "targets": "qkv|fc1",
    "epochs": 2,
    "later_tasks": "free",  # enough steps to stop between
    "batch_size": 4,
    "projection": 32,
}
CPU = Machine(device="cpu")


@pytest.fixture
def create(tmp_path) -> Callable[..., Any]:
    """Make a store `NAME.ham` in the test's folder with options besides the small ones."""
    from hamcl.store import Store

    def make(name: str = "birds", keep: int = 3, **options: Any) -> Store:
        path = tmp_path / f"{name}.ham"
        Store.create(path, **BACKBONE, config=HAMConfig(**{**OPTIONS, **options}), keep=keep)
        return Store.open(path, machine=CPU)

    return make


@pytest.fixture
def week(toy) -> Callable[[int], Any]:
    """The task of a week: two classes of its own."""
    return lambda i: toy.task(f"week-{i}", (f"a{i}", f"b{i}"), 5, augmentation="photo")


@pytest.fixture(scope="session")
def learned(tmp_path_factory, toy) -> Path:
    """A store of three tasks and one evaluation; copy it before changing it."""
    from hamcl.store import Store

    path = tmp_path_factory.mktemp("learned") / "birds.ham"
    Store.create(path, **BACKBONE, config=HAMConfig(**OPTIONS))
    store = Store.open(path, machine=CPU)
    tasks = [toy.task(f"week-{i}", (f"a{i}", f"b{i}"), 5, augmentation="photo") for i in range(3)]
    for task in tasks:
        store.learn(task)
    store.evaluate(tasks)
    return path


@pytest.fixture
def copied(learned, tmp_path) -> Any:
    """A store of one's own that has learned three tasks."""
    from hamcl.store import Store

    shutil.copytree(learned, tmp_path / "copy.ham")
    return Store.open(tmp_path / "copy.ham", machine=CPU)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Load the backbone once; every further model gets a copy of it."""
    from hamcl.nn.backbones import load_backbone
    from hamcl.store import model

    loaded = load_backbone(BACKBONE["backbone"], **BACKBONE["backbone_options"])
    monkeypatch.setattr(model, "load_backbone", lambda spec, **options: copy.deepcopy(loaded))


@pytest.fixture
def forked() -> Callable[..., int]:
    """Run a function in a process of its own and return its exit code, negative for a signal."""

    def run(function: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                function()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


@pytest.fixture
def soak(monkeypatch) -> Callable[[str], ModuleType]:
    """Import a program of tests/soak by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "soak")
    return import_module

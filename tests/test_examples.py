"""The code in CONTRIBUTING.md does what the page says; the names in examples exist."""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hamcl
from hamcl.config import HAMConfig
from hamcl.learning.learner import Learner
from hamcl.methods.registry import METHODS, load_method
from hamcl.streams import SOURCES, load_stream

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"


def module(folder: Path, name: str, marker: str) -> ModuleType:
    """Import the page's code block that holds `marker`."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if marker in block]
    path = folder / f"{name}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def mean_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Learner]:
    monkeypatch.setitem(sys.modules, "mean_lora", module(tmp_path, "mean_lora", "class MeanLoRA"))
    monkeypatch.setitem(METHODS, "mean-lora", "mean_lora:MeanLoRA")
    return load_method("mean-lora")


def test_the_method_resumes_as_if_it_had_not_stopped(toy, mean_lora):
    tasks = [toy.task("one", ["a", "b"]), toy.task("two", ["c", "d"]), toy.task("three", ["e", "f"])]
    config = HAMConfig.from_dict({**mean_lora.defaults, "epochs": 2, "projection": 64})
    whole, resumed = mean_lora(toy.vit(), config), mean_lora(toy.vit(), config)
    whole.learn(tasks[0])
    resumed.load_state_dict(whole.state_dict())
    for task in tasks[1:]:
        whole.learn(task)
        resumed.learn(task)
    assert toy.same(whole.state_dict(), resumed.state_dict())


def test_the_method_learns_with_its_own_defaults(toy, mean_lora):
    learner = mean_lora(toy.vit(), HAMConfig.from_dict({**mean_lora.defaults, "epochs": 2}))
    tasks = [toy.task("one", ["a", "b"]), toy.task("two", ["c", "d"])]
    for task in tasks:
        learner.learn(task)
    assert learner.classes == ("a", "b", "c", "d")
    assert sum(learner.evaluate(task) for task in tasks) / len(tasks) > 0.5


def test_the_method_keeps_the_mean_of_its_adapters(toy, mean_lora):
    learner = mean_lora(
        toy.vit(), HAMConfig.from_dict({**mean_lora.defaults, "epochs": 2, "lr": 1e-2, "projection": 64})
    )
    trained = []
    end = learner.end

    def watched(lesson):
        trained.append({name: lesson.adapter.importance * f.delta() for name, f in lesson.adapter.layers.items()})
        end(lesson)

    learner.end = watched
    for task in (toy.task("one", ["a", "b"]), toy.task("two", ["c", "d"])):
        learner.learn(task)
    kept = learner.model.task_adapter("kept")
    for name, factors in kept.layers.items():
        mean = (trained[0][name] + trained[1][name]) / 2
        # The mean has rank 16 at most and is cut back to 8, as well as that can be done.
        lost = (kept.importance * factors.delta() - mean).norm()
        torch.testing.assert_close(lost, torch.linalg.svdvals(mean)[8:].norm(), rtol=1e-3, atol=1e-6)


def test_the_source_is_cut_into_tasks(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setitem(SOURCES, "wine", module(tmp_path, "wine", "load_wine").load)
    stream = load_stream("wine", classes_per_task=1)
    assert sorted(stream.classes) == ["class_0", "class_1", "class_2"]
    assert sum(len(task.train) + len(task.test) for task in stream) == 178
    assert all(len(task.train) > len(task.test) > 0 for task in stream)
    assert stream[0].train.inputs[0].startswith("alcohol ")


def test_code_takes_only_public_names_from_the_package():
    code = [path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")]
    code += re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    imports = [node for text in code for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.module == "hamcl" for alias in node.names}
    assert "HAM" in names
    assert names <= set(hamcl.__all__)

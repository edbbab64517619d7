"""The commands end to end on a random network of a hundred thousand weights: exit codes, sentences and files."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
from PIL import Image
from rich.console import Console

import hamcl
from hamcl.cli.live import Live
from hamcl.config import MACHINE
from hamcl.methods.ham import HAM
from hamcl.nn import backbones
from hamcl.report.records import Result
from hamcl.training.lesson import Step

TINY = "timm/test_efficientnet"
SMALL = ["--stream", "digits", "--tasks", "2", "--train-per-class", "6", "--test-per-class", "5", "--epochs", "1"]
RUN = ["run", *SMALL, "--backbone", TINY, "--image-size", "32", "--method", "seq-lora", "--device", "cpu"]


@pytest.fixture(autouse=True)
def random_weights(monkeypatch):
    """No weights are read or fetched."""
    monkeypatch.setattr(backbones, "load_backbone", partial(backbones.load_backbone, pretrained=False))


def test_version(ham):
    assert ham("--version").output == f"hamcl {hamcl.__version__}\n"


def test_a_run_and_its_report(ham, tmp_path):
    for seed in (0, 1):
        result = ham(*RUN, "--seed", seed, "--lr", "0.01", "--threads", 1, "--out", tmp_path / f"{seed}")
        assert result.exit_code == 0, result.stderr
        assert "seq-lora" in result.stdout and "task 2/2 digits-02, 10 classes" in ham.sentence(result)
    record = Result.read(tmp_path / "1")
    assert (record.status, record.method, record.seed, record.config["lr"]) == ("complete", "seq-lora", 1, 0.01)
    assert record.config["head"] == "linear"  # the method's own default
    assert record.stream.options["spec"] == "digits" and record.stream.options["seed"] == 1
    assert record.backbone["options"] == {"image_size": 32} and record.command[0] == "ham"
    for name in ("matrix.png", "curve.png"):
        with Image.open(tmp_path / "1" / name) as image:
            assert image.format == "PNG"

    result = ham("report", tmp_path, "--markdown", tmp_path / "r.md", "--plot", tmp_path / "r.png")
    assert result.exit_code == 0, result.stderr
    (row,) = [line for line in (tmp_path / "r.md").read_text().splitlines() if line.startswith("| seq-lora")]
    assert row.split("|")[2].strip() == "2" and "±" in row and row.split("|")[3].strip() in result.stdout
    with Image.open(tmp_path / "r.png") as image:
        assert image.format == "PNG"


def test_a_record_keeps_what_was_asked_and_what_came_of_it_and_nothing_of_the_machine(ham, tmp_path):
    line = [*RUN, "--method", "ham", "--projection", 16, "--out", tmp_path / "a"]
    ham.shown(*line, "--precision", "fp32", "--eval-batch-size", 5)
    record = Result.read(tmp_path / "a")
    assert (record.config["head"], record.config["depths"], record.config["projection"]) == ("auto", "auto", 16)
    assert record.resolved == {**record.config, "head": "stack", "depths": "all"}
    assert not set(MACHINE) & {*record.config, *record.resolved}
    assert (record.provenance["device"], record.provenance["precision"]) == ("cpu", "fp32")
    before = (tmp_path / "a" / "result.json").read_bytes()
    ham.shown(*line, "--resume", "--precision", "bf16", "--eval-batch-size", 7)
    assert (tmp_path / "a" / "result.json").read_bytes() == before, "the same run, on another machine"


def test_a_run_is_resumed_or_replaced_only_when_asked(ham, tmp_path, monkeypatch):
    out = tmp_path / "a"
    learn = HAM.learn

    def stops(self, task, progress=None):
        if self.tasks:
            raise KeyboardInterrupt
        return learn(self, task, progress)

    line = [*RUN, "--method", "ham", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(HAM, "learn", stops)
        result = ham(*line)
    assert result.exit_code == 130 and "--resume" in ham.sentence(result)
    assert json.loads((out / "result.json").read_text())["status"] == "interrupted"
    result = ham("report", out)
    assert result.exit_code == 2 and "interrupted after 1 of 2 tasks" in ham.sentence(result)
    result = ham(*line)
    assert result.exit_code == 2 and "--overwrite" in ham.sentence(result)
    result = ham(*line, "--resume", "--lr", "0.5")
    assert result.exit_code == 2 and "config.lr was " in ham.sentence(result) and "is now 0.5" in ham.sentence(result)
    result = ham(*line, "--resume")
    assert result.exit_code == 0 and "task 1/2" not in ham.sentence(result) and "task 2/2" in ham.sentence(result)
    whole = ham(*RUN, "--method", "ham", "--out", tmp_path / "b")
    assert whole.exit_code == 0
    assert Result.read(out).to_dict()["correct"] == Result.read(tmp_path / "b").to_dict()["correct"]
    assert ham(*line, "--overwrite", "--tasks", "1").exit_code == 0
    assert len(Result.read(out).steps) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--stream", "digit"), "digits"),
        (("--backbone", "minilmm"), "minilmm"),
        (("--method", "hamm"), "'ham'"),
        (("--preset", "papers"), "papers"),
        (("--tasks", "11"), "10 classes"),
        (("--tasks", "99999999999999999999"), "10 classes"),
        (("--val-fraction", "inf"), "--val-fraction must be"),
        (("--rank", "0"), "rank"),
        (("--image-size", "0"), "--image-size must lie between 8 and"),
        (("--max-length", "7"), "--max-length does not apply"),
        (("--device", "warp"), "warp"),
        (("--task-sizes", "5;5"), "5;5"),
        (("--device", "nonsense"), "device 'nonsense' cannot be used here"),
        (("--method", "frozen", "--rank", "16"), "frozen does nothing with --rank; leave it out"),
        (("--method", "frozen", "--rank", "8"), "frozen does nothing with --rank; leave it out"),
        (("--method", "seq-lora", "--max-groups", "3"), "seq-lora does nothing with --max-groups"),
        (
            ("--method", "ham", "--head", "linear", "--shrinkage", "0.1"),
            "ham with --head linear does nothing",
        ),
        (("--no-such-option",), "--no-such-option"),
        (("--config", "missing.yaml"), "missing.yaml"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_code_2(ham, tmp_path, line, words):
    result = ham(*RUN, "--out", tmp_path / "a", *line)
    assert result.exit_code == 2 and words in ham.sentence(result)
    assert not (tmp_path / "a").exists()
    if "╭" not in result.stderr:
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_wrong_data_is_one_sentence_and_exit_code_1(ham, tmp_path):
    result = ham(*RUN, "--out", tmp_path / "a", "--stream", f"folder:{tmp_path / 'missing'}")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "missing" in ham.sentence(result)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{")
    result = ham("report", tmp_path / "a")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "result.json" in ham.sentence(result)


def test_a_folder_that_cannot_be_written_is_one_sentence(ham, tmp_path):
    (tmp_path / "file").write_text("")
    result = ham(*RUN, "--out", tmp_path / "file" / "a")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("error: cannot read or write")


def test_too_little_device_memory_is_one_sentence_and_other_failures_are_not_hidden(ham, tmp_path, monkeypatch):
    def fails(message):
        def learn(self, task, progress=None):
            raise RuntimeError(message)

        monkeypatch.setattr(HAM, "learn", learn)
        return ham(*RUN, "--method", "ham", "--overwrite", "--out", tmp_path / "a")

    result = fails("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert result.exit_code == 1 and "--batch-size" in ham.sentence(result)
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "failed"
    assert isinstance(fails("a defect").exception, RuntimeError)


def test_live_bars_and_lines():
    def feed(**options):
        console = Console(record=True, width=140, **options)
        with Live(console, None) as live:
            live.start("ham", 2)
            live.step(Step("t-1", 1, 3, 2, 9, 0.25, 123.4))
            live.bars.refresh()
            assert [task.completed for task in live.bars.tasks] == [0, 2]
            assert live.bars.tasks[1].fields["detail"] == "epoch 1/3  loss 0.250  123 samples/s"
            live.step(Step("t-2", 2, 3, 5, 7, 0.5, 100.0))
            assert (live.bars.tasks[1].description, live.bars.tasks[1].total) == ("  t-2", 7)
        return console.export_text()

    assert "t-2" in feed(force_terminal=True)
    assert feed(force_terminal=False).strip() == ""


def test_the_time_that_several_runs_still_take_is_told(monkeypatch):
    clock = iter([0.0, 30.0, 60.0])
    monkeypatch.setattr("hamcl.cli.live.time.monotonic", lambda: next(clock))
    console = Console(record=True, width=140, force_terminal=False)
    live = Live(console, None)
    steps = [
        SimpleNamespace(task=f"t-{i}", seen_classes=i, training_seconds=1.0, evaluation_seconds=0.5) for i in (1, 2)
    ]
    result = SimpleNamespace(
        method="ham",
        steps=steps[:1],
        curve={"average_accuracy": [0.5]},
        finish_seconds=0.0,
        stream=SimpleNamespace(tasks=[None] * 2),
    )
    live.start("digits: ham", 2, 0.0, 0.25)
    live.task(result)  # an eighth after 30 s
    live.start("icd10: ham", 2, 0.25, 0.75)
    result.steps = steps
    live.task(result)
    first, last = console.export_text().splitlines()
    assert first.endswith("1.5 s, about 4 min left") and last.endswith("1.5 s, about 0 s left")


def test_a_demonstration_store_is_ready_to_be_tried(ham, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with the demo extra")
    pytest.importorskip("simple_icd_10_cm", reason="the diagnoses come with the demo extra")
    monkeypatch.setattr("hamcl.bench.practice.CLASSES", 2)
    monkeypatch.setattr("hamcl.bench.practice.TRAIN", 3)
    monkeypatch.setattr("hamcl.store.model.load_backbone", backbones.load_backbone)
    shown = ham.shown("demo", "--store", tmp_path / "try", "--no-progress")
    model, digits = tmp_path / "try" / "digits.ham", tmp_path / "try" / "digits"
    assert f"ham learn {model} {digits / 'week-2'}" in shown
    assert ham.told("status", model)["classes"] == ["one", "zero"]
    assert "holds something" in ham.refused("demo", "--store", tmp_path / "try", code=2)

"""The practitioner's commands: what they show, what they leave behind, exit codes and sentences."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from hamcl.cli.live import Live
from hamcl.cli.main import app
from hamcl.config import MACHINE
from hamcl.errors import UsageError
from hamcl.learning.learner import Learner
from hamcl.methods.ham import HAM
from hamcl.store import Store
from hamcl.store.folder import Folder
from hamcl.streams import load_task


def files(store):
    """Every file of a store but those of the lock."""
    kept = (path for path in store.rglob("*") if path.is_file() and path.parent.name != "tmp" and path.name != ".lock")
    return {path.relative_to(store): path.read_bytes() for path in kept}


def test_init_takes_every_option_of_the_method(ham, life, tmp_path):
    (tmp_path / "c.yaml").write_text("rank: 2\nlr: 0.5\n")
    store = tmp_path / "a.ham"
    line = ("--backbone", life.backbone, "--config", tmp_path / "c.yaml", "--lr", 0.1, "--max-groups", "none")
    told = ham.told("init", store, *line, "--preset", "paper", "--keep", 1)
    assert told["backbone"]["width"] == 32
    manifest = Store.open(store).manifest
    config = manifest.options
    assert (config.rank, config.lr, config.max_groups, config.epochs, manifest.keep) == (2, 0.1, None, 10, 1)
    shown = ham.shown("status", store)
    assert "0 classes: none yet" in shown and "0 tasks" in shown and "last evaluation" not in shown


def test_learn_tells_what_became_of_the_task_and_keeps_it(ham, life, copy):
    store = copy()
    report = ham.told("learn", store, life.later, "--name", "birds", "--augmentation", "handwriting")
    assert (report["task"], report["classes"]) == ("birds", ["black", "white"])
    assert len(report["losses"]) == 2 and len(report["similarities"]) == 2
    state = Store.open(store).manifest.state
    assert [task.name for task in state.tasks] == ["week-01", "week-02", "birds"]
    assert state.classes == ("green", "red", "blue", "black", "white") and state.augmentation == "handwriting"


def test_the_training_of_a_task_can_be_tracked(ham, life, copy):
    pytest.importorskip("tensorboard")
    store = copy()
    ham.shown("learn", store, life.later, "--tracker", "tensorboard")
    assert list((store.parent / "copy.ham.runs" / "week-03" / "tensorboard").rglob("events.*"))


def test_a_known_class_may_come_again_and_a_known_task_may_not(ham, life, copy):
    store = copy()
    assert "has learned task 'week-01' already" in ham.refused("learn", store, life.weeks[0], code=1)
    shown = ham.shown("learn", store, life.weeks[0], "--name", "again")
    assert "learned again: 2 classes from 10 samples" in shown and shown.endswith("3 classes known")


def test_an_interrupted_learn_goes_on_by_the_same_command(ham, life, copy, monkeypatch):
    store, whole = copy(), copy("whole.ham")
    ham.shown("learn", whole, life.later)
    end = HAM.end

    def stops(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(HAM, "end", stops)
    before = Store.open(store).manifest
    sentence = ham.refused("learn", store, life.later, code=130)
    assert "the same command goes on" in sentence and Store.open(store).manifest == before
    assert "unfinished learn" in ham.shown("status", store)

    monkeypatch.setattr(HAM, "end", end)
    assert "drop it with --restart" in ham.refused("learn", store, life.weeks[0], "--name", "other", code=1)
    ham.shown("learn", store, life.later)
    both = [Store.open(path).manifest.state for path in (store, whole)]
    assert both[0].files == both[1].files
    assert "went on from" in ham.told("status", store)["history"][-1]["text"]


def test_what_was_left_unfinished_can_be_dropped(ham, life, copy, monkeypatch):
    store = copy()
    with monkeypatch.context() as patch:
        patch.setattr(HAM, "end", lambda self, *args: (_ for _ in ()).throw(KeyboardInterrupt))
        ham.refused("learn", store, life.later, code=130)
    ham.shown("learn", store, life.weeks[0], "--name", "other", "--restart")
    assert Store.open(store).manifest.state.tasks[-1].name == "other"


def test_unreadable_training_images_are_named_or_skipped(ham, life, tmp_path, toy):
    data = shutil.copytree(life.later, tmp_path / "data")
    (data / "black" / "broken.png").write_text("no image")
    store = tmp_path / "a.ham"
    ham.shown("init", store, "--backbone", life.backbone, "--epochs", 1, "--projection", 8)
    assert "broken.png" in ham.refused("learn", store, data, code=1)
    result = ham("learn", store, data, "--on-bad-sample", "skip")
    assert result.exit_code == 0 and "2 classes from 10 samples" in result.stdout
    assert result.stderr.startswith("skipped: ") and "broken.png" in result.stderr


def test_status_shows_tasks_groups_sizes_and_the_last_evaluation(ham, life, copy):
    store = copy()
    ham.shown("eval", store, life.test)
    ham.shown("learn", store, life.later)
    told, shown = ham.told("status", store), ham.shown("status", store)
    assert told["classes"] == ["green", "red", "blue", "black", "white"]
    assert [task["name"] for task in told["tasks"]] == ["week-01", "week-02", "week-03"]
    assert told["tasks"][1]["classes"] == ["blue"] and len(told["tasks"][2]["similarities"]) == 2
    assert "2 week-02: 1 class, 5 samples" in shown
    for j, group in enumerate(told["groups"]):
        assert f"group {j}: importance {group['importance']:.3f}, rank {group['rank']}" in shown
    assert "head stack" in shown  # what "auto" means on images
    assert "5 classes: green, red, blue, black, white" in shown and "groups of at most 5" in shown
    assert told["bytes"]["earlier"] > 0 and "earlier states for undo" in shown and "at most" in shown
    assert told["evaluation"]["learned"] == 2 and "last evaluation" in shown and "1 task ago" in shown
    events = [event["command"] for event in told["history"]]
    assert events == ["init", "learn", "learn", "eval", "learn"]
    assert "learned task 'week-03'" in ham.shown("status", store, "--history")


def test_eval_counts_by_task_class_and_confusion(ham, life, copy):
    store = copy()
    told = ham.told("eval", store, life.test)
    assert told.pop("notes") == []
    model = Store.open(store).model()
    task = load_task(life.test)
    predicted = model.predict(task.train.inputs).labels
    pairs = [(task.classes[y], best[0]) for y, best in zip(task.train.labels, predicted, strict=True)]
    right = {name: [a == b for a, b in pairs if a == name] for name in task.classes}
    assert told["classes"] == {n: {"accuracy": sum(r) / 4, "samples": 4} for n, r in right.items()}
    assert told["tasks"]["week-01"] == {"accuracy": sum(right["green"] + right["red"]) / 8, "samples": 8}
    assert told["tasks"]["week-02"]["samples"] == 4 and told["overall"]["samples"] == 12
    assert sum(pair["count"] for pair in told["confusions"]) == sum(a != b for a, b in pairs)
    assert ham.told("status", store)["evaluation"] == told
    worth = told["reliability"]
    assert sum(worth["samples"]) == 12 and 0 <= worth["error"] <= 1 and 0 < worth["judged"] < 100

    before = files(store)
    shown = ham.shown("eval", store, life.test, "--no-record", "--eval-batch-size", 2)
    assert "week-02" in shown and f"{100 * told['overall']['accuracy']:.1f} %" in shown
    assert "mean confidence" in shown and f"{100 * worth['error']:.1f} %" in shown
    assert "probabilities are not known well" in ham("eval", store, life.test, "--no-record").stderr
    assert files(store) == before


def test_eval_names_an_unreadable_image_or_leaves_it_out(ham, life, copy, tmp_path):
    store, data = copy(), shutil.copytree(life.test, tmp_path / "data")
    (data / "red" / "broken.png").write_text("no image")
    assert "broken.png" in ham.refused("eval", store, data, code=1)
    result = ham("eval", store, data, "--on-bad-sample", "skip", "--json")
    assert result.stderr.startswith("skipped: ") and "broken.png" in result.stderr
    assert json.loads(result.stdout)["overall"] == ham.told("eval", store, life.test)["overall"]


def test_eval_takes_data_with_classes_to_come(ham, life, copy):
    store = copy()
    assert "black, white" in ham.refused("eval", store, life.test, life.later, code=1)
    assert ham.told("eval", store, life.test, life.later, "--known")["overall"]["samples"] == 12


def test_undo_verify_gc_and_diff(ham, life, copy):
    store, other = copy(), copy("other.ham")
    assert ham.shown("diff", store, other).endswith("hold the same model")
    ham.shown("learn", other, life.later)
    found = ham.told("diff", store, other)
    assert {"section": "class", "name": "white", "mine": None, "theirs": "week-03"} in found
    shown = ham.shown("diff", store, other)
    assert "week-03" in shown
    assert sum("black, white" in line for line in shown.splitlines()) == 1, "classes of one task share a line"

    assert ham.told("undo", other) == {"undone": ["week-03"], "tasks": ["week-01", "week-02"]}
    assert ham.told("diff", store, other) == []
    assert Store.open(store).manifest.state == Store.open(other).manifest.state
    assert ham.shown("undo", other, "--to", "week-01") == "took back week-02; 2 classes known"
    assert "week-09" in ham.refused("undo", other, "--to", "week-09", code=2)

    assert ham.told("gc", store)["freed"] > 0 and ham.shown("gc", store) == "freed 0 bytes"
    assert "no state" in ham.refused("undo", store, code=2)
    assert any("2 tasks" in line for line in ham.told("verify", store)["checked"])
    (changed, *_) = (store / "objects").glob("*.safetensors")
    content = changed.read_bytes()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert changed.name in ham.refused("verify", store, code=1)


def test_an_export_carries_the_last_evaluation_of_this_model(ham, life, copy, tmp_path):
    store, out = copy(), tmp_path / "out"
    overall = ham.told("eval", store, life.test)["overall"]["accuracy"]
    told = ham.told("export", store, out, "--as", "adapters", "--title", "My birds", "--license", "mit")
    assert told["files"]["group-0/adapter_model.safetensors"] > 0 and "classes.json" in told["files"]
    card = (out / "README.md").read_text()
    assert "# My birds" in card and "license: mit" in card and f"| accuracy | {overall:.4g} |" in card
    assert "not empty" in ham.refused("export", store, out, "--as", "adapters", code=2)
    ham.shown("learn", store, life.later)
    assert "README.md" in ham.shown("export", store, out, "--as", "adapters", "--overwrite")
    card = (out / "README.md").read_text()
    assert "week-03" in card and "| accuracy |" not in card


def test_what_would_stop_an_export_at_its_end_is_told_before_the_model_is_read(ham, life, copy, tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "model", lambda self: pytest.fail("nothing may be read"))
    (tmp_path / "out" / "mine").mkdir(parents=True)
    line = ("export", copy(), tmp_path / "out", "--as", "onnx")
    assert "is not empty; choose a new folder" in ham.refused(*line, code=2)
    assert "holds no earlier export" in ham.refused(*line, "--overwrite", code=2)
    monkeypatch.setattr("hamcl.export.find_spec", lambda name: None)
    assert "needs the package onnx: pip install" in ham.refused(*line, code=2)


def test_an_adapter_from_elsewhere_becomes_a_task(ham, life, copy, tmp_path):
    ham.shown("init", tmp_path / "other.ham", "--backbone", life.backbone, "--projection", 16)
    ham.shown("learn", tmp_path / "other.ham", life.later)
    ham.shown("export", tmp_path / "other.ham", tmp_path / "lora", "--as", "peft")
    store = copy()
    line = ("import", store, tmp_path / "lora")
    assert "samples" in ham.refused(*line, code=2)
    assert "week-02" in ham.refused(*line, "--data", life.later, "--name", "week-02", code=1)
    shown = ham.shown(*line, "--data", life.later)
    assert shown.startswith("took over lora: 2 classes, opened group 2") and shown.endswith("5 classes known")
    told = ham.told("status", store)
    assert told["tasks"][2]["name"] == "lora" and told["tasks"][2]["samples"] is None
    assert told["tasks"][2]["classes"] == ["black", "white"] and told["history"][-1]["command"] == "import"
    assert "3 lora: 2 classes, an adapter" in ham.shown("status", store)
    assert ham.told("undo", store)["undone"] == ["lora"]


def test_what_the_compression_of_an_imported_adapter_cost_is_said(ham, life, tmp_path):
    for name, option, value in (("wide", "--rank", 8), ("narrow", "--merge-rank", 1)):
        ham.shown("init", tmp_path / name, "--backbone", life.backbone, "--projection", 16, option, value)
    ham.shown("learn", tmp_path / "wide", life.later)
    ham.shown("export", tmp_path / "wide", tmp_path / "lora", "--as", "peft")
    line = ("import", tmp_path / "narrow", tmp_path / "lora", "--data", life.later)
    shown = ham.shown(*line)
    lost = ham.told(*line, "--name", "again")["merge_error"]
    assert 0.01 < lost < 1
    assert re.search(
        r"opened group 0, of which rank 1 \(--merge-rank\) cannot hold \d+\.\d %; 2 classes known$", shown
    )
    (tmp_path / "lora" / "classes.json").unlink()
    assert "has no classes.json; give its class names by --classes" in ham.refused(*line[:3], code=1)


def test_an_adapter_with_a_classifier_needs_only_class_names(ham, life, tmp_path):
    for name in ("a.ham", "b.ham"):
        ham.shown("init", tmp_path / name, "--backbone", life.backbone, "--head", "linear", "--epochs", 1)
    ham.shown("learn", tmp_path / "a.ham", life.later)
    ham.shown("export", tmp_path / "a.ham", tmp_path / "lora", "--as", "peft")
    assert ham.told("import", tmp_path / "b.ham", tmp_path / "lora")["classes"] == ["black", "white"]
    (tmp_path / "names.txt").write_text("noir\nblanc\n")
    line = ("import", tmp_path / "b.ham", tmp_path / "lora", "--name", "again")
    assert ham.told(*line, "--classes", tmp_path / "names.txt")["classes"] == ["noir", "blanc"]
    assert ham.told("status", tmp_path / "b.ham")["classes"] == ["black", "white", "noir", "blanc"]
    (tmp_path / "names.json").write_text('{"0": "noir"}')
    assert "names.json" in ham.refused(*line, "--classes", tmp_path / "names.json", code=1)
    assert "missing" in ham.refused(*line, "--classes", tmp_path / "missing", code=1)
    assert "--classes" in ham.refused(*line, "--classes", tmp_path / "names.txt", "--data", life.later, code=2)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (("status", "STORE/no"), 2, "there is no store"),
        (("init", "STORE", "--backbone", "minilm"), 2, "a store at"),
        (("init", "STORE-2", "--backbone", "minilmm"), 2, "minilmm"),
        (("init", "STORE-2", "--backbone", "minilm", "--rank", "0"), 2, "rank"),
        (("init", "STORE-2", "--backbone", "minilm", "--image-size", "32"), 2, "--image-size does not apply"),
        (("learn", "STORE", "missing"), 1, "missing"),
        (("learn", "STORE", "digit:x"), 1, "digit:x"),
        (("eval", "STORE", "missing"), 1, "missing"),
        (("predict", "STORE", "x.png", "--eval-batch-size", "0"), 2, "--eval-batch-size must be at least 1"),
        (("init", "STORE-2", "--backbone", "VIT", "--rank", "4000"), 2, "--rank must be at most 1024, got 4000"),
        (("init", "STORE-2", "--backbone", "VIT", "--max-groups", "99999999999"), 2, "--max-groups must be at most"),
        (("init", "STORE-2", "--backbone", "VIT", "--keep", "100000000000000000000"), 2, "--keep must lie between"),
        (("init", "STORE-2", "--backbone", "VIT", "--image-size", "1"), 2, "--image-size must lie between 8 and 4096"),
        (("init", "STORE-2", "--backbone", "VIT", "--image-size", "999999"), 2, "--image-size"),
        (("learn", "STORE", "LATER", "--device", "nonsense"), 2, "device 'nonsense' cannot be used here"),
        (("learn", "STORE", "LATER", "--threads", "0"), 2, "--threads must be from 1 to 4096, or none, got 0"),
        (("init", "STORE-2", "--backbone", "VIT", "--head", "linear", "--shrinkage", "0.1"), 2, "with --head linear"),
        (("init", "STORE-2", "--backbone", "VIT", "--head", "ridge", "--shrinkage", "none"), 2, "does nothing with"),
        (("learn", "STORE", "LATER", "--lr", "inf"), 2, "--lr must be a finite number, got inf"),
        (("learn", "STORE", "LATER", "--checkpoint-minutes", "inf"), 2, "--checkpoint-minutes must be"),
        (("eval", "STORE", "LATER"), 1, "leave them out with --known"),
        (("export", "STORE", "VIT", "--as", "peft"), 2, "replace an earlier export with --overwrite"),
        (("predict", "STORE", "missing.png"), 1, "missing.png"),
        (("predict", "STORE", "x.png", "--out", "x.txt"), 2, ".csv or .jsonl"),
        (("predict", "STORE", "x.png", "--out", "x.csv", "--format", "table"), 2, "table"),
        (("diff", "STORE", "STORE/no"), 2, "there is no store"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(ham, life, tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    names = {"STORE": life.store, "VIT": life.backbone, "LATER": life.later}
    for name, path in names.items():
        line = [part.replace(name, str(path)) for part in line]
    assert words in ham.refused(*line, code=code)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_steer_the_terminal(ham, life, copy):
    store = copy()
    ham.shown("learn", store, life.later, "--name", "\x1b[31m[bold]red")
    for line in (("status", store), ("status", store, "--history")):
        result = ham(*line)
        assert "\x1b[31m" not in result.stdout and "\\x1b[31m[bold]red" in result.stdout
    assert json.loads(ham("status", store, "--json").stdout)["tasks"][2]["name"] == "\x1b[31m[bold]red"


def test_every_command_of_a_model_has_help_and_json():
    commands = {command.name: command for command in app.registered_commands}
    for name in ("init", "learn", "status", "eval", "predict", "undo", "export", "import", "verify", "diff", "gc"):
        assert commands[name].callback.__doc__
        assert "json" in commands[name].callback.__annotations__


def test_options_of_training_may_differ_for_a_task(ham, life, copy):
    store = copy()
    assert len(ham.told("learn", store, life.later, "--epochs", 1)["losses"]) == 1
    manifest = Store.open(store).manifest
    assert manifest.options.epochs == 2 and manifest.history[-1].text.endswith("with epochs=1")
    assert "--batch-size must be" in ham.refused("learn", store, life.later, "--name", "x", "--batch-size", 0, code=2)
    result = ham("learn", store, life.later, "--name", "x", "--rank", 2)
    assert result.exit_code == 2 and "No such option" in result.stderr
    task = load_task(life.later, name="x")
    with pytest.raises(UsageError, match="'rank' belongs to the whole model"):
        Store.open(store).learn(task, options={"rank": 2})


def test_an_interrupted_command_says_whether_its_change_was_made(ham, life, copy, monkeypatch, tmp_path):
    store = copy()

    def stops(self, *_):
        raise KeyboardInterrupt

    for name, line in (("tidy", ("undo", store)), ("held", ("learn", store, life.later))):
        with monkeypatch.context() as patch:
            patch.setattr(Folder, name, property(stops) if name == "held" else stops)
            said = ham.refused(*line, code=130)
        if name == "tidy":
            assert "the store was changed before that: took back 'week-02'" in said
        else:
            assert "the store is as it was before" in said
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", stops)
        said = ham.refused("init", tmp_path / "new.ham", "--backbone", life.backbone, code=130)
    assert said == "error: interrupted; no store was made\n"


def test_eval_prints_first_and_then_says_that_it_was_not_recorded(ham, life, copy):
    store = copy()
    with Store.open(store)._folder.writing("learn"):
        result = ham("eval", store, life.test)
        assert result.exit_code == 1 and "accuracy" in result.stdout and "week-02" in result.stdout
        note, error = result.stderr.splitlines()
        assert note.startswith("note: probabilities are not known well")
        assert error.startswith("error: not recorded: ") and "--no-record" in error
        result = ham("eval", store, life.test, "--json")
        assert json.loads(result.stdout)["overall"]["samples"] == 12 and result.exit_code == 1
        assert "is being written" in json.loads(result.stdout)["unrecorded"]
        assert ham("eval", store, life.test, "--no-record").exit_code == 0
    assert ham.told("eval", store, life.test)["overall"] == ham.told("status", store)["evaluation"]["overall"]


def test_eval_counts_the_same_samples_once(ham, life, copy, tmp_path):
    store = copy()
    once = ham.told("eval", store, life.test, "--no-record")
    twin = shutil.copytree(life.test, tmp_path / "twin")
    for line in ((life.test, life.test), (life.test, twin)):
        told = ham.told("eval", store, *line, "--no-record")
        assert told["overall"] == once["overall"]
        assert "holds the same samples as 'test', which are counted once" in told["notes"][-1]


def test_eval_counts_the_answers_that_differ_between_precisions(ham, life, copy, monkeypatch):
    store, asked = copy(), []
    answers = Learner.logits

    def logits(self, samples):
        scores = answers(self, samples)
        asked.append(self.machine.precision)
        if self.machine.precision == "bf16":  # as if two near ties were decided otherwise
            scores[:2] = scores[:2].roll(1, dims=1)
        return scores

    monkeypatch.setattr(Learner, "logits", logits)
    told = ham.told("eval", store, life.test, "--precision", "both", "--no-record")
    tasks = len(told["tasks"])
    assert told["precision"] == {"answers": 12, "differ": 2 * tasks}
    assert asked[tasks:] == ["bf16"] * tasks + ["fp32"] * tasks
    shown = ham.shown("eval", store, life.test, "--precision", "both", "--no-record")
    assert f"in which exports compute, {2 * tasks} of 12 answers differ" in shown
    asked.clear()
    assert "precision" not in ham.told("eval", store, life.test, "--precision", "fp32", "--no-record")
    assert asked == ["fp32"] * tasks


def test_eval_on_training_data_says_so(ham, life, copy, tmp_path):
    store = copy()
    result = ham("eval", store, life.weeks[0])
    assert "note: among these are the samples that 'week-01' was learned from" in result.stderr
    assert "on the data that week-01 was learned from" in ham.shown("status", store)
    ham.shown("export", store, tmp_path / "out", "--as", "adapters")
    assert "| accuracy |" not in (tmp_path / "out" / "README.md").read_text()
    told = ham.told("eval", store, life.weeks[0], life.test)
    assert "'week-01' was learned from" in told["notes"][-1]


def test_the_same_data_under_another_name_is_said(ham, life, copy):
    result = ham("learn", copy(), life.weeks[1], "--name", "again")
    assert result.exit_code == 0 and "holds the very data of task 'week-02'" in result.stderr


def test_a_damaged_position_is_shown_by_status_and_does_not_stop_gc(ham, life, copy):
    store = copy()
    (store / "unfinished.json").write_text("{}")
    assert "an unfinished learn that cannot go on" in ham.shown("status", store)
    assert ham.told("gc", store)["freed"] > 0


def test_diff_of_one_task_learned_twice_with_other_options(ham, life, copy):
    stores = [copy("a.ham"), copy("b.ham")]
    for store, epochs in zip(stores, (1, 2), strict=True):
        ham.shown("learn", store, life.later, "--epochs", epochs)
    shown = ham.shown("diff", *stores)
    assert "hold the same model" not in shown and "week-03: epochs" in shown and "more, of" in shown
    listed = [d["name"] for d in ham.told("diff", *stores) if d["section"] == "tensor"]
    assert len(listed) > 10 and "rows.weight" in listed


def test_every_command_that_computes_can_be_told_where(ham, life, copy, tmp_path):
    """Each refuses the device `meta`, so each one asks for it; on the CPU each does its work with one thread."""
    store = copy()
    ham.shown("export", store, tmp_path / "lora", "--as", "peft")
    lines = [
        ("learn", store, life.later, "--precision", "fp32", "--eval-batch-size", 3, "--on-bad-sample", "skip"),
        ("eval", store, life.test, "--precision", "fp32", "--eval-batch-size", 3, "--on-bad-sample", "skip"),
        ("predict", store, life.test, "--precision", "fp32", "--eval-batch-size", 3),
        ("export", store, tmp_path / "out", "--as", "merged"),
        ("import", store, tmp_path / "lora", "--data", life.later, "--precision", "fp32", "--on-bad-sample", "skip"),
        ("verify", store),
        ("run", "--stream", f"folder:{life.later.parent}", "--backbone", life.backbone, "--out", tmp_path / "run"),
        ("demo", "--out", tmp_path / "demo"),
        ("demo", "--store", tmp_path / "try"),
    ]
    before = files(store)
    for line in lines:
        assert "device 'meta' cannot be used here" in ham.refused(*line, "--device", "meta", code=2)
    assert files(store) == before and {path.name for path in tmp_path.iterdir()} == {store.name, "lora"}
    for line in lines[:6]:
        ham.shown(*line, "--device", "cpu", "--threads", 1)
    ham.shown("init", tmp_path / "new.ham", "--backbone", life.backbone, "--threads", 1)
    for path in (store, tmp_path / "new.ham"):
        assert not set(MACHINE) & set(Store.open(path).manifest.config), "nothing of it is part of the model"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("init", {"--threads"}),
        ("learn", {"--device", "--precision", "--eval-batch-size", "--threads", "--on-bad-sample"}),
        ("eval", {"--device", "--precision", "--eval-batch-size", "--threads", "--on-bad-sample"}),
        ("predict", {"--device", "--precision", "--eval-batch-size", "--threads"}),  # a bad input is told, always
        ("export", {"--device", "--threads"}),
        ("import", {"--device", "--precision", "--eval-batch-size", "--threads", "--on-bad-sample"}),
        ("verify", {"--device", "--threads"}),
        ("run", {"--device", "--precision", "--eval-batch-size", "--threads", "--on-bad-sample"}),
        ("demo", {"--device", "--precision", "--threads"}),
        *[(command, set()) for command in ("status", "undo", "diff", "gc", "report")],
    ],
)
def test_each_command_takes_of_the_machine_what_means_something_to_it(ham, monkeypatch, command, flags):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    shown = ham.shown(command, "--help")
    every = {f"--{name.replace('_', '-')}" for name in MACHINE}
    assert {flag for flag in every if f"{flag} " in shown} == flags
    assert ("no part of the model" in shown) == bool(flags)


def test_what_an_earlier_store_kept_of_the_machine_is_said(ham, life, copy):
    store = copy()
    manifest = Store.open(store).manifest
    kept = {**manifest.config, "device": "cpu", "precision": "fp32", "eval_batch_size": 128, "on_bad_sample": "skip"}
    (store / "manifest.json").write_bytes(replace(manifest, config=kept).encode())
    for line in (("eval", store, life.test, "--no-record"), ("predict", store, life.test), ("verify", store)):
        told = " ".join(ham(*line).stderr.split())
        assert f"note: {store} was made with device='cpu', precision='fp32', on_bad_sample='skip'" in told
        assert "give it with each command" in told and "eval_batch_size" not in told, "as it is anyway"
    ham.shown("learn", store, life.later)
    assert "was made with" not in ham("verify", store).stderr, "the next write leaves it out"


def test_eval_and_learn_show_how_far_they_are(ham, life, copy, monkeypatch):
    seen = []
    monkeypatch.setattr(Live, "passed", lambda self, *told: seen.append(told))
    ham.shown("eval", life.store, life.test, "--no-record", "--eval-batch-size", 5)
    assert seen == [("features", 5, 12), ("features", 8, 12), ("features", 12, 12)]  # tasks of 8 and 4 samples
    seen.clear()
    ham.shown("learn", copy(), life.later)
    assert seen[:10] == [("reading", i, 10) for i in range(1, 11)] and ("features", 10, 10) in seen

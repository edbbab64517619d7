"""A `learn` that died goes on, bit for bit, or says why it cannot."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from hamcl.errors import DataError
from hamcl.machine import Machine
from hamcl.store import Store, unfinished
from hamcl.store import store as rooms
from hamcl.store.digest import digest
from hamcl.store.manifest import sealed
from hamcl.streams.base import Samples

from .conftest import CPU

pytestmark = pytest.mark.usefixtures("quick")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(number):
    def progress(step):
        if step.step == number:
            die()

    return progress


@pytest.fixture
def stopped(copied, week, forked):
    """A store whose fourth `learn` was killed in its second epoch."""
    assert forked(lambda: copied.learn(week(3), progress=at_step(5))) == -signal.SIGKILL
    return copied


@pytest.fixture(scope="module")
def tensors(learned, toy, tmp_path_factory):
    """The files of the state after an uninterrupted `learn` of the fourth task."""
    import shutil

    path = tmp_path_factory.mktemp("whole") / "birds.ham"
    shutil.copytree(learned, path)
    whole = Store.open(path, machine=CPU)
    whole.learn(toy.task("week-3", ("a3", "b3"), 5, augmentation="photo"))
    return whole.manifest.state.files


@pytest.mark.parametrize("moment", ["first step", "inside an epoch", "next epoch", "merging", "writing"])
def test_going_on_after_a_kill_gives_the_same_tensors(copied, week, forked, monkeypatch, tensors, moment):
    def learn():
        match moment:
            case "first step":
                copied.learn(week(3), progress=at_step(1))
            case "inside an epoch":  # of three steps; the position is kept after every one
                copied.learn(week(3), progress=at_step(2), checkpoint_minutes=0)
            case "next epoch":
                copied.learn(week(3), progress=at_step(5))
            case "merging":
                monkeypatch.setattr("hamcl.methods.ham.HAM.end", die)
                copied.learn(week(3))
            case "writing":
                real, calls = rooms.save_object, []

                def save(*arguments):
                    calls.append(arguments)
                    return die() if len(calls) == 3 else real(*arguments)

                monkeypatch.setattr(rooms, "save_object", save)
                copied.learn(week(3))

    assert forked(learn) == -signal.SIGKILL
    assert Store.open(copied.path).manifest == copied.manifest
    found = unfinished.read(copied.path)
    assert (found.meta.progress.step if found else 0) == {"first step": 0, "inside an epoch": 1}.get(moment, 3)
    copied.learn(week(3))
    assert copied.manifest.state.files == tensors
    assert ("went on from" in copied.manifest.history[-1].text) == (moment != "first step")
    assert unfinished.read(copied.path) is None
    copied.verify()


def test_verify_and_sizes_know_of_the_unfinished_task(stopped):
    assert any(line.startswith("unfinished learn of task 'week-3'") for line in stopped.verify())
    assert stopped.sizes().unfinished > 0


def test_evaluating_leaves_it_alone_and_undo_drops_it(stopped, week):
    stopped.evaluate([week(0)])
    assert unfinished.read(stopped.path) is not None
    stopped.undo()
    assert unfinished.read(stopped.path) is None
    stopped.learn(week(3))
    stopped.verify()


def changed(task):
    """The same task with one sample's class or one pixel changed."""
    inputs = [image.copy() for image in task.train.inputs]
    inputs[4].putpixel((0, 0), (1, 2, 3))
    return replace(task, train=Samples(inputs, task.train.labels))


def test_other_data_is_refused_until_restarted(stopped, week, tensors):
    with pytest.raises(DataError, match=r"unfinished learn of task 'week-3' .* not the same: the data; give the same"):
        stopped.learn(changed(week(3)))
    with pytest.raises(DataError, match=r"not the same: the task is 'week-4'"):
        stopped.learn(week(4))
    stopped.learn(week(3), restart=True)
    assert stopped.manifest.state.files == tensors
    assert "went on" not in stopped.manifest.history[-1].text


def test_other_options_are_refused(stopped, week):
    with pytest.raises(DataError, match=r"not the same: the config; give the same"):
        stopped.learn(week(3), options={"lr": 2e-3})


def test_other_versions_are_refused(stopped, week, monkeypatch):
    monkeypatch.setattr(unfinished, "version", lambda name: "9.9" if name == "timm" else "1.0")
    with pytest.raises(DataError, match=r"not the same: .*timm \(then [0-9.]+, now 9\.9\)"):
        stopped.learn(week(3))


def test_the_digest_sees_everything_learning_depends_on(week):
    task = week(0)
    labels = [1 - y for y in task.train.labels]
    others = [
        changed(task),
        replace(task, classes=("a0", "c0")),
        replace(task, augmentation="none"),
        replace(task, train=Samples(task.train.inputs, labels)),
        replace(task, train=task.train.select(range(9))),
    ]
    assert len({digest(t) for t in [task, *others]}) == 6
    assert digest(week(0)) == digest(replace(task, name="other", test=Samples()))


@pytest.mark.parametrize("part", ["document", "tensors"])
def test_a_damaged_position_is_named_and_can_be_dropped(stopped, week, tensors, part):
    name = "unfinished.json" if part == "document" else unfinished.read(stopped.path).position.name
    data = bytearray((stopped.path / name).read_bytes())
    data[-20] ^= 1
    (stopped.path / name).write_bytes(data)
    with pytest.raises(
        DataError,
        match=rf"an unfinished learn cannot go on: .*{name} was changed.*; drop it with restart=True",
    ):
        stopped.learn(week(3))
    stopped.learn(week(3), restart=True)
    assert stopped.manifest.state.files == tensors
    assert unfinished.read(stopped.path) is None
    assert not any("leftover" in line for line in stopped.verify())


def test_a_damaged_position_does_not_keep_gc_from_its_work(stopped):
    path = stopped.path / "unfinished.json"
    path.write_bytes(path.read_bytes()[:-30] + b" " * 30)
    left = sum(file.stat().st_size for file in (stopped.path / "objects").iterdir())
    freed = stopped.gc()
    assert freed == left - sum(file.stat().st_size for file in (stopped.path / "objects").iterdir()) > 0
    assert stopped.manifest.earlier == ()
    assert "unfinished.json was changed" in stopped.sizes().damaged
    with pytest.raises(DataError, match=r"unfinished\.json"):
        stopped.verify()


def test_a_damaged_position_of_equal_size_is_written_again(stopped, week, tensors):
    name = unfinished.read(stopped.path).position.name
    (stopped.path / name).write_bytes(bytes((stopped.path / name).stat().st_size))
    (stopped.path / "unfinished.json").write_text("{}")
    stopped.learn(week(3), restart=True)
    assert stopped.manifest.state.files == tensors
    stopped.verify()


def test_what_the_options_came_to_is_part_of_the_identity(stopped, week, monkeypatch, tensors):
    with monkeypatch.context() as patch:
        patch.setattr(Machine, "arithmetic", lambda self, device: "other")
        with pytest.raises(DataError, match=r"not the same: precision \(then (fp32|bf16), now other\); give the same"):
            stopped.learn(week(3))
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError, match=r"not the same: threads \(then 1, now 2\)"):
            stopped.learn(week(3))
    finally:
        torch.set_num_threads(1)
    stopped.learn(week(3))
    assert stopped.manifest.state.files == tensors
    assert stopped.manifest.state.tasks[-1].options["precision"] in ("fp32", "bf16")


def test_it_goes_on_in_the_arithmetic_and_on_the_device_it_began_with(copied, week, forked, tensors):
    machines = [replace(CPU, precision=precision) for precision in ("fp32", "bf16")]
    exact, rough = (Store.open(copied.path, machine=machine) for machine in machines)
    assert forked(lambda: exact.learn(week(3), progress=at_step(5))) == -signal.SIGKILL
    found = unfinished.read(copied.path).identity
    assert (found.device, found.became["precision"]) == ("cpu", "fp32")
    with pytest.raises(DataError, match=r"not the same: precision \(then fp32, now bf16\); give the same") as caught:
        rough.learn(week(3))
    assert "\n" not in str(caught.value)
    elsewhere = replace(found, device="cuda")
    assert elsewhere.differences(found) == ["the device"]
    exact.learn(week(3))
    assert "went on from" in exact.manifest.history[-1].text
    assert exact.manifest.state.tasks[-1].options == {"precision": "fp32"}


def test_what_the_machine_does_besides_is_no_reason_to_stop(stopped, week, tensors):
    other = replace(CPU, eval_batch_size=3, on_bad_sample="skip", threads=1)
    store = Store.open(stopped.path, machine=other)
    store.learn(week(3))
    assert "went on from" in store.manifest.history[-1].text
    assert store.manifest.state.files == tensors


def test_a_position_kept_before_that_still_goes_on(stopped, week, tensors):
    path = stopped.path / "unfinished.json"
    value = json.loads(path.read_bytes())
    del value["checksum"], value["identity"]["became"]
    path.write_bytes(sealed(value))
    stopped.learn(week(3))
    assert "went on from" in stopped.manifest.history[-1].text
    assert stopped.manifest.state.files == tensors

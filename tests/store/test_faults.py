"""Full disks, folders that cannot be written to, writers that meet, readers that do not wait."""

import errno
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from hamcl.errors import DataError, TrainingError
from hamcl.store import Store, Unrecorded
from hamcl.store.files import put
from hamcl.store.folder import read_manifest

pytestmark = pytest.mark.usefixtures("quick")


class Faults:
    """Counts fsync, rename and delete, and makes one of them fail as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int = -1) -> None:
        self.done: list[tuple[str, str, str]] = []  # what, from where, to where
        self.fails = fails
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, real):
        def call(*arguments, **options):
            path = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else str(arguments[-1])
            if len(self.done) == self.fails:
                self.fails = -1  # only once, so that what was written can be taken back
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            self.done.append((name, str(arguments[0]) if name == "replace" else path, path))
            return real(*arguments, **options)

        return call


def learned(store):
    return tuple(task.name for task in store.manifest.state.tasks)


def test_a_disk_that_is_full_at_any_operation_leaves_the_old_state_or_the_new_one(copied, week, monkeypatch, tmp_path):
    shutil.copytree(copied.path, tmp_path / "whole.ham")
    with monkeypatch.context() as patch:
        counted = Faults(patch)
        whole = Store.open(tmp_path / "whole.ham")
        whole.learn(week(3))
    committed = next(i for i, (*_, path) in enumerate(counted.done) if path.endswith("manifest.json"))
    ends = []
    for fails in [*range(0, committed - 2, 17), *range(committed - 2, committed + 3)]:
        shutil.rmtree(copied.path)
        shutil.copytree(tmp_path / "whole.ham", copied.path)
        store = Store.open(copied.path)
        store.undo()
        before = store.manifest
        with monkeypatch.context() as patch:
            Faults(patch, fails)
            if fails > committed + 1:  # what is not deleted now is deleted by the next command
                store.learn(week(3))
            else:
                with pytest.raises(DataError, match=r"^cannot write .*No space left on device; .* make room") as error:
                    store.learn(week(3))
                assert "\n" not in str(error.value)
                assert ("the change is made" in str(error.value)) == (fails > committed)
        store.refresh()
        ends.append(store.manifest.state.files == whole.manifest.state.files)
        assert ends[-1] or store.manifest == before
        store.verify()
        if not ends[-1]:
            store.learn(week(3))
            assert store.manifest.state.files == whole.manifest.state.files
    assert not any(ends[:-3])
    assert any(ends)


def test_nothing_is_named_before_it_is_on_the_disk(copied, week, monkeypatch):
    with monkeypatch.context() as patch:
        done = Faults(patch).done
        copied.learn(week(3))
    synced: set[str] = set()
    pending: set[str] = set()  # folders with names that are not durable yet
    for name, source, path in done:
        if name == "fsync":
            synced.add(path)
            pending.discard(path)
        elif name == "replace":
            assert source in synced
            assert not (path.endswith("manifest.json") and pending)
            pending.add(str(Path(path).parent))
        else:
            assert not pending
    assert sum(name == "replace" for name, *_ in done) >= 10


def test_a_limit_on_the_size_of_files(copied, week, forked):
    before = copied.manifest

    def learn():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        with pytest.raises(DataError, match=r"cannot write .*File too large; the store is whole, make room"):
            copied.learn(week(3))

    assert forked(learn) == 0
    assert copied.refresh() == before
    copied.verify()
    copied.learn(week(3))


def test_a_folder_that_cannot_be_written_to_can_be_read(learned, week, forked):
    # Outside of pytest's own folders, which only their owner may enter; root may write anywhere, so be another user.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "birds.ham"
        shutil.copytree(learned, path)
        for item in [path, *path.rglob("*")]:
            item.chmod(0o555 if item.is_dir() else 0o444)
        store = Store.open(path)
        expected = store.model().logits(week(0).test)

        def use():
            if os.getuid() == 0:
                os.setuid(65534)
            assert store.model().logits(week(0).test).equal(expected)
            store.verify()
            store.evaluate([week(0)], record=False)
            for write in (lambda: store.learn(week(3)), store.undo, lambda: store.evaluate([week(0)])):
                with pytest.raises(DataError, match=r"cannot write .*Permission denied; .* allow writing"):
                    write()

        assert forked(use) == 0
        for item in [path, *path.rglob("*")]:
            item.chmod(0o755)
        assert Store.open(path).manifest == store.manifest


def test_one_writer_at_a_time_even_after_one_has_died(copied, week):
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:

        def wait(step):
            os.write(go, b"x")
            signal.pause()

        copied.learn(week(3), progress=wait)
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    with pytest.raises(DataError, match=rf"is being written by process {pid} on .* \(ham learn, since 20.*Z\); wait"):
        copied.learn(week(4))
    with pytest.raises(DataError, match="is being written by"):
        copied.undo()
    assert Store.open(copied.path).model().classes == ("a0", "b0", "a1", "b1", "a2", "b2")  # readers do not wait
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    copied.learn(week(3))
    assert learned(copied)[-1] == "week-3"


def test_what_dead_commands_left_is_cleaned(copied, week):
    left = [copied.path / "objects" / f"{'0' * 64}.safetensors", copied.path / "tmp" / "half-written"]
    for path in left:
        path.write_bytes(b"x")
    assert any("2 leftover files" in line for line in copied.verify())
    copied.evaluate([week(0)])
    assert not any(path.exists() for path in left)
    assert read_manifest(copied.path) == copied.manifest


def test_creation_that_died_can_be_done_again(create, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Faults(patch, 4)
        with pytest.raises(DataError, match="No space left"):
            create()
    with pytest.raises(ValueError, match="there is no store"):
        Store.open(tmp_path / "birds.ham")
    create().verify()


def test_copies_may_lack_empty_folders(copied, week):
    shutil.rmtree(copied.path / "tmp")
    copied.verify()
    copied.evaluate([week(0)])
    assert not list((copied.path / "tmp").glob("[!w]*"))


def at(monkeypatch, name, suffix, work):
    """Do `work` once, just before the first file operation of this name on a path with this ending."""
    left = [work]
    for each in ("fsync", "replace", "unlink"):
        real = getattr(os, each)

        def call(*arguments, each=each, real=real, **options):
            path = os.readlink(f"/proc/self/fd/{arguments[0]}") if each == "fsync" else str(arguments[-1])
            if left and each == name and suffix in path:
                left.pop()()
            return real(*arguments, **options)

        monkeypatch.setattr(os, each, call)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("replace", "writer.json"),  # just locked
        ("replace", "unfinished.json"),
        ("fsync", "objects"),  # inside of what the first epoch keeps
        ("replace", "manifest.json"),
        ("unlink", "unfinished.json"),
        ("unlink", "objects"),
    ],
)
def test_a_lock_that_is_deleted_loses_no_task(copied, week, forked, monkeypatch, name, suffix):
    second = []

    def meanwhile():
        (copied.path / ".lock").unlink()
        second.append(forked(lambda: Store.open(copied.path).learn(week(4))) == 0)

    at(monkeypatch, name, suffix, meanwhile)
    try:
        copied.learn(week(3))
        first = True
    except DataError as error:
        first = False
        assert "stops" in str(error) and "\n" not in str(error)
    store = Store.open(copied.path)
    store.verify()
    assert second
    assert ("week-3" in learned(store), "week-4" in learned(store)) == (first, second[0])
    if not first:
        copied.learn(week(3))
        copied.verify()


def test_a_lock_that_is_deleted_between_two_file_operations_is_noticed(copied, week, forked):
    def meanwhile(step):
        if step.step == 2:
            (copied.path / ".lock").unlink()
            assert forked(lambda: Store.open(copied.path).learn(week(4))) == 0

    with pytest.raises(DataError, match=r"not locked by this command any more \(\.lock was deleted, .*so it stops"):
        copied.learn(week(3), progress=meanwhile)
    assert learned(Store.open(copied.path))[-1] == "week-4"
    copied.verify()


def test_a_folder_that_is_put_in_the_place_of_the_store_is_left_alone(copied, week, tmp_path):
    def content():
        return {path.relative_to(copied.path): path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}

    before = {}

    def meanwhile(step):
        if step.step == 2:
            copied.path.rename(tmp_path / "away.ham")
            shutil.copytree(tmp_path / "away.ham", copied.path)
            before.update(content())

    with pytest.raises(DataError, match=r"another folder is in its place\), so it stops"):
        copied.learn(week(3), progress=meanwhile)
    assert content() == before
    copied.learn(week(3))


@pytest.mark.parametrize("suffix", [".safetensors", "unfinished.json"])
def test_nothing_is_written_into_a_folder_that_is_put_in_the_place_between_two_files(
    copied, week, tmp_path, monkeypatch, suffix
):
    def content():
        return {path.relative_to(copied.path): path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}

    before = {}

    def meanwhile():
        copied.path.rename(tmp_path / "away.ham")
        shutil.copytree(tmp_path / "away.ham", copied.path, ignore=shutil.ignore_patterns("tmp"))
        (copied.path / "tmp").mkdir()
        before.update(content())

    at(monkeypatch, "replace", suffix, meanwhile)
    with pytest.raises(DataError, match=r"another folder is in its place\), so it stops"):
        copied.learn(week(3))
    assert content() == before


def test_the_message_of_a_second_writer_does_not_invite_to_delete_the_lock(copied, week):
    with copied._folder.writing("learn"), pytest.raises(DataError, match=r"its lock ends with it, so leave \.lock"):
        Store.open(copied.path).undo()


def test_folders_in_the_way_of_cleaning_are_left_alone(copied, week):
    strange = [copied.path / "tmp" / "mine", copied.path / "objects" / f"{'0' * 64}.safetensors"]
    for folder in strange:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    assert any("1 folders in" in line for line in copied.verify())
    copied.learn(week(3))
    assert copied.gc() > 0
    assert all((folder / "notes.txt").exists() for folder in strange)


def test_what_lies_in_the_place_of_a_file_is_named(copied, week):
    shutil.rmtree(copied.path / "tmp")
    (copied.path / "tmp" / "writer.json").mkdir(parents=True)
    with pytest.raises(DataError, match=r"the store is whole, move away what lies in its place"):
        copied.undo()


def test_a_creation_that_fails_does_not_speak_of_a_store(create, monkeypatch):
    Faults(monkeypatch, 4)
    with pytest.raises(DataError, match=r"No space left on device; no store was made, make room"):
        create()


def test_a_damaged_leftover_is_not_taken_for_what_it_is_called_after(copied, week):
    copied.learn(week(3))
    own = [record.name for record in copied.manifest.state.files.values()]
    whole = {name: (copied.path / name).read_bytes() for name in own}
    copied.undo()
    # What a process killed by a power cut may leave: the name and the size, and other bytes.
    with copied._folder.writing("test"):
        for name, data in whole.items():
            if not (copied.path / name).exists():
                (copied.path / name).write_bytes(bytes(len(data)))
        for name in whole:
            put(copied.path, name, whole[name])
    assert {name: (copied.path / name).read_bytes() for name in own} == whole


def test_an_evaluation_that_cannot_be_kept_is_not_lost(copied, week):
    with (
        copied._folder.writing("learn"),
        pytest.raises(Unrecorded, match=r"not recorded: .* is being written") as error,
    ):
        Store.open(copied.path).evaluate([week(0)])
    assert error.value.evaluation.overall.samples == 12
    assert error.value.evaluation.tasks == copied.evaluate([week(0)]).tasks


def test_a_task_that_cannot_be_kept_says_so_of_itself_and_blocks_nothing(copied, week, monkeypatch):
    before = copied.manifest
    with (
        pytest.raises(DataError, match=r"cannot keep what this import would write .* and is as it was") as error,
        copied.transaction("import", "took over caf\udce9") as model,
    ):
        model.learn(week(3))
    assert "copy of the store" not in str(error.value)
    assert copied.refresh() == before

    def fails(self, *_):
        raise TrainingError("the loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr("hamcl.methods.ham.HAM.end", fails)
        with pytest.raises(TrainingError):
            copied.learn(week(3))
    copied.learn(week(4))

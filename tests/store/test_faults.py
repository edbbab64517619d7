"""Full disks, folders that cannot be written to, writers that meet, readers that do not wait."""

import errno
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from hamcl.errors import DataError
from hamcl.store import Store
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
            with pytest.raises(DataError, match=r"^cannot write .*No space left on device; .* make room") as caught:
                store.learn(week(3))
        assert "\n" not in str(caught.value)
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

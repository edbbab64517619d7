"""Files and folders that are there whole or not at all, whatever happens to their maker."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hamcl import files
from hamcl.errors import DataError, UsageError
from hamcl.files import new_file, new_folder

posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and locks of POSIX")


def put(path: Path, text: str) -> None:
    """A new folder at `path` with one file in it."""
    with new_folder(path) as fresh:
        (fresh / "a.txt").write_text(text)


def killed(code: str, path: Path) -> None:
    """Run code in a process that kills itself; `path` is its argument."""
    script = (
        f"import os, signal, sys\nfrom pathlib import Path\nfrom hamcl import files\nout = Path(sys.argv[1])\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_file_is_replaced_only_by_what_was_finished(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), new_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with new_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@posix
def test_links_modes_and_groups_stay(tmp_path):
    real, elsewhere = tmp_path / "real", tmp_path / "elsewhere"
    elsewhere.mkdir()
    put(real, "1")
    real.chmod(0o2770)
    (real / "a.txt").chmod(0o640)
    link = elsewhere / "link"
    link.symlink_to(real)
    group = next((g for g in os.getgroups() if g != real.stat().st_gid), real.stat().st_gid)
    os.chown(real, -1, group)
    real.chmod(0o2770)
    put(link, "2")
    assert link.is_symlink() and link.resolve() == real and (real / "a.txt").read_text() == "2"
    assert real.stat().st_mode & 0o7777 == 0o2770 and real.stat().st_gid == group
    assert (real / "a.txt").stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "real"] and list(elsewhere.iterdir()) == [link]

    file, name = tmp_path / "file.csv", elsewhere / "name.csv"
    file.write_text("1")
    file.chmod(0o640)
    name.symlink_to(file)
    with new_file(name) as fresh:
        fresh.write_text("2")
    assert name.is_symlink() and file.read_text() == "2" and file.stat().st_mode & 0o777 == 0o640

    nowhere = elsewhere / "nowhere"
    nowhere.symlink_to(tmp_path / "later" / "out")
    put(nowhere, "3")
    assert nowhere.is_symlink() and (tmp_path / "later" / "out" / "a.txt").read_text() == "3"


@posix
def test_what_is_no_place_is_written_to(tmp_path):
    """Such as /dev/null, which must not become a file."""
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    with new_file(pipe) as same:
        same.write_text("x")
    reader.join(5)
    assert found == ["x"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


@posix
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr(files, "_hidden", lambda place, kind: tmp_path / "guessed")
    (tmp_path / "guessed").symlink_to(victim)
    with pytest.raises(DataError, match="file exists"), new_file(tmp_path / "out.csv") as fresh:
        fresh.write_text("x")
    assert victim.read_text() == "mine" and not (tmp_path / "out.csv").exists()


@posix
def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    out = tmp_path / "out"
    put(out, "1")
    dies = "    (fresh / 'half').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)"
    killed(f"with files.new_folder(out) as fresh:\n{dies}", out)
    (tmp_path / ".out.4711.new").mkdir()  # as earlier versions named them
    assert len(list(tmp_path.iterdir())) == 3 and (out / "a.txt").read_text() == "1"
    with new_folder(tmp_path / "other"), new_folder(out) as fresh:  # of the living, nothing is taken away
        with new_folder(out) as second:
            (second / "a.txt").write_text("2")
        assert fresh.is_dir()
        (fresh / "a.txt").write_text("3")
    assert (out / "a.txt").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []
    killed("with files.new_file(out) as fresh:\n    os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "f.csv")
    with new_file(tmp_path / "f.csv") as fresh:
        fresh.write_text("x")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@posix
def test_of_two_that_make_a_folder_the_first_one_stays(tmp_path):
    with pytest.raises(DataError, match=r"cannot write .*out: directory not empty"), new_folder(tmp_path / "out"):
        put(tmp_path / "out", "1")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a.txt").read_text() == "1"


@posix
def test_the_old_folder_is_never_lost(tmp_path):
    """Killed between the two renames of a system that cannot swap names, the next call finds it again."""
    out = tmp_path / "out"
    put(out, "1")
    code = """
files._swapped = lambda one, other: False
rename = Path.rename
def once(self, target):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = once
with files.new_folder(out) as fresh:
    pass
"""
    killed(code, out)
    assert not out.exists()
    with pytest.raises(RuntimeError), new_folder(out):
        assert (out / "a.txt").read_text() == "1"
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (out / "a.txt").read_text() == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="names are swapped on Linux")
def test_names_are_swapped_in_one_step(tmp_path, monkeypatch):
    put(tmp_path / "out", "1")
    monkeypatch.delattr(Path, "rename")
    put(tmp_path / "out", "2")
    assert (tmp_path / "out" / "a.txt").read_text() == "2" and len(list(tmp_path.iterdir())) == 1


def test_what_would_stop_the_last_step_is_told_before_the_first(tmp_path, monkeypatch):
    def refused(kind, path, error, message):
        with pytest.raises(error, match=message), kind(path):
            pytest.fail("the block must not begin")

    (tmp_path / "file").write_text("x")
    refused(new_folder, tmp_path / "file", UsageError, "file is not a folder; choose another place")
    refused(
        new_folder,
        tmp_path / "file" / "out",
        DataError,
        "cannot write .*out: nothing can be written to .*file; choose another place",
    )
    refused(new_file, tmp_path, DataError, "it is a folder; name a file")
    refused(new_file, tmp_path / "none" / "a.csv", DataError, "cannot write .*a.csv: no such file or directory")
    refused(new_folder, Path("/"), UsageError, "where a disk is mounted, which cannot be replaced")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(new_folder, Path("."), UsageError, "is the folder you are in")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(new_folder, tmp_path / "loop", DataError, "cannot write .*loop")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "here", "loop"]


@posix
@pytest.mark.parametrize("library", [True, False])
def test_a_full_disk_is_one_sentence_and_changes_nothing(tmp_path, library):
    import resource

    put(tmp_path / "out", "1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with (
            pytest.raises(DataError, match=r"cannot write .*out: file too large; .* make room"),
            new_folder(tmp_path / "out") as fresh,
        ):
            if library:
                save_file({"x": torch.zeros(1_000_000)}, fresh / "x.safetensors")
            else:
                (fresh / "x").write_bytes(bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "a.txt"] and (
        tmp_path / "out" / "a.txt"
    ).read_text() == "1"


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(ValueError, match="mine"), new_file(tmp_path / "a"):
        raise ValueError("mine")

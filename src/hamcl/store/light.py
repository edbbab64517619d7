"""LightStore: what can be seen and moved of a store without its model, so without PyTorch, which loads for seconds."""

from dataclasses import replace
from pathlib import Path
from typing import Self

from hamcl.errors import UsageError
from hamcl.machine import Machine
from hamcl.store.diff import Difference, diff
from hamcl.store.files import MANIFEST
from hamcl.store.folder import Folder, read_manifest
from hamcl.store.manifest import Manifest
from hamcl.store.records import check_object
from hamcl.store.sizes import Sizes, sizes
from hamcl.streams.names import canonical


class LightStore:
    """A folder that holds one model and its history; see docs/store.md for the layout.

    Readers take no lock and see one consistent state. A command that changes the store is a transaction: whatever
    happens to the process or the disk, the state is the one before or the one after.
    """

    def __init__(
        self, path: Path, manifest: Manifest, backbone: str | None = None, machine: Machine | None = None
    ) -> None:
        self._folder, self._spec, self._machine = Folder(path, manifest), backbone, machine or Machine()

    def __repr__(self) -> str:
        state = self.manifest.state
        return f"{type(self).__name__}({str(self.path)!r}, {len(state.tasks)} tasks, {len(state.classes)} classes)"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def manifest(self) -> Manifest:
        """The manifest as last read or written by this object."""
        return self._folder.manifest

    def refresh(self) -> Manifest:
        """Read the manifest again: another process may have changed the store."""
        return self._folder.refresh()

    @classmethod
    def open(cls, path: str | Path, *, backbone: str | None = None, machine: Machine | None = None) -> Self:
        """Read and check the manifest, and nothing else.

        Args:
            backbone: where the backbone lies now, if not where the manifest says; it must be the same one.
            machine: where everything is computed, and what becomes of bad samples.

        Raises:
            UsageError: there is no store at `path`.
            DataError: the manifest cannot be trusted or has another format version.
        """
        root = Path(path).expanduser()
        if not (root / MANIFEST).exists() and not (root / MANIFEST).is_symlink():
            raise UsageError(f"there is no store at {root} (it has no {MANIFEST}); make one with ham init")
        return cls(root, read_manifest(root), backbone, machine)

    def undo(self, to: str | None = None) -> list[str]:
        """Go back to an earlier state, exactly.

        Args:
            to: the task that shall be the last one known; by default the one before the last.

        Returns:
            The names of the tasks taken back.

        Raises:
            UsageError: no such state is kept.
            DataError: its files were changed, or somebody else is writing.
        """
        with self._folder.writing("undo"):
            manifest, earlier = self.manifest, self.manifest.earlier
            wanted = [
                i for i, e in enumerate(earlier) if to is None or (e.task and canonical(e.task) == canonical(to))
            ]
            if not wanted:
                kept = ", ".join(repr(e.task) if e.task else "the beginning" for e in earlier)
                where = "before the last task" if to is None else f"of task {to!r}"
                raise UsageError(f"{self.path} keeps no state {where}; it keeps {kept or 'none'}")
            chosen = earlier[wanted[-1]]
            state = self._folder.recall(chosen)
            for record in state.files.values():
                check_object(self.path, record)
            gone = [task.name for task in manifest.state.tasks[chosen.tasks :]]
            after = replace(manifest, state=state, earlier=earlier[: wanted[-1]])
            self._folder.write(after, "undo", f"took back {', '.join(map(repr, gone))}")
            self._folder.tidy()
        return gone

    def gc(self, keep: int = 0) -> int:
        """Keep only the last `keep` earlier states, and return the bytes that this set free.

        Raises:
            UsageError: `keep` is negative.
            DataError: somebody else is writing, or files cannot be deleted.
        """
        if keep < 0:
            raise UsageError(f"option 'keep' must be at least 0, got {keep}")
        with self._folder.writing("gc"):
            earlier = self.manifest.earlier
            if len(earlier) > keep:
                kept = earlier[len(earlier) - keep :]
                text = f"dropped {len(earlier) - len(kept)} earlier states"
                self._folder.write(replace(self.manifest, earlier=kept), "gc", text)
            return self._folder.clean()

    def diff(self, other: "LightStore") -> list[Difference]:
        """In what this store and another differ; nothing where they hold the same model.

        Compared are backbones, config, classes, tasks with their data and options, groups (by position), importances,
        all tensors, what later tasks are grouped by, and the last evaluations. Tensors are read where their files are
        not the same.

        Raises:
            DataError: a file that must be read is missing or was changed.
        """
        return diff(self._folder, other._folder)

    def sizes(self) -> Sizes:
        """Bytes by what they are for."""
        return sizes(self.path, self.manifest)

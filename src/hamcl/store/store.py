"""Store: a model's life on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.files import sync
from hamcl.machine import Machine
from hamcl.store import files
from hamcl.store.diff import Difference, diff
from hamcl.store.document import FORMAT
from hamcl.store.files import MANIFEST
from hamcl.store.folder import Folder, read_manifest
from hamcl.store.lock import LOCK, now
from hamcl.store.manifest import Evaluation, Manifest
from hamcl.store.records import check_object
from hamcl.store.sizes import Sizes, sizes
from hamcl.streams.names import canonical

if TYPE_CHECKING:
    from hamcl.methods.ham import HAM, HAMReport
    from hamcl.store.work import Work
    from hamcl.streams.base import Task
    from hamcl.training.lesson import Progress, Watch

KEEP = 10**6
"""The most earlier states that a store is asked to keep."""


class Store:
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
        return f"Store({str(self.path)!r}, {len(state.tasks)} tasks, {len(state.classes)} classes)"

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

    @property
    def _work(self) -> "Work":
        """What needs PyTorch and the libraries of models, which take seconds to load and many commands never use."""
        from hamcl.store.work import Work

        return Work(self._folder, self._spec, self._machine)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        backbone: str,
        backbone_options: dict[str, Any] | None = None,
        config: HAMConfig | None = None,
        keep: int = 3,
    ) -> "Store":
        """Make a store that knows nothing yet.

        Args:
            backbone: spec of `load_backbone`, which takes `backbone_options`. A local folder is kept as an absolute
                path.
            keep: how many earlier states are kept for `undo`.

        Raises:
            UsageError: there is something at `path` already, or an option or the backbone cannot be used.
            DataError: the folder cannot be written to.
        """
        root, config = Path(path).expanduser(), config or HAMConfig()
        if (root / MANIFEST).exists():
            raise _taken(root)
        # A creation that died leaves no more than these.
        leftovers = {files.OBJECTS, files.TEMPORARY, LOCK}
        if root.exists() and (not root.is_dir() or {item.name for item in root.iterdir()} - leftovers):
            raise UsageError(f"{root} holds something else; give a path where there is nothing yet")
        if not 0 <= keep <= KEEP:
            raise UsageError(f"option 'keep' must lie between 0 and {KEEP}, got {keep}")
        from hamcl.store.work import beginner

        learner = beginner(backbone, backbone_options or {}, config)
        return cls.begin(root, learner, keep=keep, text=f"began with backbone {learner.backbone.location}")

    @classmethod
    def begin(cls, root: Path, learner: "HAM", *, keep: int = 3, text: str = "began") -> "Store":
        """Make a store for what a learner will learn; see `create`, which loads one."""
        from hamcl.store.work import facts_of

        record, config, resolved = facts_of(learner)
        manifest = Manifest(FORMAT, now(), record, config, keep, resolved)
        with files.explained(root):
            root.mkdir(parents=True, exist_ok=True)
        store = cls(root, manifest)
        with store._folder.writing("init", new=True):
            if (root / MANIFEST).exists():
                raise _taken(root)
            store._folder.write(manifest, "init", text)
        with files.explained(root):
            sync(root.resolve().parent)
        return store

    @classmethod
    def open(cls, path: str | Path, *, backbone: str | None = None, machine: Machine | None = None) -> "Store":
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

    def model(self, machine: Machine | None = None) -> "HAM":
        """The present model, ready to predict, evaluate and export; a copy that does not change with the store.

        Args:
            machine: instead of that of this object.

        Raises:
            DataError: the backbone is missing or another one, or a file is missing or was changed.
        """
        return self._work.model(machine)

    def learn(
        self,
        task: "Task | str | Path",
        *,
        options: Mapping[str, Any] | None = None,
        restart: bool = False,
        progress: "Progress | None" = None,
        watch: "Watch | None" = None,
        checkpoint_minutes: float = 10.0,
    ) -> "HAMReport":
        """Learn one task, all or nothing.

        The position is kept after every epoch and every `checkpoint_minutes`. After the process has died, the same
        call goes on from there and ends with the same tensors as if nothing had happened.

        Args:
            task: a task, or where its data lies (see `hamcl.load_task`).
            options: for this task instead of those of the store; the ones in `hamcl.config.PER_TASK`.
            progress: is told of every step of the training.
            watch: is told of every pass over the samples besides the training: its name, the samples done, and all.
            restart: drop what an unfinished `learn` left.

        Raises:
            UsageError: an option belongs to the whole model, or its value is not allowed.
            DataError: the task cannot be used or was learned before, an unfinished `learn` had other data, config or
                versions, somebody else is writing, or the disk is full.
            TrainingError: the loss is not finite.
        """
        return self._work.learn(
            task,
            options=options,
            restart=restart,
            progress=progress,
            watch=watch,
            checkpoint_minutes=checkpoint_minutes,
        )

    def transaction(self, command: str, text: str) -> "AbstractContextManager[HAM]":
        """Change the model by other means than `learn`: give it out to be taught more tasks, then keep it.

        Nothing is kept if the block raises. An unfinished `learn` is dropped, because its model is no more.

        Example:
            >>> with store.transaction("import", "took over the adapter in adapter/") as model:
            ...     ...  # add exactly what a task adds: classes, columns, a group member, head statistics

        Args:
            command, text: what the history will say.

        Raises:
            DataError: the block added a task of a known name, somebody else is writing, or the disk is full.
            UsageError: the block added no task.
        """
        return self._work.transaction(command, text)

    def evaluate(
        self,
        tasks: "Sequence[Task | str | Path] | Task | str | Path",
        *,
        record: bool = True,
        on_skip: Callable[[str], None] = lambda sentence: None,
        watch: "Watch | None" = None,
    ) -> Evaluation:
        """Classify the test splits of `tasks` among all classes.

        Args:
            tasks: one or several, or where their data lies.
            record: keep the result in the manifest.
            on_skip: is told of every sample left out because it cannot be read (`on_bad_sample`).
            watch: is told of the samples done, and of all, as in `learn`.

        Raises:
            DataError: there is nothing to classify, a class was not learned, or two tasks hold the same samples.
            Unrecorded: the result, which the error carries, could not be kept: the folder cannot be written to,
                somebody else is writing, or another command changed the model in the meantime.
        """
        return self._work.evaluate(tasks, record=record, on_skip=on_skip, watch=watch)

    def between_precisions(self, tasks: "Sequence[Task]") -> tuple[int, int]:
        """How many test samples there are, and how many are classified otherwise in bfloat16 than in float32.

        Exports compute in float32.
        """
        return self._work.between_precisions(tasks)

    def trained_on(self, task: "Task") -> list[str]:
        """The names of the tasks that were learned from the very samples a task is evaluated on.

        Those are its test samples, or its training samples where it has no others; accuracy on them says little.
        """
        return self._work.trained_on(task)

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
            manifest = self.manifest
            wanted = [i for i, e in enumerate(manifest.earlier) if to is None or _same(e.task, to)]
            if not wanted:
                kept = ", ".join(repr(e.task) if e.task else "the beginning" for e in manifest.earlier)
                where = "before the last task" if to is None else f"of task {to!r}"
                raise UsageError(f"{self.path} keeps no state {where}; it keeps {kept or 'none'}")
            index = wanted[-1]
            chosen = manifest.earlier[index]
            state = self._folder.recall(chosen)
            for record in state.files.values():
                check_object(self.path, record)
            gone = [task.name for task in manifest.state.tasks[chosen.tasks :]]
            after = replace(manifest, state=state, earlier=manifest.earlier[:index])
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

    def verify(self) -> list[str]:
        """Check every checksum, every shape, and what must hold between them, and load the model.

        Returns:
            What was checked, line by line, and leftovers that the next command will clean.

        Raises:
            DataError: names what is wrong.
        """
        return self._work.verify()

    def diff(self, other: "Store") -> list[Difference]:
        """In what this store and another differ; tensors are read and compared where their files are not the same.

        Raises:
            DataError: a file that must be read is missing or was changed.
        """
        return diff(self._folder, other._folder)

    def sizes(self) -> Sizes:
        """Bytes by what they are for."""
        return sizes(self.path, self.manifest)

    def keep(self, learner: "HAM", command: str, text: str) -> None:
        """Take over what a learner of this store's backbone and config has learned since the present state."""
        with self._folder.writing(command):
            self._work.commit(learner, command, text, {})


def _taken(root: Path) -> UsageError:
    return UsageError(f"there is a store at {root} already; learn into it, or give another path")


def _same(task: str | None, asked: str) -> bool:
    """Whether a task, None for the beginning, is the one asked for."""
    return task is not None and canonical(task) == canonical(asked)

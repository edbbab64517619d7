"""Store: a model's life on disk."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.learner import HAM, HAMReport
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.store import evaluation, files, snapshot, unfinished
from hamcl.store.diff import Difference, diff
from hamcl.store.lock import HOLDER, now, writing
from hamcl.store.manifest import (
    FORMAT,
    LIMIT,
    MANIFEST,
    BackboneOptions,
    BackboneRecord,
    Earlier,
    Evaluation,
    Event,
    Manifest,
    State,
    TaskRecord,
    dump,
    parse,
    parse_state,
)
from hamcl.store.objects import load_object, put, save_object
from hamcl.store.unfinished import Identity, Unfinished
from hamcl.store.verify import verify
from hamcl.streams.base import Task
from hamcl.training import Progress

_OBJECT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")


@dataclass(frozen=True)
class Sizes:
    """Bytes of a store.

    Attributes:
        groups, rows, head: of the present state.
        earlier: what only earlier states need.
        unfinished: of an unfinished `learn`.
        groups_bound: the most that the tensors of `groups` can become; None if the config sets no bound.
    """

    groups: int
    rows: int
    head: int
    earlier: int
    unfinished: int
    groups_bound: int | None


class Store:
    """A folder that holds one model and its history; see docs/store.md for the layout.

    Readers take no lock and see one consistent state. A command that changes the store is a transaction: whatever
    happens to the process or the disk, the state is the one before or the one after.

    Attributes:
        path: the folder.
        manifest: as last read or written by this object.
    """

    def __init__(self, path: Path, manifest: Manifest, backbone: str | None = None) -> None:
        self.path, self.manifest, self._spec = path, manifest, backbone

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
        root, config = Path(path), config or HAMConfig()
        leftovers = {files.OBJECTS, files.TEMPORARY, ".lock"}
        if (root / MANIFEST).exists():
            raise UsageError(f"there is a store at {root} already; learn into it, or give another path")
        if root.exists() and (not root.is_dir() or {item.name for item in root.iterdir()} - leftovers):
            raise UsageError(f"{root} holds something else; give a path where there is nothing yet")
        if keep < 0:
            raise UsageError(f"keep must be at least 0, got {keep}")
        options = dict(backbone_options or {})
        spec = str(Path(backbone).resolve()) if (Path(backbone) / "config.json").is_file() else backbone
        loaded = load_backbone(spec, **options)
        HAM(loaded, config)
        record = BackboneRecord(spec, BackboneOptions(**options), loaded.fingerprint, loaded.modality, loaded.width)
        manifest = Manifest(FORMAT, now(), record, config.to_dict(), keep)
        with files.explained(root):
            root.mkdir(parents=True, exist_ok=True)
        with writing(root, "init"):
            if (root / MANIFEST).exists():
                raise UsageError(f"there is a store at {root} already; learn into it, or give another path")
            with files.explained(root):
                (root / files.OBJECTS).mkdir(exist_ok=True)
            store = cls(root, manifest)
            store._write(manifest, "init", f"began with backbone {spec}")
        with files.explained(root):
            files.sync(root.resolve().parent)
        return store

    @classmethod
    def open(cls, path: str | Path, *, backbone: str | None = None) -> "Store":
        """Read and check the manifest, and nothing else.

        Args:
            backbone: where the backbone lies now, if not where the manifest says; it must be the same one.

        Raises:
            UsageError: there is no store at `path`.
            DataError: the manifest cannot be trusted or has another format version.
        """
        root = Path(path)
        if not (root / MANIFEST).exists() and not (root / MANIFEST).is_symlink():
            raise UsageError(f"there is no store at {root} (it has no {MANIFEST}); make one with ham init")
        return cls(root, _read_manifest(root), backbone)

    def refresh(self) -> Manifest:
        """Read the manifest again."""
        self.manifest = _read_manifest(self.path)
        return self.manifest

    def model(self, device: str | None = None) -> HAM:
        """The present model, ready to predict, evaluate and export; a copy that does not change with the store.

        Args:
            device: instead of the config's.

        Raises:
            DataError: the backbone is missing or another one, or a file is missing or was changed.
        """
        learner = self._fresh(device)
        while True:
            manifest = self.refresh()
            try:
                snapshot.give(manifest.state, learner, lambda r: load_object(self.path, r), self.path)
                return learner
            except DataError:
                # A writer may have moved on and cleaned up in the meantime.
                if _read_manifest(self.path) == manifest:
                    raise
                learner = self._fresh(device)

    def learn(
        self,
        task: Task,
        *,
        restart: bool = False,
        progress: Progress | None = None,
        checkpoint_minutes: float = 10.0,
    ) -> HAMReport:
        """Learn one task, all or nothing.

        The position is kept after every epoch and every `checkpoint_minutes`. After the process has died, the same
        call goes on from there and ends with the same tensors as if nothing had happened.

        Args:
            restart: drop what an unfinished `learn` left.

        Raises:
            DataError: the task cannot be used or was learned before, an unfinished `learn` had other data, config or
                versions, somebody else is writing, or the disk is full.
            TrainingError: the loss is not finite.
        """
        with self._writing("learn"):
            state = self.manifest.state
            if task.name in [known.name for known in state.tasks]:
                raise DataError(f"{self.path} has learned task {task.name!r} already; undo it first, or rename it")
            learner = self.model()
            data = unfinished.digest(task)
            identity = Identity(
                task.name,
                data,
                state.key,
                hashlib.sha256(dump(self.manifest.config)).hexdigest(),
                learner.device.type,
                unfinished.versions(*unfinished.LIBRARIES),
            )
            position = Unfinished(self.path, identity, checkpoint_minutes, restart=restart)
            learner.checkpoint = position
            report = learner.learn(task, progress)
            assert isinstance(report, HAMReport)
            samples = len(task.train) - len(report.skipped)
            text = (
                f"learned task {task.name!r}: {len(task.classes)} classes from {samples} samples, "
                f"{'opened' if report.opened else 'joined'} group {report.group}"
            )
            if position.found:
                text += f", went on from {position.found.saved}"
            facts = {task.name: TaskRecord(task.name, (), samples, data, now())}
            self._commit(learner, "learn", text, facts)
        return report

    @contextmanager
    def transaction(self, command: str, text: str) -> Iterator[HAM]:
        """Change the model by other means than `learn`: give it out to be taught more tasks, then keep it.

        Nothing is kept if the block raises. An unfinished `learn` is dropped, because its model is no more.

        Example:
            >>> with store.transaction("import", "took over the adapter in adapter/") as model:
            ...     ...  # add exactly what a task adds: classes, columns, a group member, head statistics

        Args:
            command, text: what the history will say.

        Raises:
            DataError: somebody else is writing, or the disk is full.
            UsageError: the block added no task.
        """
        with self._writing(command):
            learner = self.model()
            yield learner
            if len(learner.tasks) <= len(self.manifest.state.tasks):
                raise UsageError(f"{command} added no task to {self.path}, so there is nothing to keep")
            self._commit(learner, command, text, {})

    def evaluate(self, tasks: Sequence[Task], *, record: bool = True) -> Evaluation:
        """Classify the test splits of `tasks` among all classes.

        Args:
            record: keep the result in the manifest.

        Raises:
            DataError: there is nothing to classify, a class was not learned, or another command changed the model
                in the meantime.
        """
        learner = self.model()
        key = self.manifest.state.key
        result = evaluation.evaluate(learner, tasks)
        if record:
            with self._writing("eval"):
                manifest, state = self.manifest, self.manifest.state
                if state.key != key:
                    raise DataError(f"{self.path} was changed during the evaluation; evaluate again")
                count = len(state.tasks)
                kept = tuple(
                    e for e in state.evaluations if e.learned == count and e.tasks.keys() != result.tasks.keys()
                )
                manifest = replace(manifest, state=replace(state, evaluations=(*kept, result)))
                overall = result.overall
                text = f"evaluated {len(result.tasks)} tasks: {overall.accuracy:.4f} of {overall.samples} samples"
                self._write(manifest, "eval", text)
        return result

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
        with self._writing("undo"):
            manifest = self.manifest
            wanted = [i for i, e in enumerate(manifest.earlier) if to is None or e.task == to]
            if not wanted:
                kept = ", ".join(repr(e.task) if e.task else "the beginning" for e in manifest.earlier)
                where = f"of task {to!r}" if to else "before the last task"
                raise UsageError(f"{self.path} keeps no state {where}; it keeps {kept or 'none'}")
            index = wanted[-1]
            chosen = manifest.earlier[index]
            state = self._earlier(chosen)
            for record in state.files.values():
                load_object(self.path, record)
            gone = [task.name for task in manifest.state.tasks[chosen.tasks :]]
            after = replace(manifest, state=state, earlier=manifest.earlier[:index])
            self._write(after, "undo", f"took back {', '.join(map(repr, gone))}")
            unfinished.drop(self.path)
            self._clean()
        return gone

    def gc(self, keep: int = 0) -> int:
        """Keep only the last `keep` earlier states, and return the bytes that this set free.

        Raises:
            UsageError: `keep` is negative.
            DataError: somebody else is writing, or files cannot be deleted.
        """
        if keep < 0:
            raise UsageError(f"keep must be at least 0, got {keep}")
        with self._writing("gc"):
            earlier = self.manifest.earlier
            if len(earlier) > keep:
                kept = earlier[len(earlier) - keep :]
                text = f"dropped {len(earlier) - len(kept)} earlier states"
                self._write(replace(self.manifest, earlier=kept), "gc", text)
            return self._clean()

    def verify(self) -> list[str]:
        """Check every checksum, every shape, and what must hold between them, and load the model.

        Returns:
            What was checked, line by line, and leftovers that the next command will clean.

        Raises:
            DataError: names what is wrong.
        """
        return verify(self.path, self.refresh(), self._earlier, self.model)

    def diff(self, other: "Store") -> list[Difference]:
        """In what this store and another differ."""
        return diff(self.manifest, other.manifest)

    def sizes(self) -> Sizes:
        """Bytes by what they are for."""
        manifest = self.manifest
        state, options = manifest.state, manifest.options
        present = {record.sha256: record.size for record in state.files.values()}
        bound = None
        if state.groups and options.max_groups and options.merge_rank and options.merge != "concat":
            shapes = [
                (group.file.tensors[f"{layer}.B"].shape[0], group.file.tensors[f"{layer}.A"].shape[1])
                for group in state.groups[:1]
                for layer in group.layers
            ]
            numbers = sum(min(options.merge_rank, *shape) * sum(shape) for shape in shapes)
            bound = options.max_groups * 4 * numbers
        position = unfinished.read(self.path)
        return Sizes(
            groups=sum(group.file.size for group in state.groups),
            rows=state.rows.size if state.rows else 0,
            head=sum(record.size for record in state.head.values()),
            earlier=_disk(self.path, {name for e in manifest.earlier for name in e.objects} - present.keys())
            + sum(e.size for e in manifest.earlier),
            unfinished=position.position.size if position else 0,
            groups_bound=bound,
        )

    def _fresh(self, device: str | None = None) -> HAM:
        """A learner on the store's backbone that knows nothing yet."""
        record, options = self.manifest.backbone, self.manifest.options
        spec = self._spec or record.spec
        try:
            backbone: Backbone = load_backbone(spec, **asdict(record.options))
            if (backbone.fingerprint, backbone.width) != (record.fingerprint, record.width):
                raise DataError(
                    f"backbone {spec!r} is not the one {self.path} was made with: its fingerprint is "
                    f"{backbone.fingerprint[:12]}, not {record.fingerprint[:12]}; give the folder of the right one"
                )
            return HAM(backbone, replace(options, device=device) if device else options)
        except UsageError as error:
            raise DataError(f"{self.path} cannot be used with its backbone: {error}") from error

    def _earlier(self, earlier: Earlier) -> State:
        """An earlier state, with its checksum checked."""
        path = self.path / earlier.name
        data = files.read(self.path, earlier.name, limit=LIMIT, size=earlier.size)
        if hashlib.sha256(data).hexdigest() != earlier.sha256:
            raise DataError(f"{path} was changed: its sha256 is another one; restore it from a copy of the store")
        state = parse_state(data, self.manifest, path)
        names = {record.sha256 for record in state.files.values()}
        if len(state.tasks) != earlier.tasks or names != set(earlier.objects):
            raise DataError(f"{path} is not what {MANIFEST} says; restore the store from a copy")
        return state

    @contextmanager
    def _writing(self, command: str) -> Iterator[None]:
        """Hold the lock, with the newest manifest and without what dead commands left."""
        with writing(self.path, command):
            self.refresh()
            self._clean()
            yield

    def _commit(self, learner: HAM, command: str, text: str, facts: dict[str, TaskRecord]) -> None:
        """Keep what a learner has learned, with the present state as an earlier one."""
        manifest, before = self.manifest, self.manifest.state
        unknown = TaskRecord("", (), None, None, now())
        for name in learner.task_names[len(before.tasks) :]:
            facts = {name: replace(unknown, name=name), **facts}
        state = snapshot.take(learner, before, facts, lambda tensors: save_object(self.path, tensors))
        data = dump(asdict(before))
        earlier = Earlier(
            task=before.tasks[-1].name if before.tasks else None,
            tasks=len(before.tasks),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            objects=tuple(sorted({record.sha256 for record in before.files.values()})),
        )
        put(self.path, earlier.name, data)
        kept = (*manifest.earlier, earlier)[-manifest.keep :] if manifest.keep else ()
        state = replace(state, evaluations=before.evaluations[-1:])
        self._write(replace(manifest, state=state, earlier=kept), command, text)
        unfinished.drop(self.path)
        self._clean()

    def _write(self, manifest: Manifest, command: str, text: str) -> None:
        """The one moment at which the store changes: the new manifest takes the place of the old one."""
        event = Event(now(), command, text, unfinished.versions("torch"))
        manifest = replace(manifest, history=(*manifest.history, event))
        data = manifest.encode()
        parse(data, self.path / MANIFEST)
        files.write(self.path, MANIFEST, data)
        self.manifest = manifest

    def _clean(self) -> int:
        """Delete what no state needs, and return its bytes."""
        manifest, position = self.manifest, unfinished.read(self.path)
        needed = {record.name for record in manifest.state.files.values()}
        needed |= {earlier.name for earlier in manifest.earlier}
        needed |= {f"{files.OBJECTS}/{name}.safetensors" for e in manifest.earlier for name in e.objects}
        needed |= {position.position.name} if position else set()
        freed = 0
        with files.explained(self.path):
            for path in (self.path / files.OBJECTS).iterdir():
                if _OBJECT.fullmatch(path.name) and f"{files.OBJECTS}/{path.name}" not in needed:
                    freed += files.remove(path)
            for path in (self.path / files.TEMPORARY).iterdir():
                if path.name != Path(HOLDER).name and path.is_file():
                    freed += files.remove(path)
        return freed


def _read_manifest(root: Path) -> Manifest:
    return parse(files.read(root, MANIFEST, limit=LIMIT), root / MANIFEST)


def _disk(root: Path, names: set[str]) -> int:
    paths = [root / files.OBJECTS / f"{name}.safetensors" for name in names]
    return sum(path.stat().st_size for path in paths if path.is_file())

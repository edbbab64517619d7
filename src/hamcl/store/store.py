"""Store: a model's life on disk."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from hamcl.config import PER_TASK, HAMConfig
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.files import sync
from hamcl.learning.learner import Watch
from hamcl.methods.ham import HAM, HAMReport
from hamcl.nn.backbones import home, load_backbone
from hamcl.store import evaluation, files, snapshot, unfinished
from hamcl.store.diff import Difference, diff
from hamcl.store.digest import digest, digests
from hamcl.store.files import MANIFEST
from hamcl.store.folder import Folder, Unstorable, read_manifest
from hamcl.store.lock import LOCK, now
from hamcl.store.manifest import (
    FORMAT,
    BackboneOptions,
    BackboneRecord,
    Evaluation,
    Manifest,
    TaskRecord,
    check_room,
    dump,
    sentence,
)
from hamcl.store.objects import ObjectRecord, check_object, load_object, save_object
from hamcl.store.sizes import Sizes, sizes
from hamcl.store.unfinished import Identity, Unfinished
from hamcl.store.verify import verify
from hamcl.streams import load_task
from hamcl.streams.base import Samples, Task
from hamcl.streams.names import canonical
from hamcl.training.loop import Progress

KEEP = 10**6
"""The most earlier states that a store is asked to keep."""


class Unrecorded(DataError):
    """An evaluation was made, but could not be kept in the store.

    Attributes:
        evaluation: what was measured.
    """

    def __init__(self, sentence: str, evaluation: Evaluation) -> None:
        super().__init__(sentence)
        self.evaluation = evaluation


class Store:
    """A folder that holds one model and its history; see docs/store.md for the layout.

    Readers take no lock and see one consistent state. A command that changes the store is a transaction: whatever
    happens to the process or the disk, the state is the one before or the one after.
    """

    def __init__(self, path: Path, manifest: Manifest, backbone: str | None = None, device: str | None = None) -> None:
        self._folder, self._spec, self._device = Folder(path, manifest), backbone, device

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
        taken = f"there is a store at {root} already; learn into it, or give another path"
        if (root / MANIFEST).exists():
            raise UsageError(taken)
        # A creation that died leaves no more than these.
        leftovers = {files.OBJECTS, files.TEMPORARY, LOCK}
        if root.exists() and (not root.is_dir() or {item.name for item in root.iterdir()} - leftovers):
            raise UsageError(f"{root} holds something else; give a path where there is nothing yet")
        if not 0 <= keep <= KEEP:
            raise UsageError(f"option 'keep' must lie between 0 and {KEEP}, got {keep}")
        _check_memory(config)
        backbone = home(backbone)
        try:
            options = BackboneOptions(**backbone_options or {})
        except ValidationError as error:
            raise UsageError(f"the options of the backbone cannot be used: {sentence(error)}") from error
        spec = str(Path(backbone).resolve()) if (Path(backbone) / "config.json").is_file() else backbone
        loaded = load_backbone(spec, **asdict(options))
        layers = tuple(HAM(loaded, config).model.layers)  # which may also change the width
        record = BackboneRecord(spec, options, loaded.fingerprint, loaded.modality, loaded.width, layers)
        return cls.begin(root, record, config, keep=keep, text=f"began with backbone {spec}")

    @classmethod
    def begin(
        cls, root: Path, record: BackboneRecord, config: HAMConfig, *, keep: int = 3, text: str = "began"
    ) -> "Store":
        """Make a store whose backbone is known; see `create`, which loads it."""
        _check_memory(config)
        taken = f"there is a store at {root} already; learn into it, or give another path"
        manifest = Manifest(FORMAT, now(), record, config.to_dict(), keep)
        with files.explained(root):
            root.mkdir(parents=True, exist_ok=True)
        store = cls(root, manifest)
        with store._folder.writing("init", new=True):
            if (root / MANIFEST).exists():
                raise UsageError(taken)
            store._folder.write(manifest, "init", text)
        with files.explained(root):
            sync(root.resolve().parent)
        return store

    @classmethod
    def open(cls, path: str | Path, *, backbone: str | None = None, device: str | None = None) -> "Store":
        """Read and check the manifest, and nothing else.

        Args:
            backbone: where the backbone lies now, if not where the manifest says; it must be the same one.
            device: what everything is computed on, instead of what the config says.

        Raises:
            UsageError: there is no store at `path`.
            DataError: the manifest cannot be trusted or has another format version.
        """
        root = Path(path).expanduser()
        if not (root / MANIFEST).exists() and not (root / MANIFEST).is_symlink():
            raise UsageError(f"there is no store at {root} (it has no {MANIFEST}); make one with ham init")
        return cls(root, read_manifest(root), backbone, device)

    def model(self, device: str | None = None) -> HAM:
        """The present model, ready to predict, evaluate and export; a copy that does not change with the store.

        Args:
            device: instead of that of this object or of the config.

        Raises:
            DataError: the backbone is missing or another one, or a file is missing or was changed.
        """
        return self._folder.read(lambda manifest: self._load(manifest, device))

    def learn(
        self,
        task: Task | str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        restart: bool = False,
        progress: Progress | None = None,
        watch: Watch | None = None,
        checkpoint_minutes: float = 10.0,
    ) -> HAMReport:
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
        if not 0 <= checkpoint_minutes < math.inf:
            raise UsageError(f"option 'checkpoint_minutes' must be at least 0 and finite, got {checkpoint_minutes}")
        task = _read(task, _for_task(self.manifest.options, options or {}))
        with self._folder.writing("learn"):
            state = self.manifest.state
            if task.name in [canonical(known.name) for known in state.tasks]:
                raise DataError(f"{self.path} has learned task {task.name!r} already; undo it first, or rename it")
            check_room(self.manifest, task.classes, self.path)
            learner = self.model()
            learner.config = _for_task(learner.config, options or {})
            learner.watch = watch
            # Where it runs is told by what the options became, however it was asked for.
            asked = replace(learner.config, device=self.manifest.options.device)
            data = digest(task, partial(watch, "reading") if watch else None)
            became = unfinished.became(learner)
            again = next((known.name for known in state.tasks if known.data == data), None)
            if again is not None:
                said = (
                    f"task {task.name!r} holds the very data of task {again!r}, which now count twice; undo goes back"
                )
                task = replace(task, notes=(*task.notes, said))
            identity = Identity(
                task.name,
                data,
                state.key,
                hashlib.sha256(dump(asked.to_dict())).hexdigest(),
                learner.device.type,
                unfinished.versions(*unfinished.LIBRARIES),
                became,
            )
            limit = _position_limit(learner, task)
            position = Unfinished(self._folder.held, identity, checkpoint_minutes, limit=limit, restart=restart)
            learner.checkpoint = position
            try:
                report = learner.learn(task, progress)
                assert isinstance(report, HAMReport)
                samples = len(task.train) - len(report.skipped)
                given = dict(options or {})
                text = (
                    f"learned task {task.name!r}: {len(task.classes)} classes from {samples} samples, "
                    f"{'opened' if report.opened else 'joined'} group {report.group}"
                )
                if given:
                    text += f", with {', '.join(f'{name}={value!r}' for name, value in given.items())}"
                if again is not None:
                    text += f", from the data of task {again!r}"
                if position.found:
                    text += f", went on from {position.found.saved}"
                record = TaskRecord(task.name, (), samples, data, now(), {**given, "precision": became["precision"]})
                self._commit(learner, "learn", text, {task.name: record})
            except (TrainingError, Unstorable):
                # It would end in the same way again, and be in the way of every other task.
                with suppress(DataError):
                    position.drop()
                raise
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
            DataError: the block added a task of a known name, somebody else is writing, or the disk is full.
            UsageError: the block added no task.
        """
        with self._folder.writing(command):
            learner = self.model()
            yield learner
            for name in learner.task_names:
                if learner.task_names.count(name) > 1:
                    raise DataError(f"{self.path} has learned task {name!r} already; undo it first, or rename it")
            if len(learner.tasks) <= len(self.manifest.state.tasks):
                raise UsageError(f"{command} added no task to {self.path}, so there is nothing to keep")
            self._commit(learner, command, text, {})

    def evaluate(
        self,
        tasks: Sequence[Task | str | Path] | Task | str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        record: bool = True,
        on_skip: Callable[[str], None] = lambda sentence: None,
        watch: Watch | None = None,
    ) -> Evaluation:
        """Classify the test splits of `tasks` among all classes.

        Args:
            tasks: one or several, or where their data lies.
            options: for this evaluation instead of those of the store, as in `learn`.
            record: keep the result in the manifest.
            on_skip: is told of every sample left out because it cannot be read (`on_bad_sample`).
            watch: is told of the samples done, and of all, as in `learn`.

        Raises:
            DataError: there is nothing to classify, a class was not learned, or two tasks hold the same samples.
            Unrecorded: the result, which the error carries, could not be kept: the folder cannot be written to,
                somebody else is writing, or another command changed the model in the meantime.
        """
        several = [tasks] if isinstance(tasks, Task | str | Path) else tasks
        asked = _for_task(self.manifest.options, options or {})
        given = [_read(task, asked) for task in several]
        learner = self.model()
        learner.config = _for_task(learner.config, options or {})
        key = self.manifest.state.key
        evaluation.refuse_twice(given)
        result = evaluation.evaluate(learner, given, on_skip, watch)
        own = dict.fromkeys(name for task in given for name in self.trained_on(task))
        result = replace(result, trained_on=tuple(own))
        if record:
            try:
                self._record(result, key)
            except DataError as error:
                raise Unrecorded(f"not recorded: {error}", result) from error
        return result

    def between_precisions(
        self, tasks: Sequence[Task], *, options: Mapping[str, Any] | None = None
    ) -> tuple[int, int]:
        """How many test samples of `tasks` there are, and how many have another answer in bfloat16 than in float32, in
        which exports compute; `options` as in `evaluate`.
        """
        learner = self.model()
        learner.config = _for_task(learner.config, options or {})
        return evaluation.between_precisions(learner, tasks)

    def trained_on(self, task: Task) -> list[str]:
        """The names of the learned tasks whose training samples are the very test samples of `task`, or its training
        samples where it has no others: accuracy on them says little.
        """
        state, samples = self.manifest.state, task.test if len(task.test) else task.train
        found = []
        for known in state.tasks:
            names = [state.classes[c] for c in known.columns]
            few = known.samples is None or known.samples > len(samples)
            if known.data is None or few or {*names} != {*task.classes}:
                continue
            place = [names.index(name) for name in task.classes]
            same = Samples(samples.inputs, [place[y] for y in samples.labels])
            if known.data in digests(names, same, task.modality):
                found.append(known.name)
        return found

    def _record(self, result: Evaluation, key: str) -> None:
        """Keep an evaluation of the state that has this key."""
        with self._folder.writing("eval"):
            manifest, state = self.manifest, self.manifest.state
            if state.key != key:
                raise DataError(f"{self.path} was changed during the evaluation; evaluate again")
            count = len(state.tasks)
            kept = tuple(e for e in state.evaluations if e.learned == count and e.tasks.keys() != result.tasks.keys())
            manifest = replace(manifest, state=replace(state, evaluations=(*kept, result)))
            overall = result.overall
            text = f"evaluated {len(result.tasks)} tasks: {overall.accuracy:.4f} of {overall.samples} samples"
            self._folder.write(manifest, "eval", text)

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
            snapshot.comparable(state, manifest.state, self.path)
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
        return self._folder.read(lambda manifest: verify(self._folder, manifest, self._load(manifest, None)))

    def diff(self, other: "Store") -> list[Difference]:
        """In what this store and another differ; tensors are read and compared where their files are not the same.

        Raises:
            DataError: a file that must be read is missing or was changed.
        """
        return diff(self._folder, other._folder)

    def sizes(self) -> Sizes:
        """Bytes by what they are for."""
        return sizes(self.path, self.manifest)

    def keep(self, learner: HAM, command: str, text: str) -> None:
        """Take over what a learner of this store's backbone and config has learned since the present state."""
        with self._folder.writing(command):
            self._commit(learner, command, text, {})

    def _load(self, manifest: Manifest, device: str | None) -> HAM:
        """Put the model of a manifest together."""
        record, options = manifest.backbone, manifest.options
        spec = self._spec or record.spec
        try:
            backbone = load_backbone(spec, **asdict(record.options), expected=record.fingerprint)
            layers = {name for name, _ in backbone.module.named_modules()}
            if len(set(record.layers)) != len(record.layers) or not layers.issuperset(record.layers):
                raise UsageError(f"{MANIFEST} tells of layers that the backbone has not")
            # Names and not the config's pattern: a stranger's pattern may take for ever to match.
            names = "|".join(re.escape(layer) for layer in record.layers)
            device = device or self._device
            options = replace(options, device=device) if device else options
            learner = HAM(backbone, replace(options, targets=names))
            learner.config = options
            if (tuple(learner.model.layers), backbone.width) != (record.layers, record.width):
                raise DataError(f"{self.path / MANIFEST} tells of other layers or features than its backbone has")
        except (UsageError, OSError) as error:
            # A stranger's manifest may hold long names, too long for the file system even.
            why = str(error) if len(str(error)) <= 400 else f"{str(error)[:400]} ..."
            raise DataError(f"{self.path} cannot be used with its backbone: {why}") from error
        snapshot.give(manifest.state, learner, lambda r: load_object(self.path, r, finite=True), self.path)
        return learner

    def _commit(self, learner: HAM, command: str, text: str, facts: dict[str, TaskRecord]) -> None:
        """Keep what a learner has learned, with the present state as an earlier one."""
        manifest, before = self.manifest, self.manifest.state
        unknown = TaskRecord("", (), None, None, now())
        for name in learner.task_names[len(before.tasks) :]:
            facts = {name: replace(unknown, name=name), **facts}

        def save(tensors: dict[str, Tensor]) -> ObjectRecord:
            self._folder.held.check()  # before each: another folder may come into the place at any moment
            return save_object(self.path, tensors)

        state = snapshot.take(learner, before, facts, save)
        earlier = self._folder.remember(before)
        kept = (*manifest.earlier, earlier)[-manifest.keep :] if manifest.keep else ()
        state = replace(state, evaluations=before.evaluations[-1:])
        self._folder.write(replace(manifest, state=state, earlier=kept), command, text)
        self._folder.tidy()


def _same(task: str | None, asked: str) -> bool:
    """Whether a task, None for the beginning, is the one asked for."""
    return task is not None and canonical(task) == canonical(asked)


def _check_memory(config: HAMConfig) -> None:
    if config.memory_per_class:
        raise UsageError("a store keeps no samples of earlier tasks: leave memory_per_class=0")


def _read(task: Task | str | Path, config: HAMConfig) -> Task:
    """A task, or the one that lies at a path, without the rows that `on_bad_sample` leaves out."""
    if not isinstance(task, Task | str | Path):
        raise UsageError(f"a task is a Task or the path of its data, got {task!r:.80}")
    return task if isinstance(task, Task) else load_task(task, on_bad_sample=config.on_bad_sample)


def _for_task(config: HAMConfig, options: Mapping[str, Any]) -> HAMConfig:
    for name in options:
        if name not in PER_TASK:
            raise UsageError(
                f"option {name!r} belongs to the whole model and is chosen when the store is made; for one task "
                f"choose from {', '.join(PER_TASK)}"
            )
    return replace(config, **options)


def _position_limit(learner: HAM, task: Task) -> int:
    """The most bytes of the tensors of a position: numbers in training with two moments, and random states."""
    trained = learner.model.trainable_count() + (learner.backbone.width + 1) * len(task.classes)
    return 16 * trained + 2**20

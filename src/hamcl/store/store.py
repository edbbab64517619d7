"""Store: a model's life on disk."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hamcl.config import HAMConfig, resolve
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.files import sync
from hamcl.machine import Machine
from hamcl.methods.ham import HAM, HAMReport
from hamcl.store import evaluation, files, snapshot, unfinished
from hamcl.store.check import check_room
from hamcl.store.digest import digest, digests, evaluated
from hamcl.store.document import FORMAT, dump
from hamcl.store.files import MANIFEST
from hamcl.store.folder import Unrecorded, Unstorable
from hamcl.store.keeper import Unfinished, became
from hamcl.store.light import LightStore
from hamcl.store.lock import LOCK, now
from hamcl.store.manifest import Evaluation, Manifest, TaskRecord
from hamcl.store.model import assembled, beginner, facts_of, for_task
from hamcl.store.objects import save_object
from hamcl.store.records import ObjectRecord
from hamcl.store.unfinished import Identity
from hamcl.store.verify import verify
from hamcl.streams import load_task
from hamcl.streams.base import Task
from hamcl.streams.names import canonical
from hamcl.training.lesson import Progress, Watch

KEEP = 10**6
"""The most earlier states that a store is asked to keep."""


class Store(LightStore):
    """A folder that holds one model and its history, with all that is done with the model; see docs/store.md."""

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
        learner = beginner(backbone, backbone_options or {}, config)
        return cls.begin(root, learner, keep=keep, text=f"began with backbone {learner.backbone.location}")

    @classmethod
    def begin(cls, root: Path, learner: HAM, *, keep: int = 3, text: str = "began") -> "Store":
        """Make a store for what a learner will learn; see `create`, which loads one."""
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

    def model(self, machine: Machine | None = None) -> HAM:
        """The present model, ready to predict, evaluate and export; a copy that does not change with the store.

        Args:
            machine: instead of that of this object.

        Raises:
            DataError: the backbone is missing or another one, or a file is missing or was changed.
        """
        return self._model(machine or self._machine)

    def _model(self, machine: Machine, options: Mapping[str, Any] | None = None) -> HAM:
        """The present model, with options of one task where there are any."""
        return self._folder.read(lambda manifest: assembled(self.path, manifest, self._spec, machine, options or {}))

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
        given = dict(options or {})
        asked, task = for_task(self.manifest, given), self._read(task)
        with self._folder.writing("learn"):
            state = self.manifest.state
            if task.name in [canonical(known.name) for known in state.tasks]:
                raise self._learned(task.name)
            check_room(self.manifest, task.classes, self.path)
            learner = self._model(self._machine, given)
            learner.watch = watch
            data = digest(task, partial(watch, "reading") if watch else None)
            came_out = became(learner)
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
                came_out,
            )
            limit = _position_limit(learner, task)
            position = Unfinished(self._folder.held, identity, checkpoint_minutes, limit=limit, restart=restart)
            try:
                report = learner.learn(task, progress, keeper=position)
                assert isinstance(report, HAMReport)
                samples = len(task.train) - len(report.skipped)
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
                record = TaskRecord(task.name, (), samples, data, now(), {**given, "precision": came_out["precision"]})
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
                    raise self._learned(name)
            if len(learner.tasks) <= len(self.manifest.state.tasks):
                raise UsageError(f"{command} added no task to {self.path}, so there is nothing to keep")
            self._commit(learner, command, text)

    def _learned(self, name: str) -> DataError:
        return DataError(f"{self.path} has learned task {name!r} already; undo it first, or rename it")

    def evaluate(
        self,
        tasks: Sequence[Task | str | Path] | Task | str | Path,
        *,
        record: bool = True,
        on_skip: Callable[[str], None] = lambda sentence: None,
        watch: Watch | None = None,
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
        several = [tasks] if isinstance(tasks, Task | str | Path) else tasks
        given = [self._read(task) for task in several]
        learner = self.model()
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

    def between_precisions(self, tasks: Sequence[Task]) -> tuple[int, int]:
        """How many test samples there are, and how many are classified otherwise in bfloat16 than in float32.

        Exports compute in float32.
        """
        machines = [replace(self._machine, precision="bf16"), replace(self._machine, precision="fp32")]
        one, other = (evaluation.taken_for(self.model(machine), tasks) for machine in machines)
        return len(one), sum(a != b for a, b in zip(one, other, strict=True))

    def trained_on(self, task: Task) -> list[str]:
        """The names of the tasks that were learned from the very samples a task is evaluated on.

        Those are its test samples, or its training samples where it has no others; accuracy on them says little.
        """
        state = self.manifest.state
        return [
            known.name
            for known in state.tasks
            if known.data is not None
            and known.samples is not None
            and known.samples <= len(evaluated(task))
            and known.data in digests(task, [state.classes[c] for c in known.columns])
        ]

    def verify(self) -> list[str]:
        """Check every checksum, every shape, and what must hold between them, and load the model.

        Returns:
            What was checked, line by line, and leftovers that the next command will clean.

        Raises:
            DataError: names what is wrong.
        """
        folder = self._folder
        return folder.read(
            lambda manifest: verify(folder, manifest, assembled(self.path, manifest, self._spec, self._machine, {}))
        )

    def keep(self, learner: HAM, command: str, text: str) -> None:
        """Take over what a learner of this store's backbone and config has learned since the present state."""
        with self._folder.writing(command):
            self._commit(learner, command, text)

    def _read(self, task: Task | str | Path) -> Task:
        """A task, or the one that lies at a path, without the rows that `on_bad_sample` leaves out."""
        if not isinstance(task, Task | str | Path):
            raise UsageError(f"a task is a Task or the path of its data, got {task!r:.80}")
        return task if isinstance(task, Task) else load_task(task, on_bad_sample=self._machine.on_bad_sample)

    def _commit(self, learner: HAM, command: str, text: str, facts: Mapping[str, TaskRecord] | None = None) -> None:
        """Keep what a learner has learned, with the present state as an earlier one."""
        manifest, before = self.manifest, self.manifest.state
        new = {name: TaskRecord(name, (), None, None, now()) for name in learner.task_names[len(before.tasks) :]}

        def save(tensors: dict[str, Tensor]) -> ObjectRecord:
            self._folder.held.check()  # before each: another folder may come into the place at any moment
            return save_object(self.path, tensors)

        state = snapshot.take(learner, before, {**new, **(facts or {})}, save)
        earlier = self._folder.remember(before)
        kept = (*manifest.earlier, earlier)[-manifest.keep :] if manifest.keep else ()
        state = replace(state, evaluations=before.evaluations[-1:])
        # Those of the store: a task may have had options of its own.
        resolved = resolve(manifest.options, learner.backbone.modality, learner.backbone.given).to_dict()
        self._folder.write(replace(manifest, resolved=resolved, state=state, earlier=kept), command, text)
        self._folder.tidy()


def _taken(root: Path) -> UsageError:
    return UsageError(f"there is a store at {root} already; learn into it, or give another path")


def _position_limit(learner: HAM, task: Task) -> int:
    """The most bytes of the tensors of a position: numbers in training with two moments, and random states."""
    trained = learner.model.trainable_count() + (learner.backbone.width + 1) * len(task.classes)
    return 16 * trained + 2**20

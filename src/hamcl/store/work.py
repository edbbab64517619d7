"""What commands do with the model of a store: put it together, teach it, measure it, keep it.

The part of a store that needs PyTorch and the libraries of models.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from hamcl.config import PER_TASK, HAMConfig, answering, resolve
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.machine import Machine
from hamcl.methods.ham import HAM, HAMReport
from hamcl.nn.backbones import home, load_backbone
from hamcl.store import evaluation, snapshot, unfinished
from hamcl.store.check import check_room
from hamcl.store.digest import digest, digests
from hamcl.store.document import dump, sentence
from hamcl.store.files import MANIFEST
from hamcl.store.folder import Folder, Unrecorded, Unstorable
from hamcl.store.keeper import Unfinished, became
from hamcl.store.lock import now
from hamcl.store.manifest import BackboneOptions, BackboneRecord, Evaluation, Manifest, TaskRecord
from hamcl.store.objects import load_object, save_object
from hamcl.store.records import ObjectRecord
from hamcl.store.unfinished import Identity
from hamcl.store.verify import verify
from hamcl.streams import load_task
from hamcl.streams.base import Samples, Task
from hamcl.streams.names import canonical
from hamcl.training.lesson import Progress, Watch


def beginner(spec: str, options: Mapping[str, Any], config: HAMConfig) -> HAM:
    """A learner that knows nothing yet, on a backbone that can be loaded again.

    Raises:
        UsageError: an option or the backbone cannot be used.
    """
    try:
        known = BackboneOptions(**options)
    except ValidationError as error:
        raise UsageError(f"the options of the backbone cannot be used: {sentence(error)}") from error
    return HAM(load_backbone(home(spec), depths=config.depths_to_read, **asdict(known)), config)


def facts_of(learner: HAM) -> tuple[BackboneRecord, dict[str, Any], dict[str, Any]]:
    """What a store keeps of a learner: its backbone (a local folder as an absolute path), and its options.

    Of the options also what they came to.

    Raises:
        UsageError: the backbone could not be loaded again.
    """
    backbone = learner.backbone
    if backbone.options is None:
        raise UsageError(
            f"backbone {backbone.spec!r} was not made by load_backbone, which would have to find it again; export() "
            "writes the model with its weights"
        )
    options, layers = BackboneOptions(**backbone.options), tuple(learner.model.layers)
    record = BackboneRecord(
        backbone.location, options, backbone.fingerprint, backbone.modality, backbone.width, layers
    )
    config = learner.config
    if config.depths_to_read == "auto" and backbone.read == "last":
        config = replace(config, depths="last")  # as it was loaded by hand, and is to be loaded again
    return record, config.to_dict(), learner.settings.to_dict()


class Work:
    """A store at work; what the methods do is told by those of `Store` with the same names.

    Args:
        spec, machine: as in `Store.open`.
    """

    def __init__(self, folder: Folder, spec: str | None, machine: Machine) -> None:
        self.folder, self.path, self.spec, self.machine = folder, folder.path, spec, machine

    @property
    def manifest(self) -> Manifest:
        return self.folder.manifest

    def model(self, machine: Machine | None = None, options: Mapping[str, Any] | None = None) -> HAM:
        return self.folder.read(lambda manifest: self.assembled(manifest, machine, options))

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
        if not 0 <= checkpoint_minutes < math.inf:
            raise UsageError(f"option 'checkpoint_minutes' must be at least 0 and finite, got {checkpoint_minutes}")
        asked, task = _for_task(self.manifest, options or {}), self._read(task)
        with self.folder.writing("learn"):
            state = self.manifest.state
            if task.name in [canonical(known.name) for known in state.tasks]:
                raise DataError(f"{self.path} has learned task {task.name!r} already; undo it first, or rename it")
            check_room(self.manifest, task.classes, self.path)
            learner = self.model(options=options)
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
            position = Unfinished(self.folder.held, identity, checkpoint_minutes, limit=limit, restart=restart)
            try:
                report = learner.learn(task, progress, keeper=position)
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
                record = TaskRecord(task.name, (), samples, data, now(), {**given, "precision": came_out["precision"]})
                self.commit(learner, "learn", text, {task.name: record})
            except (TrainingError, Unstorable):
                # It would end in the same way again, and be in the way of every other task.
                with suppress(DataError):
                    position.drop()
                raise
        return report

    @contextmanager
    def transaction(self, command: str, text: str) -> Iterator[HAM]:
        with self.folder.writing(command):
            learner = self.model()
            yield learner
            for name in learner.task_names:
                if learner.task_names.count(name) > 1:
                    raise DataError(f"{self.path} has learned task {name!r} already; undo it first, or rename it")
            if len(learner.tasks) <= len(self.manifest.state.tasks):
                raise UsageError(f"{command} added no task to {self.path}, so there is nothing to keep")
            self.commit(learner, command, text, {})

    def evaluate(
        self,
        tasks: Sequence[Task | str | Path] | Task | str | Path,
        *,
        record: bool = True,
        on_skip: Callable[[str], None] = lambda sentence: None,
        watch: Watch | None = None,
    ) -> Evaluation:
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

    def between_precisions(self, tasks: Sequence[Task]) -> tuple[int, int]:
        machines = [replace(self.machine, precision="bf16"), replace(self.machine, precision="fp32")]
        one, other = (evaluation.taken_for(self.model(machine), tasks) for machine in machines)
        return len(one), sum(a != b for a, b in zip(one, other, strict=True))

    def trained_on(self, task: Task) -> list[str]:
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

    def _read(self, task: Task | str | Path) -> Task:
        """A task, or the one that lies at a path, without the rows that `on_bad_sample` leaves out."""
        if not isinstance(task, Task | str | Path):
            raise UsageError(f"a task is a Task or the path of its data, got {task!r:.80}")
        return task if isinstance(task, Task) else load_task(task, on_bad_sample=self.machine.on_bad_sample)

    def _record(self, result: Evaluation, key: str) -> None:
        """Keep an evaluation of the state that has this key."""
        with self.folder.writing("eval"):
            manifest, state = self.manifest, self.manifest.state
            if state.key != key:
                raise DataError(f"{self.path} was changed during the evaluation; evaluate again")
            count = len(state.tasks)
            kept = tuple(e for e in state.evaluations if e.learned == count and e.tasks.keys() != result.tasks.keys())
            manifest = replace(manifest, state=replace(state, evaluations=(*kept, result)))
            overall = result.overall
            text = f"evaluated {len(result.tasks)} tasks: {overall.accuracy:.4f} of {overall.samples} samples"
            self.folder.write(manifest, "eval", text)

    def assembled(
        self, manifest: Manifest, machine: Machine | None = None, options: Mapping[str, Any] | None = None
    ) -> HAM:
        """Put the model of a manifest together, with options of one task where there are any."""
        record, config = manifest.backbone, _for_task(manifest, options or {})
        spec, machine = self.spec or record.spec, machine or self.machine
        machine.resolved()  # a device that is not here is no fault of the store
        try:
            backbone = load_backbone(
                spec, depths=config.depths_to_read, expected=record.fingerprint, **asdict(record.options)
            )
            layers = {name for name, _ in backbone.module.named_modules()}
            if len(set(record.layers)) != len(record.layers) or not layers.issuperset(record.layers):
                raise UsageError(f"{MANIFEST} tells of layers that the backbone has not")
            # Names and not the config's pattern: a stranger's pattern may take for ever to match.
            learner = HAM(backbone, config, machine, layers=record.layers)
            if (tuple(learner.model.layers), backbone.width) != (record.layers, record.width):
                raise DataError(f"{self.path / MANIFEST} tells of other layers or features than its backbone has")
        except (UsageError, OSError) as error:
            # A stranger's manifest may hold long names, too long for the file system even.
            why = str(error) if len(str(error)) <= 400 else f"{str(error)[:400]} ..."
            raise DataError(f"{self.path} cannot be used with its backbone: {why}") from error
        snapshot.give(manifest.state, learner, lambda r: load_object(self.path, r, finite=True), self.path)
        return learner

    def verify(self) -> list[str]:
        return self.folder.read(lambda manifest: verify(self.folder, manifest, self.assembled(manifest)))

    def commit(self, learner: HAM, command: str, text: str, facts: dict[str, TaskRecord]) -> None:
        """Keep what a learner has learned, with the present state as an earlier one."""
        manifest, before = self.manifest, self.manifest.state
        unknown = TaskRecord("", (), None, None, now())
        for name in learner.task_names[len(before.tasks) :]:
            facts = {name: replace(unknown, name=name), **facts}

        def save(tensors: dict[str, Tensor]) -> ObjectRecord:
            self.folder.held.check()  # before each: another folder may come into the place at any moment
            return save_object(self.path, tensors)

        state = snapshot.take(learner, before, facts, save)
        earlier = self.folder.remember(before)
        kept = (*manifest.earlier, earlier)[-manifest.keep :] if manifest.keep else ()
        state = replace(state, evaluations=before.evaluations[-1:])
        # Those of the store: a task may have had options of its own.
        resolved = resolve(manifest.options, learner.backbone.modality, len(learner.backbone.blocks)).to_dict()
        self.folder.write(replace(manifest, resolved=resolved, state=state, earlier=kept), command, text)
        self.folder.tidy()


def _for_task(manifest: Manifest, options: Mapping[str, Any]) -> HAMConfig:
    config = manifest.options
    head = answering(config, manifest.backbone.modality)
    read = HAM.reads(replace(config, head=head))  # type: ignore[arg-type]
    for name in options:
        if name not in PER_TASK:
            raise UsageError(
                f"option {name!r} belongs to the whole model and is chosen when the store is made; for one task "
                f"choose from {', '.join(PER_TASK)}"
            )
        if name not in read:
            raise UsageError(f"option {name!r} does nothing in a store with head {head!r}; leave it out")
    return replace(config, **options)


def _position_limit(learner: HAM, task: Task) -> int:
    """The most bytes of the tensors of a position: numbers in training with two moments, and random states."""
    trained = learner.model.trainable_count() + (learner.backbone.width + 1) * len(task.classes)
    return 16 * trained + 2**20

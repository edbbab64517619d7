"""The folder of a store: one manifest at a time, the states before it, and nothing else for long."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from hamcl.errors import DataError
from hamcl.store import files, unfinished
from hamcl.store.check import check_state, parse
from hamcl.store.document import FORMAT, LIMIT, dump, reason, valid
from hamcl.store.files import MANIFEST, Damaged
from hamcl.store.lock import HOLDER, Held, now, writing
from hamcl.store.manifest import Earlier, Evaluation, Event, Manifest, State

T = TypeVar("T")
_OBJECT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")


class Unstorable(DataError):
    """What a command learned cannot be put into a manifest; trying again would not help."""


class Unrecorded(DataError):
    """An evaluation was made, but could not be kept in the store.

    Attributes:
        evaluation: what was measured.
    """

    def __init__(self, sentence: str, evaluation: Evaluation) -> None:
        super().__init__(sentence)
        self.evaluation = evaluation


def read_manifest(root: Path) -> Manifest:
    """Read and check the manifest of the store at `root`.

    Raises:
        DataError: it cannot be trusted or has another format version.
    """
    return parse(files.read(root, MANIFEST, limit=LIMIT), root / MANIFEST)


class Folder:
    """What reads and changes the files of a store.

    Attributes:
        path: the folder.
        manifest: as last read or written by this object.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._held: Held | None = None
        self._begun: bytes | None = None
        self._known: set[str] = set()
        self._last: bytes | None = None

    def refresh(self) -> Manifest:
        """Read the manifest again."""
        data = files.read(self.path, MANIFEST, limit=LIMIT)
        if data != self._last:
            self.manifest, self._last = parse(data, self.path / MANIFEST), data
        return self.manifest

    def read(self, use: Callable[[Manifest], T]) -> T:
        """Do something with the newest manifest and its files.

        It is done again with the next manifest if it failed while a writer moved on and cleaned up.
        """
        while True:
            manifest = self.refresh()
            try:
                return use(manifest)
            except DataError:
                if files.read(self.path, MANIFEST, limit=LIMIT) == self._last:
                    raise

    @contextmanager
    def writing(self, command: str, *, new: bool = False) -> Iterator[None]:
        """Hold the lock, with the newest manifest and without what dead commands left.

        Args:
            new: there is no manifest yet.

        Raises:
            DataError: somebody else holds it, or the folder cannot be written to.
        """
        with writing(self.path, command) as self._held:
            self._begun, self._known = None, set()
            if not new:
                self._begun = self._manifest_bytes()
                self.refresh()
                self.clean()
            yield

    @property
    def held(self) -> Held:
        """The lock, inside `writing`."""
        assert self._held is not None
        return self._held

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What no two commands may do at a time, even if somebody took the lock away (see `Held`).

        Raises:
            DataError: the store is not the one that `writing` began with; nothing was changed.
        """
        with self.held.alone():
            if self._manifest_bytes() != self._begun:
                raise DataError(
                    f"{self.path} was changed by another command in the meantime, so this one stops and changes "
                    "nothing; run it again"
                )
            yield

    def _manifest_bytes(self) -> bytes | None:
        try:
            return files.read(self.path, MANIFEST, limit=LIMIT)
        except files.Missing:
            return None

    def write(self, manifest: Manifest, command: str, text: str) -> None:
        """The one moment at which the store changes: the new manifest takes the place of the old one.

        Raises:
            Unstorable: it could not be read again.
            DataError: it cannot be written, or another command changed the store in the meantime.
        """
        event = Event(now(), command, text, unfinished.versions("torch"))
        config = manifest.options.to_dict()
        manifest = replace(manifest, format=FORMAT, config=config, history=(*manifest.history, event))
        data = manifest.encode()
        if len(data) > LIMIT:
            raise Unstorable(f"the manifest of {self.path} would outgrow {LIMIT} bytes by this {command}")
        try:
            parse(data, self.path / MANIFEST)
        except DataError as error:
            raise Unstorable(
                f"{self.path} cannot keep what this {command} would write into it ({reason(error)}), and is as it "
                "was; if a name or an option is odd, change it"
            ) from error
        self._known |= _needs(self.manifest)
        with self._alone():
            files.write(self.path, MANIFEST, data)
        self.manifest, self._begun, self._last = manifest, data, data

    def remember(self, state: State) -> Earlier:
        """Write a state for `undo`; its tensors stay where they are."""
        data = dump(asdict(state))
        earlier = Earlier(
            task=state.tasks[-1].name if state.tasks else None,
            tasks=len(state.tasks),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            objects=tuple(sorted({record.sha256 for record in state.files.values()})),
        )
        self.held.check()
        files.put(self.path, earlier.name, data)
        return earlier

    def recall(self, earlier: Earlier) -> State:
        """Read what `remember` wrote; its files are not far larger than those of the present state, which fit.

        Raises:
            DataError: it is missing or was changed, or its files are.
        """
        path = self.path / earlier.name
        data = files.read(self.path, earlier.name, limit=LIMIT, size=earlier.size, sha256=earlier.sha256)
        state = valid(State, data, path)
        check_state(state, self.manifest.options, self.manifest.backbone.width, path)
        names = {record.sha256 for record in state.files.values()}
        if len(state.tasks) != earlier.tasks or names != set(earlier.objects):
            raise Damaged(f"{path} is not what {MANIFEST} says")
        past, present = (sum(record.size for record in s.files.values()) for s in (state, self.manifest.state))
        if past > 4 * present + 2**24:
            raise Damaged(f"an earlier state in {self.path} has {past} bytes, the present one {present}")
        return state

    def clean(self) -> int:
        """Delete what no state needs, and return its bytes.

        Raises:
            DataError: files cannot be deleted, or another command changed the store in the meantime.
        """
        with self._alone():
            certain: set[str] | None = None
            try:
                position = unfinished.read(self.path)
            except DataError:
                # Which tensors it needs is not known: `learn` says what is wrong with it, and can drop it.
                position, certain = None, self._known
            if position and position.identity.state != self.manifest.state.key:
                # Learned since, or begun from a model that is no more.
                unfinished.drop(self.path)
                position = None
            left = self.leftovers(position)
            if certain is not None:
                left = [p for p in left if p.parent.name == files.TEMPORARY or f"{files.OBJECTS}/{p.name}" in certain]
            freed = 0
            for path in left:
                self.held.check()
                freed += files.remove(self.path, path)
            return freed

    def tidy(self) -> None:
        """After another state was written: forget the unfinished `learn`, and delete what is not needed any more.

        The change is made, so an error here is none of its command's: whatever is left over is deleted by the next.
        """
        with suppress(DataError):
            with self._alone():
                unfinished.drop(self.path)
            self.clean()

    def leftovers(self, position: unfinished.Document | None) -> list[Path]:
        """The files that neither a state nor an unfinished `learn` needs; folders are not ours to delete."""
        needed = _needs(self.manifest) | ({position.position.name} if position else set())
        objects = [path for path in (self.path / files.OBJECTS).glob("*") if _OBJECT.fullmatch(path.name)]
        halves = [path for path in (self.path / files.TEMPORARY).glob("*") if path != self.path / HOLDER]
        unneeded = [path for path in objects if f"{files.OBJECTS}/{path.name}" not in needed] + halves
        return [path for path in unneeded if path.is_symlink() or not path.is_dir()]


def _needs(manifest: Manifest) -> set[str]:
    """The files of all states of a manifest."""
    needed = {record.name for record in manifest.state.files.values()}
    needed |= {earlier.name for earlier in manifest.earlier}
    return needed | {f"{files.OBJECTS}/{name}.safetensors" for e in manifest.earlier for name in e.objects}

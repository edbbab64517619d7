"""The folder of a store: one manifest at a time, the states before it, and nothing else for long."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from hamcl.errors import DataError
from hamcl.store import files, unfinished
from hamcl.store.lock import HOLDER, now, writing
from hamcl.store.manifest import LIMIT, MANIFEST, Earlier, Event, Manifest, State, dump, parse, parse_state
from hamcl.store.objects import put

T = TypeVar("T")
_OBJECT = re.compile(r"[0-9a-f]{64}\.(safetensors|json)")


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

    def refresh(self) -> Manifest:
        """Read the manifest again."""
        self.manifest = read_manifest(self.path)
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
                if read_manifest(self.path) == manifest:
                    raise

    @contextmanager
    def writing(self, command: str) -> Iterator[None]:
        """Hold the lock, with the newest manifest and without what dead commands left.

        Raises:
            DataError: somebody else holds it, or the folder cannot be written to.
        """
        with writing(self.path, command):
            self.refresh()
            self.clean()
            yield

    def write(self, manifest: Manifest, command: str, text: str) -> None:
        """The one moment at which the store changes: the new manifest takes the place of the old one.

        Raises:
            DataError: it could not be read again, or cannot be written.
        """
        event = Event(now(), command, text, unfinished.versions("torch"))
        manifest = replace(manifest, history=(*manifest.history, event))
        data = manifest.encode()
        if len(data) > LIMIT:
            raise DataError(f"the manifest of {self.path} would outgrow {LIMIT} bytes; evaluate fewer classes at once")
        parse(data, self.path / MANIFEST)
        files.write(self.path, MANIFEST, data)
        self.manifest = manifest

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
        put(self.path, earlier.name, data)
        return earlier

    def recall(self, earlier: Earlier) -> State:
        """Read what `remember` wrote.

        Raises:
            DataError: it is missing or was changed.
        """
        path = self.path / earlier.name
        data = files.read(self.path, earlier.name, limit=LIMIT, size=earlier.size)
        if hashlib.sha256(data).hexdigest() != earlier.sha256:
            raise DataError(f"{path} was changed: its sha256 is another one; restore it from a copy of the store")
        state = parse_state(data, self.manifest, path)
        names = {record.sha256 for record in state.files.values()}
        if len(state.tasks) != earlier.tasks or names != set(earlier.objects):
            raise DataError(f"{path} is not what {MANIFEST} says; restore the store from a copy")
        return state

    def clean(self) -> int:
        """Delete what no state needs, and return its bytes."""
        try:
            position = unfinished.read(self.path)
        except DataError:
            return 0  # the next `learn` says what is wrong with it, and can drop it
        if position and position.identity.state != self.manifest.state.key:
            # Learned since, or begun from a model that is no more.
            unfinished.drop(self.path)
            position = None
        return sum(files.remove(path) for path in self.leftovers(position))

    def leftovers(self, position: unfinished.Document | None) -> list[Path]:
        """The files that neither a state nor an unfinished `learn` needs."""
        needed = {record.name for record in self.manifest.state.files.values()}
        needed |= {earlier.name for earlier in self.manifest.earlier}
        needed |= {f"{files.OBJECTS}/{name}.safetensors" for e in self.manifest.earlier for name in e.objects}
        needed |= {position.position.name} if position else set()
        objects = [path for path in (self.path / files.OBJECTS).glob("*") if _OBJECT.fullmatch(path.name)]
        halves = [path for path in (self.path / files.TEMPORARY).glob("*") if path != self.path / HOLDER]
        return [path for path in objects if f"{files.OBJECTS}/{path.name}" not in needed] + halves

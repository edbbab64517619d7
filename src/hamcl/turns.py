"""Who may use a model in a process of several threads: any number that ask it, or one that changes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from hamcl.errors import UsageError

BUSY = "the model is learning in this very moment; ask it when learn() has returned, or ask another copy of the model"


class Turns:
    """A readers-writer lock: threads ask together and change alone.

    Whoever asks while the model changes gets a sentence at once, whoever changes it waits for the answers under way.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._one = threading.RLock()
        self._readers: dict[int, int] = {}
        self._writer: int | None = None

    @contextmanager
    def asking(self, *, alone: bool = False, inside: bool = False) -> Iterator[None]:
        """Nothing changes while the block runs.

        Args:
            alone: one block at a time, for a model that switches parts of itself to answer.
            inside: the thread that changes the model may enter, too.

        Raises:
            UsageError: the model is being changed.
        """
        me = threading.get_ident()
        with self._condition:
            mine = self._readers.get(me, 0)
            if self._writer is not None and not mine and not (inside and self._writer == me):
                raise UsageError(BUSY)
            self._readers[me] = mine + 1
        try:
            with self._one if alone else nullcontext():
                yield
        finally:
            with self._condition:
                self._readers[me] -= 1
                if not self._readers[me]:
                    del self._readers[me]
                self._condition.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody asks while the block runs.

        Raises:
            UsageError: another thread is changing the model.
        """
        me = threading.get_ident()
        with self._condition:
            if self._writer == me:
                nested = True
            elif self._writer is not None:
                raise UsageError(BUSY)
            else:
                nested, self._writer = False, me
                try:
                    self._condition.wait_for(lambda: not self._readers.keys() - {me})
                except BaseException:
                    self._writer = None
                    raise
        try:
            yield
        finally:
            if not nested:
                with self._condition:
                    self._writer = None

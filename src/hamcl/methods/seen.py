"""Features that cannot change any more, computed once for the samples they belong to."""

import weakref
from collections.abc import Callable, Hashable

from torch import Tensor

from hamcl.streams.base import Samples


class Seen:
    """Remembers features as long as their samples exist: every evaluation sees the samples of the one before again."""

    def __init__(self) -> None:
        self._features: dict[tuple[int, Hashable], tuple[weakref.ref[Samples], Tensor]] = {}

    def __call__(self, samples: Samples, model: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The features `model` gives these samples, computed when they are asked for the first time."""
        key = id(samples), model
        if key not in self._features:
            features = compute()
            self._features[key] = weakref.ref(samples, lambda _: self._features.pop(key, None)), features
        return self._features[key][1]

    def clear(self) -> None:
        """Forget everything, because the model has changed after all."""
        self._features.clear()

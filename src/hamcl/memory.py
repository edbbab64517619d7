"""A few stored samples of every class, which later tasks train with again (rehearsal); off unless asked for."""

import io
from typing import Any

import torch
from torch import Tensor

from hamcl.errors import DataError
from hamcl.reading.prepare import Preprocess
from hamcl.rng import generator
from hamcl.streams.base import Modality, Samples
from hamcl.streams.pixels import decode_image


class Memory:
    """At most `per_class` samples of every class, drawn at random when the class is learned first.

    Images are kept no larger than the backbone reads them.

    Args:
        per_class: 0 keeps nothing.

    Attributes:
        inputs: RGB images or texts.
        columns: their classes.
    """

    def __init__(self, per_class: int, preprocess: Preprocess, seed: int) -> None:
        self.per_class, self.preprocess, self.seed = per_class, preprocess, seed
        self.inputs: list[Any] = []
        self.columns: list[int] = []

    def __len__(self) -> int:
        return len(self.columns)

    def add(self, samples: Samples, columns: list[int]) -> None:
        """Take samples of the classes that are not there yet.

        Args:
            columns: of the classes of `samples`, by label.
        """
        known = set(self.columns)
        for label, column in enumerate(columns):
            if column in known or not self.per_class:
                continue
            own = [i for i, y in enumerate(samples.labels) if y == label]
            order = torch.randperm(len(own), generator=generator(self.seed, "memory", column)).tolist()
            for i in order[: self.per_class]:
                self.inputs.append(self.preprocess.small(samples.inputs[own[i]]))
                self.columns.append(column)

    def draw(self, count: int, index: int) -> Samples:
        """At most `count` samples, all if there are no more, labelled by their columns.

        Args:
            index: the position of the task they are for; each draws its own.
        """
        order = torch.randperm(len(self), generator=generator(self.seed, "rehearsal", index)).tolist()
        return Samples(self.inputs, self.columns).select(sorted(order[:count]))

    def state_dict(self) -> dict[str, Tensor]:
        """ "columns"; "data", the samples' bytes (PNG or UTF-8) one after another; "ends", where each ends."""
        data = [_encoded(x) for x in self.inputs]
        ends = torch.tensor([len(part) for part in data], dtype=torch.long).cumsum(0)
        joined = torch.frombuffer(bytearray(b"".join(data)), dtype=torch.uint8) if data else torch.empty(0).byte()
        return {"columns": torch.tensor(self.columns, dtype=torch.long), "data": joined, "ends": ends}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            DataError: it is damaged.
        """
        try:
            data, ends = state["data"].numpy().tobytes(), state["ends"].tolist()
            starts = [0, *ends][: len(ends)]
            inputs = [_decoded(data[a:b], self.preprocess.modality) for a, b in zip(starts, ends, strict=True)]
        except (KeyError, OSError, ValueError, SyntaxError) as error:
            raise DataError(f"the stored samples are damaged: {str(error) or type(error).__name__}") from error
        if len(state["columns"]) != len(inputs):
            raise DataError(f"{len(inputs)} samples are stored, but {len(state['columns'])} classes of them")
        self.inputs, self.columns = inputs, state["columns"].tolist()


def _encoded(x: Any) -> bytes:
    if isinstance(x, str):
        return x.encode()
    file = io.BytesIO()
    x.save(file, "PNG")
    return file.getvalue()


def _decoded(data: bytes, modality: Modality) -> Any:
    return data.decode() if modality == "text" else decode_image(data, "a stored sample")

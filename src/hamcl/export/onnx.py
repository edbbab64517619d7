"""The whole model, from prepared inputs to scores, as one ONNX graph."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.export.learned import Learned
from hamcl.export.parts import save_inputs
from hamcl.export.stock import samples

OPSET = 18
LIMIT = 2 * 10**9
"""Bytes of weights above which they go into a file beside the graph, which protobuf limits to 2 GiB."""
TOLERANCE = 1e-3
"""Largest difference of the graph's scores from the model's, relative to the largest score."""


class Scores(nn.Module):
    """A backbone and a head: inputs, in the order of `names`, to scores (n, classes) in float32."""

    weight: Tensor
    bias: Tensor
    projection: Tensor | None
    direct: Tensor | None

    def __init__(self, learned: Learned, names: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.names, self.normalize = learned.merged, tuple(names), learned.normalize
        head = learned.head
        self.register_buffer("weight", head.weight.float())
        self.register_buffer("bias", head.bias.float())
        self.register_buffer("projection", None if head.projection is None else head.projection.float())
        self.register_buffer("direct", None if head.direct is None else head.direct.float())

    def forward(self, *inputs: Tensor) -> Tensor:
        features = self.backbone(dict(zip(self.names, inputs, strict=True)))
        if self.normalize:
            features = F.normalize(features, dim=1)
        projected = features if self.projection is None else F.relu(features @ self.projection)
        scores = F.linear(projected, self.weight, self.bias)
        return scores if self.direct is None else scores + features @ self.direct.T


def save_onnx(folder: Path, learned: Learned) -> None:
    """Write `model.onnx` (opset 18; any number of samples, and of tokens) and `preprocessing.json`.

    The graph is tried out where ONNX Runtime is installed: what it says must be what the model says, of one sample as
    of many.

    Raises:
        UsageError: the backbone has no form in ONNX that takes any number of samples.
    """
    batch = samples(learned.merged)
    model = Scores(learned, list(batch)).eval()
    sizes = {0: torch.export.Dim("batch")}
    if learned.merged.modality == "text":
        sizes[1] = torch.export.Dim("tokens")
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                model,
                tuple(batch.values()),
                input_names=list(batch),
                output_names=["scores"],
                dynamic_shapes=(tuple(dict(sizes) for _ in batch),),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            # Its first sentence; what follows is coloured and meant for developers.
            reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()[0].partition(". ")[0]
            raise _impossible(learned, reason) from error
        assert program is not None
        program.model.metadata_props["classes"] = json.dumps(list(learned.classes), ensure_ascii=False)
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        program.save(folder / "model.onnx", external_data=weights > LIMIT)
        _simplify(folder / "model.onnx")
        _try_out(folder / "model.onnx", model, batch, learned)
    save_inputs(folder, learned.merged, learned.augmentation)


def _simplify(path: Path) -> None:
    """Leave out the shapes of the weights, which each weight has itself.

    ONNX Runtime's quantizer transposes weights without changing these, and then finds its own graph contradictory.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in graph.graph.initializer}
    kept = [value for value in graph.graph.value_info if value.name not in weights]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    onnx.save(graph, path)


def _try_out(path: Path, model: Scores, batch: Mapping[str, Tensor], learned: Learned) -> None:
    """Compare the graph with the model on batches of another size than the one it was traced with.

    A network that counts its samples in Python is written for that one count without a word of complaint.
    """
    import onnx

    given = onnx.load(path, load_external_data=False).graph.input
    fixed = {value.type.tensor_type.shape.dim[0].dim_value for value in given} - {0}
    if fixed:
        raise _impossible(learned, f"its graph takes {min(fixed)} samples at a time and no other number")
    if find_spec("onnxruntime") is None:
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        some = {name: torch.cat([tensor, tensor])[:count] for name, tensor in batch.items()}
        expected = model(*some.values())
        try:
            (scores,) = session.run(["scores"], {name: tensor.numpy() for name, tensor in some.items()})
        except Exception as error:  # ONNX Runtime's errors share no base
            raise _impossible(learned, f"its graph does not run on {count} of the samples") from error
        if np.abs(scores - expected.numpy()).max() > TOLERANCE * expected.abs().max():
            raise _impossible(learned, f"its graph gives other scores for {count} of the samples")


def _impossible(learned: Learned, reason: str) -> UsageError:
    return UsageError(f"backbone {learned.merged.spec!r} cannot be written as onnx ({reason}); export it as merged")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to its developers from the user; what goes wrong is raised."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

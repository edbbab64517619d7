"""The whole model, from prepared inputs to scores, as one ONNX graph."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.export.learned import Learned
from hamcl.nn.backbones import Backbone
from hamcl.nn.export import save_inputs
from hamcl.nn.stock import samples

OPSET = 18
LIMIT = 2 * 10**9
"""Bytes of weights above which they go into a file beside the graph, which protobuf limits to 2 GiB."""


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

    Raises:
        UsageError: a package is missing, or the backbone has no form in ONNX.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(f"an onnx export needs the package {missing[0]}: pip install 'hamcl[onnx]'")
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
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"backbone {learned.merged.spec!r} cannot be written as onnx ({reason}); export it as merged"
            ) from error
        assert program is not None
        program.model.metadata_props["classes"] = json.dumps(list(learned.classes), ensure_ascii=False)
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        program.save(folder / "model.onnx", external_data=weights > LIMIT)
    settings = json.dumps(preparation(learned.merged, learned.augmentation), indent=2)
    (folder / "preprocessing.json").write_text(settings + "\n", encoding="utf-8")
    if learned.merged.modality == "text":
        save_inputs(folder, learned.merged)


def preparation(backbone: Backbone, augmentation: str) -> dict[str, object]:
    """How an input is prepared, as plain values; the steps in words where they are not settings."""
    settings = {**backbone.preprocess.describe(), "inputs": list(samples(backbone))}
    if backbone.modality == "text":
        return {
            **settings,
            "steps": ["tokenize with the files beside this one", "cut to max_length", "pad on the right"],
        }
    square = ["pad the shorter side to a square with the border's median colour"] * (augmentation == "handwriting")
    cut = "size / crop_pct if it is longer than size, else size" if augmentation == "photo" else "size"
    steps = [
        "convert to RGB",
        *square,
        f"resize: the shorter side to {cut}",
        "crop the centre of size x size",
        "divide by 255, subtract mean and divide by std for each channel",
        "order as channels, rows, columns",
    ]
    return {**settings, "steps": steps}


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

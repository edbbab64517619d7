"""What ONNX Runtime's dynamic quantisation changes in exports: `python benchmarks/quantized.py` (2 minutes).

A text model (minilm, 16 codes of icd10) and an image model (efficientnet-lite0, digits at 64 pixels) are exported as
onnx and quantised to 8 bits; a row says how many test samples get the answer of the float graph.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic

from hamcl import HAM, HAMConfig, Stream, load_stream
from hamcl.machine import Machine

WAYS = {
    "float": None,
    "all": {},
    "all, per channel": {"per_channel": True},
    "MatMul and Gemm alone, per channel": {"per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]},
}


def answers(path: Path, model: HAM, inputs: list) -> np.ndarray:
    """The column of the best score of each input."""
    preprocess = model.backbone.preprocess
    transform = preprocess.transform(False, model.objective.augmentation)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = []
    for i in range(0, len(inputs), 10):
        batch = preprocess.collate([transform(x) for x in inputs[i : i + 10]])
        (scores,) = session.run(["scores"], {name: tensor.numpy() for name, tensor in batch.items()})
        found.append(scores.argmax(1))
    return np.concatenate(found)


def measure(kind: str, model: HAM, stream: Stream, folder: Path) -> None:
    """Print the rows of one model."""
    for task in stream:
        model.learn(task)
    model.export(folder / kind, "onnx")
    inputs = [x for task in stream for x in task.test.inputs]
    truth = [model.classes.index(task.classes[y]) for task in stream for y in task.test.labels]
    exact = folder / kind / "model.onnx"
    for way, options in WAYS.items():
        path = exact
        if options is not None:
            path = folder / "int8.onnx"
            quantize_dynamic(exact, path, **options)
        found = answers(path, model, inputs)
        if path == exact:
            reference = found
        same, right = (found == reference).mean(), (found == truth).mean()
        print(
            f"| {kind} | {way} | {path.stat().st_size / 1e6:.0f} | {100 * same:.1f} | {100 * right:.1f} |", flush=True
        )


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    config, machine = HAMConfig(epochs=1), Machine(device="cpu", precision="fp32")
    print("| model | quantised | MB | same answer, % | right, % |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        texts = load_stream("icd10", tasks=2, classes_per_task=8, train_per_class=20, test_per_class=10)
        measure("texts", HAM.from_backbone("minilm", config, machine, max_length=32), texts, Path(folder))
        digits = load_stream("digits", tasks=2, train_per_class=20, test_per_class=20)
        measure(
            "images", HAM.from_backbone("efficientnet-lite0", config, machine, image_size=64), digits, Path(folder)
        )


if __name__ == "__main__":
    main()

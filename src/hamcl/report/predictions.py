"""Every prediction of a run as one parquet table, so that any other metric can be computed later."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hamcl.files import new_file
from hamcl.metrics import Floats, Integers

PREDICTIONS = "predictions.parquet"
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("task", pa.int32()),
        ("sample", pa.int32()),
        ("label", pa.dictionary(pa.int32(), pa.string())),
        ("predicted", pa.dictionary(pa.int32(), pa.string())),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
    ]
)


def prediction_table(step: int, task: int, logits: Floats, labels: Integers, seen: Sequence[str]) -> pa.Table:
    """The rows of one task evaluated at one step.

    Args:
        step, task: counted from 0.
        logits: shape (n, seen classes).
        labels: shape (n,), the true columns of the logits.
        seen: class names of the columns.

    Returns:
        One row per sample, in the order of the test split: true and predicted class name, the highest logit, and
        its softmax probability among the seen classes.
    """
    n, names = len(labels), pa.array(list(seen), pa.string())
    best, top = logits.argmax(1), logits.max(1)
    columns = [
        np.full(n, step, np.int32),
        np.full(n, task, np.int32),
        np.arange(n, dtype=np.int32),
        pa.DictionaryArray.from_arrays(pa.array(labels, pa.int32()), names),
        pa.DictionaryArray.from_arrays(pa.array(best, pa.int32()), names),
        top.astype(np.float32),
        (1 / np.exp(logits - top[:, None]).sum(1)).astype(np.float32),
    ]
    return pa.table(columns, schema=SCHEMA)


def append_predictions(out: Path, step: int, tables: Sequence[pa.Table]) -> None:
    """Add the rows of one step to `out/predictions.parquet`, in place of any rows of this or a later step."""
    path = out / PREDICTIONS
    if step > 0 and path.exists():
        before = pq.read_table(path, schema=SCHEMA)
        tables = [before.filter(pc.less(before["step"], step)), *tables]
    with new_file(path) as temporary:
        pq.write_table(pa.concat_tables(tables).unify_dictionaries(), temporary, compression="zstd")

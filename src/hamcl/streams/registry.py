"""The sources by name, and the one call that turns a specification into a stream."""

from pathlib import Path
from typing import TypedDict, Unpack, cast, get_args

from hamcl.errors import UsageError
from hamcl.streams import cifar100, cub200, digits, folder, hub, icd10, omniglot, parquet, text, tiny_imagenet
from hamcl.streams.base import Stream
from hamcl.streams.check import OnBadSample
from hamcl.streams.source import Loader, Request, Source
from hamcl.streams.split import SplitOptions, split
from hamcl.words import check_choice, did_you_mean

# Every loader imports its own libraries when it is called, so this table costs nothing.
SOURCES: dict[str, Loader] = {
    "digits": digits.load,
    "icd10": icd10.load,
    "folder": folder.load,
    "parquet": parquet.load,
    "hub": hub.load,
    "text": text.load,
    "cifar100": cifar100.load,
    "cub200": cub200.load,
    "tiny-imagenet": tiny_imagenet.load,
    "omniglot": omniglot.load,
}


# Those that read tables, in which columns can be chosen.
TABLES = ("text", "parquet", "hub")


def kind_of(path: Path) -> str:
    """The source that most likely reads a file or folder."""
    if path.is_dir():
        return "hub" if hub.is_saved(path) else "folder"
    return "parquet" if path.suffix.lower() == ".parquet" else "text"


def load_source(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    train_shards: int | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    on_bad_sample: OnBadSample = "error",
) -> Source:
    """Return the whole labelled data set of a specification `NAME` or `NAME:WHERE`.

    Args:
        data_dir: another way to say WHERE, for a local copy of a named benchmark.
        train_shards: read only the first so many numbered training files (parquet).
        text_column, label_column: the columns of a table that hold the texts and the labels, if not the usual ones.
        on_bad_sample: "skip" leaves out the rows of a table that have no usable label; the notes say how many.

    Raises:
        UsageError: the specification or an option cannot be meant, or a column is not there.
        DataError: the data is not there or cannot be used.
    """
    name, _, where = spec.partition(":")
    if name not in SOURCES:
        hint = f"{kind_of(Path(spec))}:{spec}" if Path(spec).exists() else None
        raise UsageError(
            f"there is no source {name!r}; {f'did you mean {hint}?' if hint else did_you_mean(name, SOURCES)}"
        )
    if where and data_dir is not None:
        raise UsageError(f"{spec!r} says where the data is; leave data_dir out")
    check_choice("on_bad_sample", on_bad_sample, get_args(OnBadSample))
    chosen = {"text_column": text_column, "label_column": label_column}
    for option in (option for option, column in chosen.items() if column is not None and name not in TABLES):
        raise UsageError(f"{spec!r} is not read from a table; leave {option} out")
    where = where or (str(data_dir) if data_dir is not None else "")
    request = Request(name, where or None, train_shards, text_column, label_column, on_bad_sample == "skip")
    source = SOURCES[name](request)
    if train_shards is not None and not source.sharded:
        raise UsageError(f"{spec!r} is not read from numbered files; leave train_shards out")
    return source


class Reading(TypedDict, total=False):
    """The options of `load_source`, for callers that pass them on."""

    data_dir: str | Path | None
    train_shards: int | None
    text_column: str | None
    label_column: str | None
    on_bad_sample: OnBadSample


class StreamOptions(Reading, SplitOptions, total=False):
    """The options of `load_stream`."""


def load_stream(spec: str, **options: Unpack[StreamOptions]) -> Stream:
    """Return a source cut into tasks.

    Args:
        options: what to read, see `load_source` (data_dir, train_shards, text_column, label_column, on_bad_sample),
            and how to cut it, see `split` (tasks, classes_per_task, task_sizes, train_per_class, test_per_class,
            val_fraction, test_fraction, seed, class_order, class_order_file).

    Raises:
        UsageError: the specification or an option is unknown, out of range or contradicts another.
        DataError: the data is not there or cannot be used.
    """
    known = [*SplitOptions.__annotations__, *Reading.__annotations__]
    for option in options:
        if option not in known:
            raise UsageError(f"load_stream has no option {option!r}; {did_you_mean(option, known)}")
    reading, cutting = (
        {name: value for name, value in options.items() if name in part.__annotations__}
        for part in (Reading, SplitOptions)
    )
    return split(load_source(spec, **cast(Reading, reading)), **cast(SplitOptions, cutting))

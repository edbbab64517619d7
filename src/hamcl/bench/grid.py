"""A grid of runs: streams x methods x values of options x seeds, one record per cell, resumable at any point."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hamcl.bench.run import RunOptions, run
from hamcl.config import HAMConfig, read_options
from hamcl.errors import HamError, UsageError
from hamcl.machine import Machine
from hamcl.methods.registry import load_method
from hamcl.nn.backbones import load_backbone
from hamcl.plain import plain
from hamcl.report.records import RESULT, Result, StreamRecord, differences
from hamcl.streams import Stream, load_stream
from hamcl.streams.split import SplitOptions

READ = ("image_size", "max_length")
CUT = (
    *("data_dir", "train_shards", "text_column", "label_column"),
    *(name for name in SplitOptions.__annotations__ if name != "seed"),
)


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: its folder below the grid's, "stream/method/option=value,.../s0".
        spec, cut: what `load_stream` is given, without the seed.
        backbone, read: what `load_backbone` is given.
        config: all options of the method.
        given: those that were asked for, under the method's name on the command line.
    """

    name: str
    spec: str
    cut: Mapping[str, Any]
    backbone: str
    read: Mapping[str, Any]
    method: str
    config: HAMConfig
    preset: str = "default"
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stream(self) -> dict[str, Any]:
        """The stream as it is recorded; `data_dir` is relative to the folder of all data."""
        return {"spec": self.spec, **self.cut, "seed": self.config.seed}

    def command(self) -> list[str]:
        """The `ham run` that does the same where `data_dir` is found from."""
        common = {f.name for f in fields(HAMConfig)}
        line = ["ham", "run", "--method", self.method, "--stream", self.spec, "--backbone", self.backbone]
        if self.preset != "default":
            line += ["--preset", self.preset]
        for name, value in {**self.cut, **self.read, **self.given, "seed": self.config.seed}.items():
            flag, text = "--" + name.replace("_", "-"), "none" if value is None else str(value)
            if name in self.given and name not in common:
                line += ["--method-option", f"{name}={text}"]
            elif isinstance(value, bool):
                line.append(flag if value else f"--no-{flag[2:]}")
            else:
                line += [flag, ",".join(map(str, value)) if isinstance(value, list) else text]
        return line


def read_grid(path: Path) -> list[Cell]:
    """The cells of a YAML or JSON file, those that share a stream and a seed next to each other.

    The file's keys, all mappings but `seeds`:

    - `streams`: name -> `stream`, `backbone`, options of `load_stream` and `load_backbone`, `options` of all methods
      that read them;
    - `methods`: name -> `method` (that name by default), `preset`, `options`, `grid` (option -> list of values),
      `streams` (a list of them, or name -> options there; all by default);
    - `options` of every method on every stream, if it reads them;
    - `seeds`, a list ([0] by default): of the draws and of the class order.

    Options override each other in this order: preset, the method's own defaults, those of all, of the stream, of the
    method, of the method on that stream, of the grid.

    Raises:
        UsageError: something in it is unknown, missing, not allowed or there twice.
    """
    grid = _Keys(read_options(path), str(path), "streams", "methods", "options", "seeds")
    streams = {
        name: _Keys(values, f"stream {name!r} in {path}", "stream", "backbone", "options", *CUT, *READ)
        for name, values in grid.mapping("streams").items()
    }
    methods = {
        name: _Keys(values, f"method {name!r} in {path}", "method", "preset", "options", "grid", "streams")
        for name, values in grid.mapping("methods").items()
    }
    if not streams or not methods:
        raise UsageError(f"{path} needs streams and methods")
    seeds = grid.values.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UsageError(f"the seeds in {path} must be a list of whole numbers, got {seeds!r}")
    places = {label: _places(method, streams) for label, method in methods.items()}
    cells = [
        _cell(f"{where}/{label}", stream, method, grid.mapping("options"), places[label][where], point, seed)
        for (where, stream), seed, (label, method) in itertools.product(streams.items(), seeds, methods.items())
        if where in places[label]
        for point in _points(method)
    ]
    known: dict[str, Cell] = {}
    for cell in cells:
        same = repr((cell.method, cell.stream, cell.backbone, cell.read, cell.config))
        if same in known:
            raise UsageError(f"{cell.name} and {known[same].name} in {path} are the same run; leave one of them out")
        known[same] = cell
    return cells


def shard(cells: Sequence[Cell], part: str) -> list[Cell]:
    """Every n-th cell from the i-th on, for a `part` "i/n".

    Raises:
        UsageError: it is something else.
    """
    index, slash, count = part.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"a shard is i/n with i from 1 to n, got {part!r}")
    return list(cells[int(index) - 1 :: int(count)])


def run_grid(
    cells: Sequence[Cell],
    out: Path,
    *,
    data: Path | None = None,
    machine: Machine | None = None,
    on_cell: Callable[[Cell, Result | HamError], None] | None = None,
) -> list[Result]:
    """Run what is not finished yet; a cell that fails is told of, and the others go on.

    Args:
        out: each cell leaves its record in a folder of its name below.
        data: what the `data_dir` of a stream is relative to.
        machine: what computes.
        on_cell: told of each cell's record or of why it failed.

    Returns:
        The records of the cells that are finished.

    Raises:
        UsageError: a finished cell was made with other options; or an option is wrong.
    """
    done: list[Result] = []
    machine = machine or Machine()
    loaded: tuple[dict[str, Any], Stream] | None = None
    for cell in cells:
        try:
            result = _finished(out / cell.name, cell)
            if result is None:
                if loaded is None or loaded[0] != cell.stream:
                    loaded = cell.stream, load_data(cell, data, machine)
                result = _run(cell, loaded[1], out / cell.name, machine)
            done.append(result)
            told: Result | HamError = result
        except UsageError:
            raise
        except HamError as error:
            told = error
        if on_cell:
            on_cell(cell, told)
    return done


def load_data(cell: Cell, data: Path | None, machine: Machine | None = None) -> Stream:
    """The stream of a cell.

    Args:
        data: what its `data_dir` is relative to.
        machine: says what to do with a bad sample.

    Raises:
        UsageError: it has a `data_dir`, and `data` is None; or an option is wrong.
        DataError: the data is not there or cannot be used.
    """
    cut = dict(cell.cut)
    if "data_dir" in cut:
        if data is None:
            raise UsageError(f"the stream of {cell.name} has the data_dir {cut['data_dir']!r}; say where all data is")
        cut["data_dir"] = data / cut["data_dir"]
    bad = (machine or Machine()).on_bad_sample
    return load_stream(cell.spec, **cut, seed=cell.config.seed, on_bad_sample=bad)


def _run(cell: Cell, stream: Stream, folder: Path, machine: Machine) -> Result:
    options = RunOptions(
        method=cell.method,
        stream=cell.stream,
        backbone=dict(cell.read),
        command=cell.command(),
        resume=True,
        predictions="last",
    )
    backbone = load_backbone(cell.backbone, depths=cell.config.depths_to_read, **cell.read)
    method = load_method(cell.method)(backbone, cell.config, machine)
    return run(stream, method, folder, options=options)


def _finished(folder: Path, cell: Cell) -> Result | None:
    """The record of a cell that needs no more work, found without loading anything."""
    if not (folder / RESULT).exists():
        return None
    found = Result.read(folder)
    if found.status != "complete":
        return None
    cut = StreamRecord(cell.spec, plain(cell.stream), []).cut
    made = [found.options, found.stream.cut, found.method, found.backbone["options"]]
    asked = [plain(part) for part in (cell.config.to_dict(), cut, cell.method, cell.read)]
    parts = ("config", "stream", "method", "backbone")
    changed = differences(dict(zip(parts, made, strict=True)), dict(zip(parts, asked, strict=True)))
    if changed:
        raise UsageError(f"{folder} is finished, but {'; '.join(changed[:3])}; take another folder or delete it")
    return found


def _cell(
    name: str,
    stream: "_Keys",
    method: "_Keys",
    shared: Mapping[str, Any],
    there: Mapping[str, Any],
    point: Mapping[str, Any],
    seed: int,
) -> Cell:
    kind_name = method.values.get("method", name.rpartition("/")[2])
    kind, preset = load_method(kind_name), method.values.get("preset", "default")
    own = {**method.mapping("options"), **there, **point}
    common = {**shared, **stream.mapping("options")}
    config = kind.configured({**own, "seed": seed}, common, preset=preset)
    read = kind.reads(config)
    given = {**{name: value for name, value in common.items() if name in read}, **own}
    return Cell(
        name="/".join([name, *([_named(point)] if point else []), f"s{seed}"]),
        spec=stream.required("stream"),
        cut={key: stream.values[key] for key in CUT if key in stream.values},
        backbone=stream.required("backbone"),
        read={key: stream.values[key] for key in READ if key in stream.values},
        method=kind_name,
        config=config,
        preset=preset,
        given=given,
    )


class _Keys:
    """A mapping read from a file, with none but known keys."""

    def __init__(self, values: object, what: str, *known: str) -> None:
        self.what = what
        self.values = self.checked(values, what)
        for key in self.values:
            if key not in known:
                raise UsageError(f"{what} has no {key!r}; it may have {', '.join(known)}")

    def mapping(self, key: str) -> dict[str, Any]:
        """The mapping under `key`, empty where there is none."""
        return self.checked(self.values.get(key), f"{key!r} of {self.what}")

    def required(self, key: str) -> str:
        """The text under `key`."""
        if not isinstance(self.values.get(key), str):
            raise UsageError(f"{self.what} needs {key!r}")
        return str(self.values[key])

    @staticmethod
    def checked(values: object, what: str) -> dict[str, Any]:
        if values is not None and not isinstance(values, dict):
            raise UsageError(f"{what} must be a mapping, got {values!r}")
        return values or {}


def _places(method: _Keys, streams: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """The streams a method runs on -> its options there."""
    asked = method.values.get("streams", list(streams))
    if not isinstance(asked, list | dict):
        raise UsageError(f"the streams of {method.what} must be a list or a mapping, got {asked!r}")
    for name in asked:
        if name not in streams:
            raise UsageError(f"{method.what} names the stream {name!r}, which is not there")
    return {name: method.checked(asked[name], f"stream {name!r}") if isinstance(asked, dict) else {} for name in asked}


def _points(method: _Keys) -> Iterator[dict[str, Any]]:
    """The combinations of a method's grid."""
    axes = method.mapping("grid")
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"the grid of {method.what} needs a list of values of {name!r}, got {values!r}")
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _named(point: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={'none' if value is None else value}" for name, value in point.items())

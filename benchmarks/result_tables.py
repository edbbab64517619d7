"""README's table, and the tables and figures of docs/results, from the records in docs/results.

    python benchmarks/result_tables.py                  # write them
    python benchmarks/result_tables.py --add runs/rivals   # take the finished runs of a grid in first
    python benchmarks/result_tables.py --tables         # all but the figures

docs/results/STREAM.json holds the runs on one stream, named METHOD-sSEED: each is what `result.json` holds, with
the part about the stream, which many runs share, written once. What stands around the tables is left as it is.
"""

import argparse
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hamcl.report.compare import Row, compare, spread
from hamcl.report.plots import plot_comparison
from hamcl.report.records import RESULT, Result, differences

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
SHARED = ("classes", "stream")
KEPT = ("losses", "skipped", "group", "opened", "importance", "merge_error")
"""What is published of a method's report on each task."""
ROWS = {
    "ham": "**`ham`**",
    "settled": "`ham`, adapters in the first task alone",
    "ham-frozen": "`ham` without adapters (its features, head and views)",
    "ranpac": "`ranpac` (adapts on the first task)",
    "frozen-ridge": "frozen + `ridge` (RanPAC without adaptation)",
    "frozen-lda": "frozen + `lda` (as Deep SLDA)",
    "frozen-ncm": "frozen + `ncm` (SimpleCIL)",
    "frozen-linear": "frozen, rows",
    "frozen-cosine": "frozen, cosine rows",
    "ease": "`ease`",
    "slca": "`slca`",
    "concat-all-ridge": "a LoRA per task, all concatenated, `ridge`",
    "lora-per-task-mean": "a LoRA per task, averaged, rows",
    "lora-per-task-ties": "a LoRA per task, merged by TIES, rows",
    "lora-per-task-dare": "a LoRA per task, merged by DARE, rows",
    "sd-lora": "`sd-lora`",
    "inflora": "`inflora`",
    "seq-lora-lda": "sequential LoRA + `lda`",
    "seq-lora": "sequential LoRA, rows",
    "ham-paper": "HAM as published (`ham --preset paper`), untuned so far",
    "joint": "joint training (all data at once), rows",
    "joint-ham-head": "joint training, the features and head of `ham`",
}
"""Names of the rows of the tables."""
README = ("ham", "settled", "ham-frozen", "ranpac", "frozen-ridge", "frozen-lda", "ham-paper", "joint-ham-head")
"""The rows of README's table: of the rivals the three best by their mean over its streams."""
SHORT = {"icd10-20x8": "icd10, 20 x 8", "tiny-20x5": "tiny-imagenet, 20 x 5", "omniglot-20x12": "omniglot-8, 20 x 12"}
LONG = {"icd10-40x4": "icd10, 40 x 4", "tiny-50x2": "tiny-imagenet, 50 x 2", "omniglot-40x6": "omniglot-8, 40 x 6"}
ACCURACY = "average_accuracy"
TITLE = "average accuracy over all classes after the last task, %"
OWN = ("ham", "settled", "ham-frozen", "ham-paper", "joint", "joint-ham-head")  # no rivals


@cache
def runs(stream: str) -> dict[str, list[Result]]:
    """The records of a stream by the names of their rows, in the order of these.

    Raises:
        SystemExit: runs of a row differ in more than their seed.
    """
    held, found = load(stream), {}
    for name, record in held["runs"].items():
        result = Result.from_dict({**record, **held["streams"][record["stream"]]})
        found.setdefault(name.rpartition("-s")[0], []).append(result)
    for name, results in found.items():
        first, *others = ({**run.options, "seed": 0} for run in results)
        if unlike := [clause for other in others for clause in differences(first, other)]:
            raise SystemExit(f"{stream}: the runs of {name} differ in more than their seed: {'; '.join(unlike[:3])}")
    return {name: found[name] for name in ROWS if name in found}


def load(stream: str) -> dict[str, Any]:
    """What docs/results holds of a stream: `streams`, and `runs` with the number of theirs in `stream`."""
    path = RESULTS / f"{stream}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"streams": [], "runs": {}}


def add(folder: Path) -> None:
    """Take the finished runs of a grid, STREAM/METHOD[/OPTION=VALUE]/sSEED, into docs/results, in place of their like.

    Raises:
        SystemExit: one of them is no row of a table.
    """
    for path in sorted(folder.glob(f"**/{RESULT}")):
        result = Result.read(path.parent)
        stream, method, *point, seed = path.parent.relative_to(folder).parts
        name = "-".join([method, *(part.partition("=")[2] for part in point)])
        if name not in ROWS or stream not in {**SHORT, **LONG}:
            raise SystemExit(f"{path.parent} is no row of a table; leave it out or name it in ROWS")
        if result.status == "complete":
            put(stream, f"{name}-{seed}", result)
            print(f"{stream}: {name}-{seed}")


def put(stream: str, name: str, result: Result) -> None:
    """Write one run into docs/results."""
    for step in result.steps:
        step.report = {key: value for key, value in step.report.items() if key in KEPT}
    held, record = load(stream), result.to_dict()
    shared = {key: record.pop(key) for key in SHARED}
    if shared not in held["streams"]:
        held["streams"].append(shared)
    held["runs"][name] = {**record, "stream": held["streams"].index(shared)}
    held["runs"] = dict(sorted(held["runs"].items()))
    streams = ",\n".join(map(_short, held["streams"]))
    records = ",\n".join(f"{json.dumps(key)}: {_short(run)}" for key, run in held["runs"].items())
    text = f'{{\n"streams": [\n{streams}\n],\n"runs": {{\n{records}\n}}\n}}\n'
    (RESULTS / f"{stream}.json").write_text(text, encoding="utf-8")
    runs.cache_clear()


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def table(streams: dict[str, str], names: tuple[str, ...] = tuple(ROWS)) -> str:
    """A row for each method that has a record on one of the streams: mean, deviation and number of seeds."""
    records = {stream: runs(stream) for stream in streams}
    header = [TITLE, *(name.replace(" x ", f" {TIMES} ") for name in streams.values())]
    lines = [f"| {' | '.join(header)} |", "|---" + "|---:" * len(streams) + "|"]
    for name in names:
        cells = []
        for found in records.values():
            values = [100 * run.metrics[ACCURACY] for run in found.get(name, [])]
            cells.append(spread(values) + f" ({len(values)})" * (len(values) > 1) if values else NONE)
        if set(cells) != {NONE}:
            lines.append(f"| {' | '.join([ROWS[name], *cells])} |")
    return "\n".join(lines) + "\n"


def best_rivals() -> list[str]:
    """The rivals that have a record on every stream of README, from the best mean to the worst."""
    found = [runs(stream) for stream in SHORT]
    means = {
        name: sum(np.mean([run.metrics[ACCURACY] for run in here[name]]) for here in found)
        for name in ROWS
        if name not in OWN and all(name in here for here in found)
    }
    return sorted(means, key=lambda name: -means[name])


def readme(text: str) -> str:
    """README with its table anew.

    Raises:
        SystemExit: it does not show the three best rivals.
    """
    best = best_rivals()[:3]
    if not set(best) <= set(README):
        raise SystemExit(f"the three best rivals are {', '.join(best)}; name them in README's rows")
    anew = table(SHORT, README)
    text, count = re.subn(rf"^\| {re.escape(TITLE)} \|.*\n(\|.*\n)*", lambda _: anew, text, flags=re.M)
    if count != 1:
        raise SystemExit(f"README.md has {count} tables that begin with {TITLE!r}")
    return text


def page(text: str) -> str:
    """The page of docs/results with its tables anew."""
    sections = [table(SHORT), table(LONG)]
    for stream in (*SHORT, *LONG):
        found = runs(stream)
        (setting,) = compare([run for results in found.values() for run in results])
        setting.rows = [Row(ROWS[name], results) for name, results in found.items()]
        sections.append(f"{setting.markdown().removeprefix('#')}\n![{stream}]({stream}.png)\n")
    before, begin, rest = text.partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- /tables -->\n")
    return before + begin + "\n".join(sections) + end + after


def plot(stream: str) -> None:
    """The stream's figure."""
    found = runs(stream)
    (setting,) = compare([run for results in found.values() for run in results])
    curves = {plain(ROWS[name]): [np.array(run.curve[ACCURACY]) for run in results] for name, results in found.items()}
    labels = [plain(ROWS[name]) for name in README]
    plot_comparison(RESULTS / f"{stream}.png", {setting.title: curves}, labels)


def plain(label: str) -> str:
    """A row's label without Markdown."""
    return re.sub("[`*]", "", label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="leave the figures as they are")
    parser.add_argument("--add", type=Path, metavar="RUNS", help="take these runs in first: the OUT of a grid")
    args = parser.parse_args()
    if args.add:
        add(args.add)
    for file, renew in ((ROOT / "README.md", readme), (RESULTS / "README.md", page)):
        file.write_text(renew(file.read_text(encoding="utf-8")), encoding="utf-8")
    for stream in () if args.tables else (*SHORT, *LONG):
        plot(stream)


if __name__ == "__main__":
    main()

"""The tables of README.md and the tables and figures of docs/results, from the records in docs/results.

    python benchmarks/result_tables.py            # write them
    python benchmarks/result_tables.py --tables   # all but the figures

A folder of records is named METHOD-sSEED, below that of its stream. What stands around the tables is left as it is.
"""

import argparse
import math
import re
from pathlib import Path

import numpy as np

from hamcl.report.compare import compare, spread
from hamcl.report.plots import plot_comparison
from hamcl.report.records import Result

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
ROWS = {
    "ham": "**`ham`**",
    "settled": "`ham`, adapters in the first task alone",
    "ham-frozen": "`ham` without adapters (its features, head and views)",
    "frozen-ridge": "frozen + `ridge` (RanPAC without adaptation)",
    "ranpac": "`ranpac` (adapts on the first task)",
    "frozen-lda": "frozen + `lda`",
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
    "ham-paper": "`ham --preset paper`",
    "ham-last": "`ham`, last layer alone, `ridge`",
    "ham-last-linear": "`ham`, last layer alone, rows",
    "core-joint": "joint training (all data at once), rows",
    "joint-ham-head": "joint training, the features and head of `ham`",
}
"""What README tells of: names of folders, and of rows."""
SHORT = {"icd10-20x8": "icd10, 20 x 8", "tiny-20x5": "tiny-imagenet, 20 x 5", "omniglot-20x12": "omniglot-8, 20 x 12"}
LONG = {"icd10-40x4": "icd10, 40 x 4", "tiny-50x2": "tiny-imagenet, 50 x 2", "omniglot-40x6": "omniglot-8, 40 x 6"}
TABLES = (
    ("average accuracy over all classes after the last task, %", SHORT, "average_accuracy"),
    ("more, smaller tasks, %", LONG, "average_accuracy"),
    ("forgetting, %", SHORT, "forgetting"),
    ("forgetting of more, smaller tasks, %", LONG, "forgetting"),
)
FORMER = (
    "ham-held",
    "ham-constant",
    "ham-settle",
    "ham-wide",
    "ham-frozen-wide",
    "settled-wide",
    "joint-ham-head-wide",
)
"""Records of former defaults, which no plot shows."""
PAGE = (*SHORT, *LONG, "tiny-20x10")


def runs(stream: str) -> dict[str, list[Result]]:
    """The records of a stream by the names of their folders, without the seed."""
    found: dict[str, list[Result]] = {}
    for file in sorted((RESULTS / stream).glob("*/result.json")):
        found.setdefault(file.parent.name.rpartition("-s")[0], []).append(Result.read(file.parent))
    return found


def summary(title: str, streams: dict[str, str], metric: str) -> str:
    """One of README's tables: a row for each method that has the metric on one of the streams."""
    records = {stream: runs(stream) for stream in streams}
    header = [title, *(name.replace(" x ", f" {TIMES} ") for name in streams.values())]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for name, label in ROWS.items():
        cells = []
        for found in records.values():
            values = [100 * run.metrics[metric] for run in found.get(name, [])]
            values = [value for value in values if not math.isnan(value)]
            cells.append(spread(values) + f" ({len(values)})" * (len(values) > 1) if values else NONE)
        if set(cells) != {NONE}:
            lines.append(f"| {' | '.join([label, *cells])} |")
    return "\n".join(lines)


def readme(text: str) -> str:
    """README with its tables anew."""
    for title, streams, metric in TABLES:
        table = summary(title, streams, metric)
        text, count = re.subn(
            rf"^\| {re.escape(title)} \|.*\n(\|.*\n)*", lambda _, t=table: t + "\n", text, flags=re.M
        )
        if count != 1:
            raise SystemExit(f"README.md has {count} tables that begin with {title!r}")
    return text


def page(text: str) -> str:
    """The page of docs/results with its tables anew."""
    sections = []
    for stream in PAGE:
        (setting,) = compare([run for found in runs(stream).values() for run in found])
        sections.append(f"{setting.markdown().removeprefix('#')}\n![{stream}]({stream}.png)\n")
    before, begin, rest = text.partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- /tables -->\n")
    return before + begin + "\n".join(sections) + end + after


def plot(stream: str) -> None:
    """The stream's figure, without former defaults."""
    shown = {name: found for name, found in runs(stream).items() if name not in FORMER}
    (setting,) = compare([run for found in shown.values() for run in found])
    curves = {
        plain(ROWS.get(name, name)): [np.array(run.curve["average_accuracy"]) for run in found]
        for name, found in shown.items()
    }
    plot_comparison(RESULTS / f"{stream}.png", {setting.title: curves}, [*map(plain, ROWS.values())])


def plain(label: str) -> str:
    """A row's label without Markdown."""
    return re.sub("[`*]", "", label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="leave the figures as they are")
    args = parser.parse_args()
    for file, renew in ((ROOT / "README.md", readme), (RESULTS / "README.md", page)):
        file.write_text(renew(file.read_text(encoding="utf-8")), encoding="utf-8")
    for stream in () if args.tables else PAGE:
        plot(stream)


if __name__ == "__main__":
    main()

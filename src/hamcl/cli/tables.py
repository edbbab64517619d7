"""What the practitioner's commands show: the store as a tree, evaluations and differences as tables, predictions."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hamcl.cli.shell import as_json, count, printable, unicode
from hamcl.config import answering
from hamcl.errors import UsageError
from hamcl.plain import plain
from hamcl.store import Difference, Evaluation, LightStore, Score, Sizes
from hamcl.store.manifest import Reliability
from hamcl.words import listed

if TYPE_CHECKING:
    from hamcl.cli.inputs import Answer

Form = Literal["table", "csv", "jsonl"]
SHOWN = 10
"""Class names and rows listed before the rest is only counted."""


def facts(store: LightStore) -> dict[str, Any]:
    """What `ham status` knows, as plain values."""
    manifest, state = store.manifest, store.manifest.state
    tasks = [
        {
            "name": task.name,
            "classes": [state.classes[c] for c in task.columns],
            "samples": task.samples,
            "learned": task.learned,
            "group": decision.index,
            "opened": decision.opened,
            "similarities": decision.similarities,
            "scores": decision.scores,
        }
        for task, decision in zip(state.tasks, state.decisions, strict=True)
    ]
    return plain(
        {
            "store": store.path,
            "format": manifest.format,
            "created": manifest.created,
            "backbone": manifest.backbone,
            "config": manifest.options.to_dict(),
            "resolved": manifest.resolved,
            "classes": state.classes,
            "tasks": tasks,
            "groups": [{"tasks": g.tasks, "importance": g.importance, "rank": g.rank} for g in state.groups],
            "bytes": store.sizes(),
            "undo": [{"task": earlier.task, "tasks": earlier.tasks} for earlier in manifest.earlier],
            "evaluation": state.evaluations[-1] if state.evaluations else None,
            "history": manifest.history,
        }
    )


def status(store: LightStore) -> Tree:
    """The store as a tree: classes, tasks with their similarities, groups, sizes and the last evaluation."""
    manifest, state = store.manifest, store.manifest.state
    backbone, options = manifest.backbone, manifest.options
    tree = Tree(_text(f"{store.path}", "bold"))
    sizes = "".join(
        f", {name} {value}"
        for name, value in (("image size", backbone.options.image_size), ("max length", backbone.options.max_length))
        if value
    )
    tree.add(_text(f"backbone {backbone.spec}{sizes}, head {answering(options, backbone.modality)}"))
    tree.add(_text(f"{count(len(state.classes), 'class')}: {listed(state.classes, SHOWN) or 'none yet'}"))
    tasks = tree.add(count(len(state.tasks), "task"))
    for number, (task, decision) in enumerate(zip(state.tasks, state.decisions, strict=True), 1):
        line = f"{number} {task.name}: {count(len(task.columns), 'class')}"
        line += f", {count(task.samples, 'sample')}" if task.samples is not None else ", an adapter"
        line += f", {'opened' if decision.opened else 'joined'} group {decision.index}"
        if decision.similarities:
            line += f" (similarities {', '.join(f'{value:.2f}' for value in decision.similarities)})"
        tasks.add(_text(line))
    most = "" if options.max_groups is None else f" of at most {options.max_groups}"
    groups = tree.add(f"{count(len(state.groups), 'group')}{most}")
    for j, group in enumerate(state.groups):
        branch = groups.add(f"group {j}: importance {group.importance:.3f}, rank {group.rank}")
        branch.add(_text(listed(group.tasks, SHOWN)))
    _disk(tree, store.sizes(), len(manifest.earlier))
    if state.evaluations:
        last = state.evaluations[-1]
        since = len(state.tasks) - last.learned
        later = f", {count(since, 'task')} ago" if since else ""
        own = f", on the data that {', '.join(last.trained_on)} was learned from" if last.trained_on else ""
        branch = tree.add(_text(f"last evaluation ({last.time}{later}): {_percent(last.overall)}{own}"))
        for name, score in last.tasks.items():
            branch.add(_text(f"{name}: {_percent(score)}"))
    return tree


def _disk(tree: Tree, sizes: Sizes, earlier: int) -> None:
    state = sizes.groups + sizes.rows + sizes.head
    branch = tree.add(f"on disk: {decimal(state + sizes.earlier + sizes.unfinished)}")
    now = branch.add(f"the state: {decimal(state)}")
    bound = (
        "grows with the tasks"
        if sizes.groups_bound is None
        else f"at most {decimal(sizes.groups_bound)} however many tasks come"
    )
    now.add(f"groups: {decimal(sizes.groups)}" + (f", {bound}" if sizes.groups else ""))
    now.add(f"classifier rows: {decimal(sizes.rows)}, grows with the classes")
    if sizes.head:
        now.add(f"statistics of the head: {decimal(sizes.head)}, grows with the classes")
    branch.add(f"{count(earlier, 'earlier state')} for undo: {decimal(sizes.earlier)}")
    if sizes.unfinished:
        branch.add(f"an unfinished learn: {decimal(sizes.unfinished)}")
    if sizes.damaged:
        branch.add(_text(f"an unfinished learn that cannot go on ({sizes.damaged}); ham learn --restart drops it"))


def evaluation(result: Evaluation, *, everything: bool) -> list[Table]:
    """The tables of an evaluation: by task, by class (the worst unless `everything`), confidence, confusions."""
    tasks = _table("task", "samples", "accuracy")
    for name, score in result.tasks.items():
        tasks.add_row(_text(name), str(score.samples), _accuracy(score))
    tasks.add_section()
    tasks.add_row("all", str(result.overall.samples), _accuracy(result.overall))
    worst = sorted(result.classes.items(), key=lambda item: item[1].accuracy)
    few = everything or len(worst) <= SHOWN
    classes = _table("class" if few else f"class (the {SHOWN} worst of {len(worst)})", "samples", "accuracy")
    for name, score in worst if few else worst[:SHOWN]:
        classes.add_row(_text(name), str(score.samples), _accuracy(score))
    shown = [tasks, classes, *([_reliability(result.reliability)] if result.reliability else [])]
    if not result.confusions:
        return shown
    pairs = _table("class", "taken for", "times")
    for pair in result.confusions if everything else result.confusions[:SHOWN]:
        pairs.add_row(_text(pair.truth), _text(pair.predicted), str(pair.count))
    return [*shown, pairs]


def _reliability(found: Reliability) -> Table:
    """Of answers about equally sure, how many are right; the last line has the mean gap, the calibration error."""
    table = _table("confidence", "samples", "mean confidence", "accuracy")
    width = 100 / len(found.samples)
    for i, samples in enumerate(found.samples):
        if samples:
            means = (f"{100 * value:.1f} %" for value in (found.confidence[i], found.accuracy[i]))
            table.add_row(f"{i * width:.0f} to {(i + 1) * width:.0f} %", str(samples), *means)
    table.add_section()
    table.add_row("calibration error", str(sum(found.samples)), "", f"{100 * found.error:.1f} %")
    return table


def differences(found: Iterable[Difference], mine: Path, theirs: Path) -> Table:
    """One line for each thing that is not the same.

    Classes that differ in the same way share one, and of many tensors only the first are listed.
    """
    found = list(found)
    tensors = [d for d in found if d.section == "tensor"]
    many = tensors[SHOWN:] if len(tensors) > SHOWN + 1 else []
    if many:
        left = Difference("tensor", f"... and {len(many)} more, of {len(tensors)}", "--json lists", "all of them")
        found = [left if d is many[0] else d for d in found if d is many[0] or d not in many]
    table = Table("what", "", str(mine), str(theirs))
    for (section, a, b), same in groupby(found, key=lambda d: (d.section, _value(d.mine), _value(d.theirs))):
        names = [difference.name for difference in same]
        lines = [names] if section == "class" else [[name] for name in names]
        for line in lines:
            few = line if len(line) <= SHOWN else [*line[: SHOWN - 1], f"... and {len(line) - SHOWN + 1} more"]
            table.add_row(section, _text(", ".join(few)), _text(a), _text(b))
    return table


def history(store: LightStore) -> Table:
    """What happened to the store, oldest first."""
    table = Table("when", "command", "what")
    for event in store.manifest.history:
        table.add_row(event.time, event.command, _text(event.text))
    return table


def form_of(form: Form | None, out: Path | None) -> Form:
    """The format asked for, or that of the file to write.

    Raises:
        UsageError: the two contradict each other, or the file's name does not tell.
    """
    known: dict[str, Form] = {".csv": "csv", ".jsonl": "jsonl"}
    if out is None:
        return form or "table"
    if form == "table":
        raise UsageError(f"a table is for reading and is not written to {out}; take --format csv or jsonl")
    if form is None and out.suffix.lower() not in known:
        raise UsageError(f"{out} does not say its format; end it in .csv or .jsonl, or give --format")
    return form or known[out.suffix.lower()]


def write_answers(answers: "Iterable[Answer]", form: Literal["csv", "jsonl"], file: TextIO) -> None:
    """Write predictions as they come: CSV with one line for each input and rank, or one JSON object for each input.

    On a terminal nothing in a name steers it; a spreadsheet takes no cell of the CSV for a formula.
    """
    if form == "csv":
        file.write(_csv("input", "rank", "label", "probability"))
    steers = form == "csv" and file.isatty()
    ascii = not unicode(file)
    for answer in answers:
        if form == "csv":
            pairs = zip(answer.labels, answer.probabilities, strict=True)
            for rank, (name, p) in enumerate(pairs, 1):
                cells = [plain_cell(printable(text) if steers else text) for text in (answer.input, name)]
                file.write(_csv(cells[0], rank, cells[1], f"{p:.6f}"))
        else:
            rounded = replace(answer, probabilities=[round(p, 6) for p in answer.probabilities])
            file.write(as_json(rounded, ascii=ascii) + "\n")
        file.flush()


def _csv(*cells: object) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # with "\n" alone it would not quote a "\r" in a cell
    return line.getvalue().removesuffix("\r\n") + "\n"


def plain_cell(text: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula: one that begins like one is quoted by `'`."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def show_answers(answers: "Iterable[Answer]", names: Sequence[str], classes: Sequence[str], console: Console) -> None:
    """Show predictions as they come, in columns.

    Args:
        names: of all inputs, which say how wide the first column is.
        classes: of all classes, likewise.
    """
    last = len("probability")
    room = max(console.width - last - 4, 20)
    label = min(max(map(_cells, ["class", *classes])), room // 2)
    first = min(max(map(_cells, ["input", *names])), room - label)

    def row(*cells: Text) -> None:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        for width, justify in ((first, "left"), (label, "left"), (last, "right")):
            table.add_column(width=width, justify=justify, overflow="fold")  # type: ignore[arg-type]
        table.add_row(*cells)
        console.print(table, highlight=False)

    row(*(Text(name, style="bold") for name in ("input", "class", "probability")))
    for answer in answers:
        labels = Text("\n").join(_text(name) for name in answer.labels)
        row(_text(answer.input), labels, Text("\n".join(f"{100 * p:.1f} %" for p in answer.probabilities)))


def _cells(text: str) -> int:
    return cell_len(printable(text))


def _table(name: str, *others: str) -> Table:
    table = Table()
    table.add_column(name, overflow="fold")
    for other in others:
        table.add_column(other, justify="left" if other in ("class", "taken for") else "right", overflow="fold")
    return table


def _text(text: str, style: str = "") -> Text:
    """Names as they are: nothing in them is markup, and nothing moves the cursor."""
    return Text(printable(text), style=style)


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _accuracy(score: Score) -> str:
    return f"{100 * score.accuracy:.1f} %"


def _percent(score: Score) -> str:
    return f"{_accuracy(score)} of {count(score.samples, 'sample')}"

"""The reference of all options, docs/configuration.md: `python docs/reference.py`, or `make docs`."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hamcl.config import PAPER, HAMConfig
from hamcl.machine import Machine

WHY = {
    "seed": ("Not measured; any number does, reported tables use 0, 1 and 2 and tuning used 100."),
    "rank": (
        "Ranks 2, 8 and 16 end within half a point of each other after ten tasks (tiny-imagenet 68.2, 68.1, 68.5; "
        "icd10 92.1 each); 8 is the paper's."
    ),
    "lora_alpha": (
        "Not measured; equal to rank, so that a new adapter's update is scaled by 1 and `lr` alone sets how far "
        "it moves."
    ),
    "dropout": ("Not measured; the paper's experiments use 0.1."),
    "targets": (
        "All linear and convolution layers: adapting the last two stages alone lost 2.1 points on tiny-imagenet "
        "(66.0 for 68.1) and 0.4 on icd10, after ten tasks."
    ),
    "max_groups": (
        "1, 2, 5, 10 and unlimited groups end within 0.3 points on omniglot and on tiny-imagenet, so the number "
        "only bounds the state; 5 is the paper's."
    ),
    "threshold": (
        "Not measured; with sums within groups, which group an adapter joins makes no difference that one run shows."
    ),
    "merge": (
        "A mean shrinks what the first task learned (tiny-imagenet after 16 tasks at constant rates: sum 63.1, "
        "mean 61.6, no adapters 61.0); around today's default all rules are within 0.4 points on images."
    ),
    "merge_rank": (
        "8, 16 and 64 end within 0.2 points (omniglot 88.5, 88.5, 88.6; tiny-imagenet 67.6, 67.8, 67.8), so the "
        "state is kept small."
    ),
    "density": (
        "Pruning to 0.3 lost up to 1.2 points on tiny-imagenet (66.6 for 67.8) and gained at most 0.5 on "
        "omniglot, so nothing is pruned."
    ),
    "prune_on": ("Not measured around this default, which prunes nothing; the factors are what the paper prunes."),
    "epochs": (
        "Not measured; the reported streams take 2 (icd10, tiny-imagenet) and 5 (omniglot, 14 images a class)."
    ),
    "batch_size": ("Not measured; a usual size that trains on two cores."),
    "lr": (
        "3e-4 lost 2.3 points on tiny-imagenet and 0.4 on icd10 after ten tasks; 3e-3 gained there and not over "
        "twenty (icd10 91.2 for 91.8)."
    ),
    "head_lr": ("Not measured; the rows only have to keep up with the adapter, the analytic heads do not read them."),
    "importance_lr": (
        "Under a weak hold 1e-2 lost 0.9 points on icd10 (90.1; 0 and 1e-3: 91.0); around today's default 0, 1e-3 "
        "and 1e-2 are equal within noise on images."
    ),
    "weight_decay": ("Not measured; AdamW's usual value."),
    "warmup": ("Not measured; a usual value, meant to keep Adam's first steps small."),
    "distill": (
        "0, 10 and 100 end within 0.6 points after ten tasks, since the small rates of later tasks already hold "
        "the features; at constant rates 10 beat 3 by 1.6 points on icd10 (last layer, an earlier default)."
    ),
    "later_tasks": (
        "Omniglot in 40 tasks: 88.3 held, 85.7 at constant rates and full length (no adapters 88.3); in 20 tasks, "
        "with a hold that does not grow either, 78.6 (no adapters 87.4; one view); icd10 and tiny-imagenet lose "
        "nothing by it."
    ),
    "depths": (
        "With the last layer alone frozen features give 57.5 on omniglot and 57.0 on tiny-imagenet at best, with "
        "several depths 87.4 and 59.9; on icd10 91.3 for 90.9."
    ),
    "head": (
        "On frozen features of several depths `stack` beats `ridge` on images (omniglot 87.4 for 80.5, "
        "tiny-imagenet 59.9 for 57.5), on texts `ridge` is as good and smaller (icd10 91.3 for 91.0)."
    ),
    "shrinkage": (
        "Estimated: a fixed 0.03 left 20 samples of each of 6 classes in 256 dimensions at 44 %, the estimate "
        "gives 60 %."
    ),
    "projection": (
        "In `ridge` alone 2,048 lost 2.3 points on icd10 (89.5 for 91.8) and 6,144 adds 0.6 at most; in `stack` "
        "512 to 4,096 are equal within noise on omniglot and tiny-imagenet, so 1,024 saves state."
    ),
    "views": (
        "A second view adds 1.0 to 1.7 points on omniglot and nothing on tiny-imagenet (frozen features); a third "
        "and fourth are within noise and cost a pass each."
    ),
    "drift": (
        "Where the features move (omniglot, weak hold) `stack` ends at 85.6 instead of 74.7; where they hardly "
        "move it costs nothing that one run shows (86.5 for 86.9)."
    ),
}
"""What the default of each option of the model was chosen by."""


def reference() -> str:
    """The configuration reference as Markdown."""
    return (
        "# Configuration\n\n"
        "Generated from `HAMConfig` and `Machine` by `python docs/reference.py`. On the command line\n"
        "`lora_alpha` is written `--lora-alpha`; a YAML or JSON file of the same names goes to `--config`.\n\n"
        "## Options of the model\n\n"
        "They are chosen once, when a model is made; those of one task may differ from task to task (`ham learn "
        "--help`\nlists them). A method refuses an option that does nothing in it. The column *paper* holds what "
        "`--preset paper`\nchanges. Figures are average accuracies in %, from [ablations](ablations.md) or, of "
        "earlier\ndefaults, from its earlier versions.\n\n"
        + "\n".join(_rows(HAMConfig, "paper", PAPER))
        + "\n\n## Options of the machine\n\n"
        "They belong to no model: neither a store nor a record is told apart by them. Every command that computes\n"
        "takes those that mean something to it (in Python: `Machine`).\n\n" + "\n".join(_rows(Machine)) + "\n"
    )


def _rows(kind: type, column: str = "", values: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """A table of the fields of a dataclass of options, with a column of values where it has a name."""
    reasons = kind is HAMConfig
    heads = ["option", "type", "default", *([column] if column else []), "what it does", *(["why"] * reasons)]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        name = " / ".join(get_args(hint)) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
        cells = [f"`{field.name}`", name.replace("|", "or"), f"`{field.default}`"]
        if column:
            cells.append(f"`{values[field.name]}`" if field.name in values else "")
        cells += [field.metadata["help"], *([WHY[field.name]] if reasons else [])]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    print(reference(), end="")

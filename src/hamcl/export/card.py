"""The model card: what the model knows, how well, how it was made, and the code to use it."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import hamcl
from hamcl.export.learned import Card, Learned
from hamcl.export.stock import library
from hamcl.export.usage import Form, manner, usage

METHOD = "[HAM](https://arxiv.org/abs/2509.13211) (hierarchical adapter merging)"
FILES = {
    "peft": "one LoRA adapter for PEFT",
    "merged": "plain weights with the learned adapters added, at the cost of the base model",
    "onnx": "one ONNX graph from prepared inputs to scores",
    "adapters": "one LoRA adapter for each group of tasks, which are used together",
}
PRECISION = (
    "Scores are computed in float32. hamcl itself computes in bfloat16 where its option `precision` says so (`auto`:"
    " where the processor is fast at it), which can decide near ties otherwise; `ham eval STORE DATA --precision both`"
    " counts them."
)
PREPARE = (
    "Images go through `prepare` below, as they did in learning (`preprocessing.json` says it in words). No image"
    " processor of transformers and no transform of timm does the same"
)
NOTHING_ELSE = (
    ", so none is configured here: where no code of this folder is allowed, `pipeline()` and timm's `create_transform`"
    " end with an error instead of an answer to other pixels"
)
PACKAGES = {
    "peft": ("torch", "peft"),
    "merged": ("torch",),
    "onnx": ("onnx", "onnxscript", "torch"),
    "adapters": ("torch", "peft"),
}


def write_card(folder: Path, learned: Learned, form: Form, card: Card) -> None:
    """Write `README.md` in the form of a Hugging Face model card."""
    images = learned.merged.modality == "image"
    text = "\n".join(
        [
            "---",
            yaml.safe_dump(_header(learned, form, card), sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {_line(card.title or _title(learned))}",
            "",
            *([card.text.strip(), ""] if card.text.strip() else []),
            f"{_title(learned)}, learned in {_count(len(learned.tasks), 'task')}, one after another, by {METHOD} with"
            f" hamcl {hamcl.__version__}. This folder holds {FILES[form.kind]}; `classes.json` holds the class names"
            f" in the order of the scores{_where(form)}.",
            "",
            "## Use",
            "",
            f"In this folder, without hamcl: {manner(learned, form, folder)}. {PRECISION}",
            "",
            *([f"{PREPARE}{NOTHING_ELSE if form.kind == 'merged' else ''}.", ""] if images else []),
            "```python",
            usage(learned, form, folder).rstrip(),
            "```",
            "",
            "## Tasks",
            "",
            *_tasks(learned, card),
            "",
            *_metrics(card),
            "## Settings",
            "",
            "```json",
            json.dumps(dict(learned.config), indent=1, default=str),
            "```",
            "",
            f"Base model: `{_line(learned.merged.spec)}`, sha256 of its weights `{learned.fingerprint}`.",
            "",
            "## Versions",
            "",
            ", ".join(f"{name} {_version(name)}" for name in _packages(learned, form)),
            "",
        ]
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _header(learned: Learned, form: Form, card: Card) -> dict[str, Any]:
    """The metadata of the hub."""
    backbone = learned.merged
    header: dict[str, Any] = {}
    if card.license:
        header["license"] = card.license
    kind, _, name = backbone.spec.partition("/")
    if kind in ("hf", "timm"):
        header["base_model"] = name if kind == "hf" else backbone.spec
    header["library_name"] = {"merged": library(backbone.module), "onnx": "onnx"}.get(form.kind, "peft")
    header["pipeline_tag"] = "text-classification" if backbone.modality == "text" else "image-classification"
    return {**header, "tags": ["continual-learning", "lora", "hamcl"]}


def _title(learned: Learned) -> str:
    name = Path(learned.merged.spec).name
    return f"{name} for {_count(len(learned.classes), 'class', 'classes')}"


def _where(form: Form) -> str:
    if form.kind == "onnx":
        return ", `preprocessing.json` how inputs are prepared"
    return "" if form.stock else ", `head.safetensors` the classifier"


def _tasks(learned: Learned, card: Card) -> list[str]:
    group_of = {task: j for j, group in enumerate(learned.groups) for task in group.tasks}
    measured = bool(card.accuracy)
    rows = ["| task | group | classes |" + " accuracy |" * measured, "|---|---|---|" + "---|" * measured]
    for task, classes in learned.tasks:
        cells = [task, str(group_of.get(task, "")), ", ".join(classes)]
        if measured:
            cells.append(f"{100 * card.accuracy[task]:.1f} %" if task in card.accuracy else "")
        rows.append("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in cells) + " |")
    return rows


def _metrics(card: Card) -> list[str]:
    if not card.metrics:
        return []
    rows = [f"| {_line(name)} | {value:.4g} |" for name, value in card.metrics.items()]
    return ["## Metrics", "", "| metric | value |", "|---|---|", *rows, ""]


def _packages(learned: Learned, form: Form) -> list[str]:
    own = {library(learned.merged.module)} & {"timm", "transformers"}
    return sorted({"safetensors", *own, *PACKAGES[form.kind]})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from its sources
        return "(unknown)"


def _line(text: str) -> str:
    """Text from outside on one line."""
    return " ".join(text.split())


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"

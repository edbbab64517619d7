"""What was learned in the formats of other libraries, each with its class names and a model card."""

from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from hamcl.errors import UsageError
from hamcl.export.card import write_card
from hamcl.export.learned import Card, Kind, Learned
from hamcl.export.parts import CLASSES, export_classes, export_head, export_peft, save_inputs, save_merged
from hamcl.export.remote import write_remote
from hamcl.export.stock import Stock, library, stock_classifier
from hamcl.export.usage import Form, manner
from hamcl.files import check_folder, new_folder
from hamcl.ham import final


def export(
    learned: Learned, path: str | Path, kind: Kind, *, card: Card | None = None, overwrite: bool = False
) -> str:
    """Write a learned model into a new folder, whole or not at all.

    | kind | files besides `classes.json` and `README.md` |
    |---|---|
    | peft | one LoRA adapter of all groups: `adapter_config.json`, `adapter_model.safetensors` |
    | merged | the backbone with the adapter added, as transformers or timm save it |
    | onnx | `model.onnx` from prepared inputs to scores, `preprocessing.json` |
    | adapters | a LoRA adapter for each group, `group-0/`, `group-1/`, ..., which add up to that of peft |

    The head is the classifier inside the model where the library's own classification model gives the same scores
    (a linear head on the features that its classifier sees); otherwise it lies beside it as `head.safetensors`. The
    code in `README.md` gets the scores with the stock library alone.

    Args:
        kind: what to write.
        card: what the model card says besides what the model knows of itself.
        overwrite: replace an earlier export.

    Returns:
        How it is used, in one line: what loads it whole, or that its scores need the code in the card.

    Raises:
        UsageError: the folder is not empty, or the backbone cannot be written as this kind.
    """
    check(path, kind, overwrite=overwrite)
    if kind != "onnx" and library(learned.merged.module) not in ("timm", "transformers"):
        raise UsageError(
            f"backbone {learned.merged.spec!r} is neither a timm nor a transformers model; export it as onnx"
        )
    with new_folder(Path(path).expanduser()) as folder:
        export_classes(folder, learned.classes)
        form = Form(kind, _write(learned, folder, kind))
        write_card(folder, learned, form, card or Card())
        return manner(learned, form, folder)


def check(path: str | Path, kind: Kind, *, overwrite: bool = False) -> None:
    """Refuse what would stop an export at its end, before any work is done.

    Raises:
        UsageError: there is no such kind, a package is missing, or `path` is no place for a folder, or holds something
            and is not to be replaced or is no export.
        DataError: nothing can be written there.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"there is no export {kind!r}; choose {', '.join(get_args(Kind))}")
    missing = [name for name in ("onnx", "onnxscript") if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise UsageError(f"an onnx export needs the package {missing[0]}: pip install 'hamcl[onnx]'")
    place = Path(path).expanduser()
    if place.is_dir() and any(place.iterdir()):
        if not overwrite:
            raise UsageError(
                f"{place} is not empty; choose a new folder, or replace an earlier export with overwrite=True"
            )
        if not (place / CLASSES).is_file():  # which every export holds
            raise UsageError(f"{place} holds no earlier export, so it is not replaced; choose a new folder")
    check_folder(place)


def _write(learned: Learned, folder: Path, kind: Kind) -> Stock | None:
    """The files of one kind; returns the library's classification model where the head is its classifier."""
    if kind == "onnx":
        # PyTorch's exporter takes seconds to import, and an extra that not everyone has.
        from hamcl.export.onnx import save_onnx

        save_onnx(folder, learned)
        return None
    merged, stock = learned.merged, None
    if kind != "adapters":
        stock = stock_classifier(merged, learned.head, learned.classes, normalize=learned.normalize)
    if kind == "peft" and stock and _ambiguous(stock):
        stock = None
    if kind == "merged":
        save_merged(folder, merged, classes=learned.classes, stock=stock, augmentation=learned.augmentation)
        if stock is None or merged.modality == "image":
            write_remote(folder, learned, stock)
    else:
        header = {"base": merged.spec, "base_fingerprint": learned.fingerprint}
        if kind == "peft":
            export_peft(folder, final(learned.groups), merged, stock=stock, metadata=header)
        for j, group in enumerate(learned.groups if kind == "adapters" else ()):
            metadata = {**header, "tasks": ", ".join(group.tasks)}
            export_peft(folder / f"group-{j}", final([group]), merged, metadata=metadata)
        save_inputs(folder, merged, learned.augmentation)
    if stock is None:
        export_head(folder, learned.head, learned.classes, normalize=learned.normalize)
    return stock


def _ambiguous(stock: Stock) -> bool:
    """Whether PEFT, which compares endings, would take other modules for the classifier too."""
    names = [name for name, _ in stock.module.named_modules() if name.endswith(stock.classifier)]
    return names != [stock.classifier]


__all__ = ["Card", "Kind", "Learned", "check", "export"]

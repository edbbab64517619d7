"""`folder:PATH`: one sub-folder of images for each class, with or without `train/` and `test/` (or `val/`) above."""

import re
from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams import walk
from hamcl.streams.lazy import Lazy, image_files
from hamcl.streams.source import TEST_SPLITS, Request, Source, title
from hamcl.streams.walk import LeftOut
from hamcl.words import listed

# Names of split folders, whatever their case, and the split they are.
_SPLITS = {"train": "train", "training": "train", "testing": "test"} | {name: name for name in TEST_SPLITS}
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xls", ".xlsx"}


def load(request: Request) -> Source:
    """Return the images below a folder; the class names are the names of the sub-folders."""
    return read(request.path())


def read(path: Path) -> Source:
    """Return the images below `path`; what is left out is noted.

    Raises:
        DataError: the layout is none of those above, a class folder holds no image, or a test class is not a training
            class.
    """
    left = LeftOut(path)
    notes: list[str] = []
    folders = _folders(path, LeftOut(path))
    splits = _splits(folders)
    train = splits.get("train", [])
    if not any(_filled(folder) for folder in train):  # else "train" is a class, beside "bus" and "ship"
        found = labelled(path, left, notes)
        return Source.build(title(path), found, augmentation="photo", notes=[*notes, *left.notes()])
    if len(train) > 1:
        raise DataError(f"{path} holds two training splits, {_names(train)}; keep one of them")
    held_out = None
    for name in TEST_SPLITS:
        for folder in splits.get(name, []):
            if held_out is None and _filled(folder):
                held_out = folder
            elif walk.holds_images(folder):
                left.add(walk.UNUSED if _filled(folder) else walk.UNLABELLED, folder)
    for folder in _folders(path, left):
        if folder not in [other for found in splits.values() for other in found] and walk.holds_images(folder):
            left.add(walk.BESIDE, folder)
    _beside(path, left)
    if train[0].name != "train" or (held_out and held_out.name not in TEST_SPLITS):
        test = f", {held_out.name}/ for the test split" if held_out else ""
        notes.append(f"{train[0].name}/ is taken for the training split{test}")
    return Source.build(
        title(path),
        labelled(train[0], left, notes),
        labelled(held_out, left, notes) if held_out else ((), ()),
        augmentation="photo",
        notes=[*notes, *left.notes()],
    )


def labelled(path: Path, left: LeftOut, notes: list[str]) -> tuple[Lazy, list[str]]:
    """The images in all class folders below `path`, sorted by class and file name, and their classes.

    `left` is told of what is left out, `notes` takes what else is worth a sentence.
    """
    files: list[Path] = []
    names: list[str] = []
    nested: dict[Path, set[str]] = {}
    for folder in _folders(path, left):
        found = walk.images(folder, left)
        if not found:
            alone = LeftOut(folder)
            walk.images(folder, alone)
            why = f" ({'; '.join(alone.notes())})" if alone.found else ""
            raise DataError(f"the class folder {folder} holds no image{why}; add some or remove the folder")
        nested[folder] = {inner for file in found if (inner := file.relative_to(folder).parts[0]) != file.name}
        files += found
        names += [folder.name] * len(found)
    _beside(path, left)
    if not files:
        raise DataError(f"{path} holds no class folders; put the images of each class into a sub-folder of its name")
    _check_layout(path, nested, files)
    if inside := [f"{folder.name}/{inner}" for folder, inners in nested.items() for inner in sorted(inners)]:
        notes.append(f"images in folders inside a class folder are taken for images of that class: {listed(inside)}")
    return image_files(files), names


def class_folders(path: Path) -> list[Path]:
    """The folders in a folder that hold images, not knowing whether they are classes or splits."""
    return [folder for folder in walk.subfolders(path, LeftOut(path)) if walk.holds_images(folder)]


def is_layout(path: Path) -> bool:
    """Whether a folder that may also hold tables is one of class folders: two at least, or below `train/`."""
    found = class_folders(path)
    return any(_filled(folder) for folder in _splits(found).get("train", [])) or (len(found) > 1 and not _flat(found))


def _flat(folders: list[Path]) -> bool:
    """Whether folders are splits of images without classes, whose labels stand elsewhere."""
    return _are_splits([folder.name for folder in folders]) and not any(map(_filled, folders))


def _check_layout(path: Path, nested: dict[Path, set[str]], files: list[Path]) -> None:
    """Refuse folders that are splits or wrappers rather than classes."""
    folders = list(nested)
    if _are_splits([folder.name for folder in folders]):
        raise DataError(
            f"{path} holds {_names(folders)}, by name splits and not classes; call the training split train/ and the "
            "test split test/, with a folder of images for each class in them, or give one of the folders"
        )
    if any(file.parent in nested for file in files):
        return
    inner = sorted(name for names in nested.values() for name in names)
    if len(folders) == 1:
        raise DataError(
            f"{path} holds the one folder {folders[0].name}/, in which there are only folders ({listed(inner)}); give "
            f"{folders[0]} if they are the classes, or put the images right into it if it is the class"
        )
    repeated = sorted({name for name in inner if inner.count(name) > 1})
    if len(repeated) > 1:
        raise DataError(
            f"{path} holds {_names(folders)}, in which there are only folders, some of the same names "
            f"({listed(repeated)}), so it is not clear which are the classes; give one folder of class folders, or "
            "put the images of each class right into its folder"
        )


def _are_splits(names: list[str]) -> bool:
    """Whether folders are called train and test, or the same with one more word: seg_train, seg_test."""
    rests = set()
    for name in names:
        words = re.split(r"[^a-z]+", name.casefold())
        rest = [word for word in words if word not in _SPLITS]
        if len(rest) == len(words):
            return False
        rests.add(" ".join(rest))
    return len(rests) == 1 and (len(names) > 1 or rests == {""})


def _folders(path: Path, left: LeftOut) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give a folder with one sub-folder for each class")
    return walk.subfolders(path, left)


def _splits(folders: list[Path]) -> dict[str, list[Path]]:
    """The folders whose names are those of splits, by split."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        if split := _SPLITS.get(folder.name.casefold()):
            found.setdefault(split, []).append(folder)
    return found


def _filled(folder: Path) -> bool:
    """Whether a folder holds folders with images."""
    return bool(class_folders(folder))


def _beside(path: Path, left: LeftOut) -> None:
    """Tell of images and tables that lie beside class folders."""
    for entry in walk.entries(path):
        if entry.is_dir() or entry.name.startswith("."):
            continue
        if walk.is_image(entry.name):
            left.add(walk.LOOSE, Path(entry.path))
        elif Path(entry.name).suffix.lower() in _TABLES:
            left.add(walk.TABLES, Path(entry.path))


def _names(folders: list[Path]) -> str:
    return listed([f"{folder.name}/" for folder in folders])

"""`folder:PATH`: one sub-folder of images for each class, with or without `train/` and `test/` (or `val/`) above."""

from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams.lazy import Lazy, image_files
from hamcl.streams.pixels import SUFFIXES
from hamcl.streams.source import Request, Source, test_split, title


def load(request: Request) -> Source:
    """Return the images below a folder; the class names are the names of the sub-folders."""
    return read(request.path())


def read(path: Path) -> Source:
    """Return the images below `path`; files that are not images by their suffix are left alone.

    Raises:
        DataError: there is no class folder, one holds no image, or a test class is not a training class.
    """
    splits = {child.name: child for child in _folders(path)}
    if "train" in splits and _folders(splits["train"]):  # else "train" is a class, beside "bus" and "ship"
        held_out = test_split(splits)
        return Source.build(
            title(path),
            labelled(splits["train"]),
            labelled(splits[held_out]) if held_out else ((), ()),
            augmentation="photo",
        )
    return Source.build(title(path), labelled(path), augmentation="photo")


def labelled(path: Path) -> tuple[Lazy, list[str]]:
    """Return the images in all class folders below `path`, sorted by class and file name, and their classes."""
    files: list[Path] = []
    names: list[str] = []
    for folder in _folders(path):
        found = images(folder)
        if not found:
            raise DataError(f"the class folder {folder} holds no image; add some or remove the folder")
        files += found
        names += [folder.name] * len(found)
    if not files:
        raise DataError(f"{path} holds no class folders; put the images of each class into a sub-folder of its name")
    return image_files(files), names


def images(folder: Path) -> list[Path]:
    """Return the image files anywhere below a folder, sorted; hidden files are left alone."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted((file for file in found if file.is_file()), key=lambda file: file.relative_to(folder).as_posix())


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give a folder with one sub-folder for each class")
    hidden = (".", "__")
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith(hidden))

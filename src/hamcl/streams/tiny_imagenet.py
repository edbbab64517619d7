"""`tiny-imagenet`: Tiny-ImageNet (Le and Yang, 2015); 200 classes, 500 training and 50 validation images each."""

from pathlib import Path

from hamcl.streams import local, walk
from hamcl.streams.lazy import image_files
from hamcl.streams.source import Request, Source

HUB_ID = "zh-plus/tiny-imagenet"


def load(request: Request) -> Source:
    """Return Tiny-ImageNet from a local copy (the official folder, parquet, or class folders) or from the hub.

    The validation images are the test split: those of the official test split have no labels. Classes are named
    "wnid name" in the order of `wnids.txt`.
    """
    return local.benchmark(
        request,
        _official,
        "tiny-imagenet",
        "Tiny-ImageNet",
        hub_id=HUB_ID,
        place="tiny-imagenet-200",
        mark="wnids.txt",
    )


def _official(path: Path) -> Source:
    wnids = (path / "wnids.txt").read_text().split()
    if len(set(wnids)) < len(wnids):
        raise ValueError("class names repeat")
    rows = [line.split("\t") for line in (path / "words.txt").read_text().splitlines()]
    validation = [line.split("\t")[:2] for line in (path / "val" / "val_annotations.txt").read_text().splitlines()]
    words = {wnid: synonyms.split(",")[0] for wnid, synonyms in rows}
    names = {wnid: f"{wnid} {words[wnid]}" for wnid in wnids}
    test_files = [path / "val" / "images" / file for file, _ in validation]
    test_labels = [names[wnid] for _, wnid in validation]
    files = {wnid: walk.images(path / "train" / wnid) for wnid in wnids}
    train_files = [file for wnid in wnids for file in files[wnid]]
    train_labels = [names[wnid] for wnid in wnids for _ in files[wnid]]
    return Source.build(
        "tiny-imagenet",
        (image_files(train_files), train_labels),
        (image_files(test_files), test_labels),
        order=names.values(),
        augmentation="photo",
    )

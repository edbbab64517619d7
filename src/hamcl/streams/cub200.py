"""`cub200`: Caltech-UCSD Birds 200-2011 (Wah et al., 2011); 200 bird species, 5,994 training and 5,794 test images."""

from dataclasses import replace
from pathlib import Path

from hamcl.streams import local
from hamcl.streams.lazy import image_files
from hamcl.streams.source import Request, Source

HUB_ID = "bentrevett/caltech-ucsd-birds-200-2011"


def load(request: Request) -> Source:
    """Return CUB-200-2011 from a local copy (the official folder, parquet, or class folders) or from the hub.

    Classes have their official names ("001.Black_footed_Albatross"); the superclass is the last word ("Albatross").
    """
    source = local.benchmark(
        request, _official, "cub200", "CUB-200-2011", hub_id=HUB_ID, place="CUB_200_2011", mark="images.txt"
    )
    kinds = {name: name.rpartition(".")[2].rpartition("_")[2] for name in source.classes}
    return replace(source, superclasses=kinds)


def _official(path: Path) -> Source:
    classes, labels, files, trained = (
        dict(line.split(maxsplit=1) for line in (path / f"{name}.txt").read_text().splitlines() if line.strip())
        for name in ("classes", "image_class_labels", "images", "train_test_split")
    )
    if len(set(classes.values())) < len(classes):
        raise ValueError("class names repeat")
    splits: dict[str, tuple[list[Path], list[str]]] = {"1": ([], []), "0": ([], [])}
    for image, file in files.items():
        paths, names = splits[trained[image].strip()]
        paths.append(path / "images" / file.strip())
        names.append(classes[labels[image].strip()].strip())
    (train, train_names), (test, test_names) = splits["1"], splits["0"]
    return Source.build(
        "cub200",
        (image_files(train), train_names),
        (image_files(test), test_names),
        order=(name.strip() for name in classes.values()),
        augmentation="photo",
    )

"""Tiny images and sources, made on the spot."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hamcl.streams import Samples, Source


class Tiny:
    """Makes the smallest data sets of each kind; a flat grey image is told from others by its shade."""

    @staticmethod
    def image(shade: int, format: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", size, (shade, shade, shade)).save(stream, format)
        return stream.getvalue()

    @staticmethod
    def shade(image: object) -> int:
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        return int(np.asarray(image)[0, 0, 0])

    @classmethod
    def contents(cls, samples: Samples) -> list[tuple[object, int]]:
        """The samples in their order as (text or shade, label)."""
        pairs = zip(samples.inputs, samples.labels, strict=True)
        return [(x if isinstance(x, str) else cls.shade(x), y) for x, y in pairs]

    @classmethod
    def named(cls, source: Source, split: str) -> list[tuple[object, str]]:
        """One split of a source as (text or shade, class name)."""
        return [(x, source.classes[y]) for x, y in cls.contents(getattr(source, split))]

    @staticmethod
    def source(sizes: Mapping[str, tuple[int, int]], superclasses: Mapping[str, str] | None = None) -> Source:
        """Texts "class/split/i" with (train, test) samples of each class, the classes interleaved."""

        def part(split: str, which: int) -> tuple[list[str], list[str]]:
            most = max(counts[which] for counts in sizes.values())
            rows = [(name, i) for i in range(most) for name, counts in sizes.items() if i < counts[which]]
            return [f"{name}/{split}/{i}" for name, i in rows], [name for name, _ in rows]

        return Source.build(
            "made", part("train", 0), part("test", 1), order=sizes, modality="text", superclasses=superclasses
        )

    @classmethod
    def folders(cls, root: Path, counts: Mapping[str, int], first: int = 0) -> None:
        """PNG files "name/i.png" below `root`; the shades count up over all classes."""
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for i in range(count):
                (root / name / f"{i}.png").write_bytes(cls.image(first + i))
            first += count

    @staticmethod
    def parquet(
        path: Path,
        images: Sequence[bytes | None],
        labels: Sequence[int | None],
        names: Sequence[str] | None,
        coarse: tuple[Sequence[int], Sequence[str]] | None = None,
    ) -> None:
        """A file as the `datasets` library writes it: class names in the schema's metadata."""
        features: dict[str, object] = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
        if names is not None:
            features["label"] = {"names": list(names), "_type": "ClassLabel"}
        structs = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
        columns = {
            "image": pa.array(structs, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array(labels, pa.int64()),
        }
        if coarse:
            columns["coarse_label"] = pa.array(coarse[0], pa.int64())
            features["coarse_label"] = {"names": list(coarse[1]), "_type": "ClassLabel"}
        table = pa.table(columns).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=2)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def real(shared_data: Path) -> Callable[[str], Path]:
    """Return the folder of a real data set by name, or skip."""

    def find(name: str) -> Path:
        if not (shared_data / name).is_dir():
            pytest.skip(f"the data set {name} is not in {shared_data}")
        return shared_data / name

    return find

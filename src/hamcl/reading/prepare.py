"""From one input of a task to what a backbone reads: images become tensors, texts become token ids."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor

from hamcl.errors import DataError
from hamcl.reading._torchvision import ensure_torchvision
from hamcl.streams.base import Augmentation, Modality
from hamcl.streams.names import is_unicode
from hamcl.streams.pixels import rgb

# Also when this module is imported by a worker process that unpickles a transform.
ensure_torchvision()

from torchvision.transforms import InterpolationMode, v2  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402

Tokens = dict[str, Tensor]

# Of a long text so much is read first; words of a natural text make a token from some five characters.
CHARACTERS_PER_TOKEN = 16
MOST_CHARACTERS = 2**20

PREPARATION = "preprocessing.json"
"""The file of an export that says how inputs are prepared."""

LONGEST = 16
"""Of a photograph longer than this many times its shorter side the middle is taken before its size is changed."""

WIDEST = 4096
"""Handwriting longer than this, in pixels, is shrunk to it before it is padded to a square."""


class Preprocess(ABC):
    """How a backbone wants its inputs. Random draws of training transforms come from torch's global generator."""

    modality: ClassVar[Modality]

    @abstractmethod
    def transform(self, train: bool, augmentation: Augmentation) -> Callable[[Any], Any]:
        """The function from one input to one item; it raises DataError for an input of another modality."""

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """A batch of items as the keyword arguments of the backbone."""

    @abstractmethod
    def length(self, item: Any) -> int:
        """The size of an item that decides its cost, for batches of similar items."""

    @abstractmethod
    def example(self, count: int) -> dict[str, Tensor]:
        """A batch of that many equal samples, to try the backbone with."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The settings as JSON-able values."""

    @abstractmethod
    def steps(self, augmentation: Augmentation) -> list[str]:
        """What evaluation does with an input, in words for somebody who does it without hamcl."""


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """Images to normalised float tensors (3, size, size).

    Evaluation keeps all of a square image and the middle of any other. Photographs larger than `size` are cut as in
    pre-training: the shorter side becomes `size / crop_pct`, then the centre is kept. Handwriting is never cut: it is
    padded to a square with its background.

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, for intensities in 0..1.
        interpolation: of every change of size.
        crop_pct: the part of the shorter side that survives the centre crop of a photograph.
    """

    modality: ClassVar[Modality] = "image"

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875

    def transform(self, train: bool, augmentation: Augmentation) -> Callable[[Any], Tensor]:
        mode = InterpolationMode(self.interpolation)
        steps: list[Callable[[Any], Any]] = []
        if augmentation == "handwriting":
            steps.append(to_square)
            if train:
                steps.append(Wobble())
        if train and augmentation == "photo":
            steps += [
                v2.RandomResizedCrop(self.size, scale=(0.35, 1.0), interpolation=mode),
                v2.RandomHorizontalFlip(),
            ]
        else:
            steps.append(Fit(self.size, mode, self.crop_pct if augmentation == "photo" else 1.0))
        return ImageTransform(steps, self.mean, self.std)

    def collate(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack(list(items)).contiguous(memory_format=torch.channels_last)}

    def length(self, item: Tensor) -> int:
        return item.shape[-1] * item.shape[-2]

    def example(self, count: int) -> dict[str, Tensor]:
        noise = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(0))
        return self.collate([noise] * count)

    def describe(self) -> dict[str, Any]:
        return {"modality": self.modality, **asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def steps(self, augmentation: Augmentation) -> list[str]:
        square = [
            f"shrink to {WIDEST} pixels if the longer side has more",
            "pad the shorter side to a square with the border's median colour",
        ]
        cut = f"{round(self.size / self.crop_pct)} if it is longer than {self.size}, else {self.size}"
        return [
            "of several frames or pages take the first; turn it upright as its EXIF orientation says",
            "scale 16-bit grey, 32-bit integers and floats to 0..255 from the smallest of 0..255, 0..4095 and 0..65535"
            " that holds the largest value, floats from 0..1 if none is above 1",
            "lay what is transparent onto white",
            "convert to RGB",
            *(square if augmentation == "handwriting" else []),
            f"crop the middle, {LONGEST} times as long as the shorter side, if it is longer",
            f"resize: the shorter side to {cut if augmentation == 'photo' else self.size}",
            f"crop the centre of {self.size} x {self.size}",
            "divide by 255, subtract mean and divide by std for each channel",
            "order as channels, rows, columns",
        ]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The settings in a folder's `preprocessing.json`, which every export of images holds; None without that file.

        Raises:
            DataError: it is not what an export writes.
        """
        path = folder / PREPARATION
        if not path.is_file():
            return None
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            values: dict[str, Any] = {field.name: settings[field.name] for field in fields(cls)}
            values |= {name: tuple(values[name]) for name in ("mean", "std")}
            found = cls(**values)
            if not (type(found.size) is int and found.size > 0 and 0 < found.crop_pct <= 1):
                raise ValueError("size or crop_pct is out of range")
            if not (len(found.mean) == len(found.std) == 3 and all(map(math.isfinite, found.mean + found.std))):
                raise ValueError("mean and std are not three numbers each")
            if min(found.std) <= 0:
                raise ValueError("std is not positive")
            InterpolationMode(found.interpolation)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            what = f"{path} does not say how images are prepared"
            raise DataError(f"{what} ({type(error).__name__}: {error}); export the model again") from error
        return found


class ImageTransform:
    """The image transform: steps on the PIL image, then a normalised tensor."""

    def __init__(self, steps: Sequence[Callable[[Any], Any]], mean: Sequence[float], std: Sequence[float]) -> None:
        self.steps = tuple(steps)
        # For intensities in 0..255, so that one pass over the pixels is enough.
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255
        self.scale = 1 / (torch.tensor(std).view(3, 1, 1) * 255)

    def __call__(self, image: Any) -> Tensor:
        if not isinstance(image, Image.Image):
            raise DataError(
                f"this backbone reads images, but the input is {_short(image)}: choose a text backbone "
                "(for example minilm) or an image stream"
            )
        image = rgb(image)
        for step in self.steps:
            image = step(image)
        return F.pil_to_tensor(image).float().sub_(self.mean).mul_(self.scale)


@dataclass(frozen=True)
class Fit:
    """Resize and centre crop to (size, size); larger images lose their margin if `crop_pct` < 1."""

    size: int
    mode: InterpolationMode
    crop_pct: float

    def __call__(self, image: Image.Image) -> Image.Image:
        shorter = min(image.size)
        if max(image.size) > LONGEST * shorter:
            image = middle(image)
        if self.crop_pct < 1 and shorter > self.size:
            target = round(self.size / self.crop_pct)
        elif image.width == image.height:
            return image if shorter == self.size else F.resize(image, [self.size, self.size], self.mode)
        else:
            target = self.size
        return F.center_crop(F.resize(image, [target], self.mode), [self.size, self.size])


def middle(image: Image.Image) -> Image.Image:
    """The middle of a long image, `LONGEST` times as long as its shorter side."""
    x, y = (max(0, side - LONGEST * min(image.size)) // 2 for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


def to_square(image: Image.Image) -> Image.Image:
    """The image, its shorter side padded evenly with the background."""
    if image.width == image.height:
        return image
    if max(image.size) > WIDEST:
        image = image.resize([max(1, round(side * WIDEST / max(image.size))) for side in image.size])
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), background(image))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


@dataclass(frozen=True)
class Wobble:
    """A small random affine map: rotation and shear (degrees), scaling and shift (part of the side)."""

    degrees: float = 10.0
    shear: float = 8.0
    scale: tuple[float, float] = (0.85, 1.15)
    shift: float = 0.08

    def __call__(self, image: Image.Image) -> Image.Image:
        angle, shear, x, y = (2 * torch.rand(4) - 1).tolist()
        low, high = self.scale
        return F.affine(
            image,
            angle=self.degrees * angle,
            translate=[round(self.shift * image.width * x), round(self.shift * image.height * y)],
            scale=low + (high - low) * torch.rand(()).item(),
            shear=[self.shear * shear, 0.0],
            interpolation=InterpolationMode.BILINEAR,
            fill=[float(value) for value in background(image)],
        )


def background(image: Image.Image) -> tuple[int, ...]:
    """The median colour of the border, per channel."""
    pixels = F.pil_to_tensor(image)
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    return tuple(border.median(dim=1).values.tolist())


@dataclass(frozen=True)
class TextPreprocess(Preprocess):
    """Texts to token ids, cut to `max_length` tokens (special tokens included).

    Attributes:
        tokenizer: a transformers tokenizer.
        inputs: what the backbone takes of the tokenizer's output.
    """

    modality: ClassVar[Modality] = "text"

    tokenizer: Any
    max_length: int
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def transform(self, train: bool, augmentation: Augmentation) -> Callable[[Any], Tokens]:
        return self.tokens

    def collate(self, items: Sequence[Tokens]) -> dict[str, Tensor]:
        """Pad on the right: every key of the items as (n, longest), int64."""
        padding = {"input_ids": self.tokenizer.pad_token_id or 0}
        return {
            key: torch.nn.utils.rnn.pad_sequence([item[key] for item in items], True, padding.get(key, 0))
            for key in items[0]
        }

    def length(self, item: Tokens) -> int:
        return item["input_ids"].shape[0]

    def example(self, count: int) -> dict[str, Tensor]:
        return self.collate([self.transform(False, "none")("one example")] * count)

    def describe(self) -> dict[str, Any]:
        return {"modality": self.modality, "max_length": self.max_length, "vocabulary": len(self.tokenizer)}

    def steps(self, augmentation: Augmentation) -> list[str]:
        return ["tokenize with the files beside this one", "cut to max_length", "pad on the right"]

    def tokens(self, text: Any) -> Tokens:
        """One text as 1-D int64 tensors, unpadded; DataError: it is none, not Unicode, too long, or has no token."""
        if not isinstance(text, str):
            raise DataError(
                f"this backbone reads texts, but the input is {_short(text)}: choose an image backbone "
                "(for example efficientnet-lite0) or a text stream"
            )
        if not is_unicode(text):
            raise DataError(
                f"the text {text[:40]!r} holds half a character (a lone surrogate), such as a cut emoji: mend it or "
                "leave it out"
            )
        encoded = self._encoded(text)
        if not encoded["input_ids"]:
            raise DataError(f"the text {text[:40]!r} has no tokens: leave empty texts out")
        return {key: torch.tensor(encoded[key]) for key in self.inputs if key in encoded}

    def _encoded(self, text: str) -> Any:
        """What the tokenizer gives for the whole text, of which it reads no more than that takes.

        A tokenizer reads all of a text (some 200 bytes of memory a character) and drops what is too much. So a part
        is read, and one of twice the length: where both fill `max_length` with the same tokens, none of them depends
        on what follows. A part that does not (blanks, one endless word) is made longer.
        """
        size = CHARACTERS_PER_TOKEN * self.max_length
        cut_at_the_end = self.tokenizer.truncation_side == "right"
        while cut_at_the_end and 2 * size <= min(len(text), MOST_CHARACTERS):
            part = self._tokens(text[:size])
            if len(part["input_ids"]) >= self.max_length:
                longer = self._tokens(text[: 2 * size])
                if part["input_ids"] == longer["input_ids"]:
                    return part
            size *= 4
        if len(text) > MOST_CHARACTERS:
            raise DataError(
                f"the text {text[:40]!r} has {len(text):,} characters, too many to find its {self.max_length} tokens "
                f"in ({MOST_CHARACTERS:,} are read); shorten it or leave it out"
            )
        return self._tokens(text)

    def _tokens(self, text: str) -> Any:
        return self.tokenizer(
            text, truncation=True, max_length=self.max_length, padding=False, return_attention_mask=True
        )


def _short(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"an image of {value.width} x {value.height}" if isinstance(value, Image.Image) else type(value).__name__

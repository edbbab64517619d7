"""Images become normalised tensors, texts become token ids; what belongs to another modality is refused."""

import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from hamcl.errors import DataError
from hamcl.reading.prepare import ImagePreprocess, TextPreprocess, background
from hamcl.rng import scoped

AUGMENTATIONS = ("none", "photo", "handwriting")
WORDS = ("[PAD]", "[UNK]", "the", "fat", "cat", "sat")


def stripes(width: int, height: int) -> Image.Image:
    """Column x has the colour (x, 0, 255 - x), so positions can be read from the pixels."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x, 0, 255 - x) for _ in range(height) for x in range(width)])
    return image


def unit(size: int, **options: float) -> ImagePreprocess:
    """Tensors hold the intensities in 0..1, so that tests can read them."""
    return ImagePreprocess(size, mean=(0, 0, 0), std=(1, 1, 1), **options)


@pytest.fixture
def text() -> TextPreprocess:
    from hamcl.reading._torchvision import ensure_torchvision

    ensure_torchvision()
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return TextPreprocess(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"), max_length=3
    )


def test_pixels_are_normalised_per_channel() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    image = Image.new("RGB", (8, 8), (51, 102, 153))
    tensor = ImagePreprocess(8, mean, std).transform(False, "none")(image)
    assert tensor.shape == (3, 8, 8) and tensor.dtype == torch.float32
    expected = [(v / 255 - m) / s for v, m, s in zip((51, 102, 153), mean, std, strict=True)]
    torch.testing.assert_close(tensor, torch.tensor(expected).view(3, 1, 1).expand(3, 8, 8))


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    size=st.integers(4, 40),
    train=st.booleans(),
    augmentation=st.sampled_from(AUGMENTATIONS),
    mode=st.sampled_from(["RGB", "L", "1", "RGBA", "P", "CMYK"]),
)
def test_any_image_becomes_a_square_of_the_size(
    width: int, height: int, size: int, train: bool, augmentation: str, mode: str
) -> None:
    image = stripes(width, height).convert(mode)
    tensor = ImagePreprocess(size).transform(train, augmentation)(image)
    assert tensor.shape == (3, size, size)
    assert tensor.isfinite().all() and tensor.abs().max() <= 1


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_image_of_the_size_is_kept_as_it_is(augmentation: str) -> None:
    tensor = unit(20).transform(False, augmentation)(stripes(20, 20))
    torch.testing.assert_close(tensor[0] * 255, torch.arange(20.0).expand(20, 20))


def test_larger_photographs_lose_their_margin_and_others_do_not() -> None:
    image = stripes(100, 100)
    kept = {
        augmentation: unit(50, crop_pct=0.8).transform(False, augmentation)(image)[0, 25] * 255
        for augmentation in AUGMENTATIONS
    }
    assert kept["photo"][0] == pytest.approx(10, abs=2) and kept["photo"][-1] == pytest.approx(89, abs=2)
    for augmentation in ("none", "handwriting"):
        assert kept[augmentation][0] == pytest.approx(0, abs=2)
        assert kept[augmentation][-1] == pytest.approx(99, abs=2)


def test_the_middle_of_a_long_photograph_is_kept() -> None:
    row = unit(10, crop_pct=1.0).transform(False, "photo")(stripes(30, 10))[0, 5] * 255
    torch.testing.assert_close(row, torch.arange(10.0, 20.0))


def test_handwriting_is_padded_with_its_background_and_never_cut() -> None:
    page = Image.new("RGB", (40, 20), (250, 240, 230))
    page.paste((0, 0, 0), (0, 8, 40, 12))
    tensor = unit(40).transform(False, "handwriting")(page) * 255
    assert background(page) == (250, 240, 230)
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([250.0, 240.0, 230.0]))
    assert (tensor[0] == 0).sum() == 40 * 4


def test_handwriting_moves_a_little_on_its_own_background_and_is_never_mirrored() -> None:
    page = Image.new("RGB", (64, 64), (200, 210, 220))
    page.paste((0, 0, 0), (8, 24, 24, 40))  # a blot in the left half
    transform = unit(64).transform(True, "handwriting")
    with scoped(0, "test"):
        views = torch.stack([transform(page) for _ in range(20)]) * 255
    assert len({view.numpy().tobytes() for view in views}) == 20
    for corner in (views[:, :, 0, 0], views[:, :, -1, -1]):
        torch.testing.assert_close(corner, torch.tensor([200.0, 210.0, 220.0]).expand(20, 3))
    dark = 200 - views[:, 0]
    columns = (dark.sum(1) * torch.arange(64.0)).sum(1) / dark.sum((1, 2))
    assert (columns < 32).all()


def test_photographs_are_cropped_and_sometimes_mirrored() -> None:
    transform = unit(32).transform(True, "photo")
    with scoped(0, "test"):
        views = [transform(stripes(64, 64))[0, 16] for _ in range(30)]
    mirrored = [bool(row[0] > row[-1]) for row in views]
    assert 5 < sum(mirrored) < 25
    widths = [abs(row[-1] - row[0]).item() * 255 for row in views]
    assert max(widths) - min(widths) > 5


@pytest.mark.parametrize("augmentation", ["photo", "handwriting"])
def test_training_views_repeat_with_the_seed(augmentation: str) -> None:
    transform = ImagePreprocess(24).transform(True, augmentation)

    def views(seed: int) -> torch.Tensor:
        with scoped(seed, "views"):
            return torch.stack([transform(stripes(30, 30)) for _ in range(3)])

    assert torch.equal(views(1), views(1)) and not torch.equal(views(1), views(2))


def test_without_augmentation_training_equals_evaluation() -> None:
    image, preprocess = stripes(50, 30), ImagePreprocess(16)
    assert torch.equal(preprocess.transform(True, "none")(image), preprocess.transform(False, "none")(image))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_transforms_travel_to_worker_processes(augmentation: str) -> None:
    transform = ImagePreprocess(16).transform(True, augmentation)
    copy = pickle.loads(pickle.dumps(transform))
    with scoped(0, "test"):
        first = transform(stripes(20, 20))
    with scoped(0, "test"):
        assert torch.equal(copy(stripes(20, 20)), first)


def test_images_are_stacked() -> None:
    preprocess = ImagePreprocess(8)
    items = [preprocess.transform(False, "none")(stripes(n, n)) for n in (8, 12)]
    batch = preprocess.collate(items)
    assert list(batch) == ["pixel_values"] and torch.equal(batch["pixel_values"], torch.stack(items))
    assert preprocess.length(items[0]) == preprocess.length(items[1])


def test_texts_are_cut_and_padded_on_the_right(text: TextPreprocess) -> None:
    transform = text.transform(True, "none")
    items = [transform(t) for t in ("cat", "the fat cat sat", "fat dog")]
    assert [text.length(item) for item in items] == [1, 3, 2]
    batch = text.collate(items)
    assert batch["input_ids"].tolist() == [[4, 0, 0], [2, 3, 4], [3, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]


def test_the_batch_holds_what_the_backbone_takes(text: TextPreprocess) -> None:
    both = TextPreprocess(text.tokenizer, 3, ("input_ids", "attention_mask", "token_type_ids"))
    text.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert set(text.transform(False, "none")("cat")) == {"input_ids", "attention_mask"}
    assert set(both.transform(False, "none")("cat")) == {"input_ids", "attention_mask", "token_type_ids"}


@pytest.mark.parametrize("text_input", ["a cat", 3, None])
def test_an_image_backbone_refuses_what_is_no_image(text_input: object) -> None:
    with pytest.raises(DataError, match="reads images"):
        ImagePreprocess(8).transform(False, "none")(text_input)


@pytest.mark.parametrize("image_input", [Image.new("RGB", (7, 9)), 3, b"cat"])
def test_a_text_backbone_refuses_what_is_no_text(text: TextPreprocess, image_input: object) -> None:
    with pytest.raises(DataError, match="reads texts"):
        text.transform(False, "none")(image_input)


def test_a_text_without_tokens_is_refused(text: TextPreprocess) -> None:
    with pytest.raises(DataError, match="no tokens"):
        text.transform(False, "none")("  ")


class Counted:
    """A tokenizer that remembers how long the texts were that it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.lengths = tokenizer, list[int]()

    def __call__(self, text: str, **options: Any) -> Any:
        self.lengths.append(len(text))
        return self.tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def word_piece(side: str = "right") -> Any:
    """A tokenizer of whole words and their pieces, with an endless word as one unknown token, as BERT has it."""
    from hamcl.reading._torchvision import ensure_torchvision

    ensure_torchvision()
    import transformers as tf
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[S]", "[E]", "a", "cat", "##s", "##a", "sat"])}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[S] $A [E]", special_tokens=[("[S]", 2), ("[E]", 3)]
    )
    options = {"unk_token": "[UNK]", "pad_token": "[PAD]", "truncation_side": side}
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def byte_pairs() -> Any:
    """A tokenizer that merges pairs over the whole text, blanks too, as Llama's does."""
    from hamcl.reading._torchvision import ensure_torchvision

    ensure_torchvision()
    import transformers as tf
    from tokenizers import Tokenizer, models

    merges = [("c", "a"), ("ca", "t"), (" ", "cat"), ("a", "a"), ("aa", "aa"), (" ", " ")]
    letters = ["[UNK]", " ", "a", "c", "t", "s", *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({x: i for i, x in enumerate(letters)}, merges, unk_token="[UNK]"))
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]")


LONG = {
    "words": "cats sat A cat " * 2_000,
    "letters": "a" * 30_001,
    "pairs": "cat" * 10_000,
    "an endless word": "x" * 30_000,
    "blanks first": " " * 20_000 + "cats sat " * 500,
    "blanks between": ("cat" + " " * 700) * 40,
    "an endless word first": "x" * 15_000 + " a cat sat" * 1_000,
    "few tokens": "cat" + " " * 30_000,
    "a word across the cut": "x" * 130 + " cats" * 6_000,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("make", [word_piece, lambda: word_piece("left"), byte_pairs])
def test_a_long_text_has_the_tokens_that_it_has_when_all_of_it_is_read(name: str, make: Any) -> None:
    tokenizer, length = make(), 8
    found = TextPreprocess(tokenizer, length).transform(False, "none")(LONG[name])
    whole = tokenizer(LONG[name], truncation=True, max_length=length)
    assert found["input_ids"].tolist() == whole["input_ids"]
    assert found["attention_mask"].tolist() == whole["attention_mask"]


def test_of_a_text_of_any_length_a_part_is_read() -> None:
    tokenizer = Counted(word_piece())
    transform = TextPreprocess(tokenizer, 8).transform(False, "none")
    item = transform("a cat sat " * 2_000_000)  # 20 MB
    assert item["input_ids"].tolist() == [2, 4, 5, 8, 4, 5, 8, 3]
    assert sum(tokenizer.lengths) < 1_000
    for endless in (" " * 20_000_000, "x" * 20_000_000):
        tokenizer.lengths.clear()
        with pytest.raises(DataError, match="has 20,000,000 characters, too many to find its 8 tokens"):
            transform(endless)
        assert max(tokenizer.lengths) <= 2**20


def test_settings_are_json(text: TextPreprocess) -> None:
    for preprocess in (text, ImagePreprocess(8)):
        described = preprocess.describe()
        assert json.loads(json.dumps(described)) == described and described["modality"] == preprocess.modality
    assert ImagePreprocess(8).describe() != ImagePreprocess(9).describe()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("train", [False, True])
def test_a_very_long_image_makes_no_huge_one(augmentation: str, train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """30,000 x 2 pixels, whose shorter side would become 224 with the longer one 3,360,000."""
    made = []

    def noted(self: Image.Image, image: object) -> Image.Image:
        made.append(original(self, image))
        return made[-1]

    original = Image.Image._new
    monkeypatch.setattr(Image.Image, "_new", noted)
    for size in ((30_000, 2), (3, 20_000)):
        tensor = ImagePreprocess(224).transform(train, augmentation)(Image.new("RGB", size, (255, 0, 0)))
        assert tensor.shape == (3, 224, 224)
    assert max(image.width * image.height for image in made) <= 4096**2


def test_of_a_very_long_image_the_middle_is_seen() -> None:
    image = Image.new("RGB", (3000, 20), "black")
    image.paste("white", (1490, 0, 1510, 20))
    assert (unit(20).transform(False, "none")(image) == 1).all()
    columns = unit(80).transform(False, "handwriting")(image)[0].amax(0)
    assert columns.argmax() in (39, 40) and columns[40] > 0.05 and (columns[[0, -1]] == 0).all()


def test_images_are_upright_and_whole_whatever_their_mode() -> None:
    """What the Python API is given need not be decoded by hamcl."""
    image = Image.new("RGBA", (8, 16), (0, 0, 0, 0))
    assert (unit(8).transform(False, "none")(image) == 1).all()
    turned = stripes(16, 8)
    turned.getexif()[0x0112] = 6
    tensor = unit(8).transform(False, "none")(turned)
    assert tensor[0, 0, 0] < tensor[0, -1, 0] and tensor[0, 0, 0] == tensor[0, 0, -1]

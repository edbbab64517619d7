"""Set-up all tests share: one thread per worker, no network, where the larger data sets lie."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers or datasets is imported

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hamcl.reading._torchvision import ensure_torchvision

pytest_plugins = ("support.models", "support.runs")

torch.set_num_threads(1)
# Also where the tests are only handed out: that process imports PEFT to read a warning of PEFT's own kind.
ensure_torchvision()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets kept outside the repository (`HAMCL_DATA`, or shared/data beside the checkout)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HAMCL_DATA", beside))
    if not folder.is_dir():
        pytest.skip("the larger data sets are not here (set HAMCL_DATA to their folder)")
    return folder


class Toy:
    """Backbones of some ten thousand random weights, and tasks of images or texts they can tell apart.

    A class looks the same in every task: its pattern, or its words, depend on its name alone.
    """

    WORDS = tuple(f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "re") for b in ("lan", "for", "dis", "gem"))

    @staticmethod
    def vit() -> Any:
        """A ViT of one block that reads images of 16 pixels in 4 patches, with features of width 32."""
        from hamcl.reading._torchvision import ensure_torchvision

        ensure_torchvision()
        import timm

        from hamcl.nn.backbones import Backbone
        from hamcl.nn.loaders.timm import pooled
        from hamcl.reading.prepare import ImagePreprocess

        torch.manual_seed(0)
        sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
        module = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
        return Backbone("tests/vit", module, pooled, ImagePreprocess(16))

    @classmethod
    def save_bert(cls, folder: Path) -> Path:
        """A BERT of 2 layers and width 16 with a tokenizer of whole words, as transformers saves it."""
        from hamcl.reading._torchvision import ensure_torchvision

        ensure_torchvision()
        import transformers as tf
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace

        torch.manual_seed(0)
        words = ["[PAD]", "[UNK]", *cls.WORDS]
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = tf.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
        tf.BertModel(config).save_pretrained(folder)
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        tf.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
        ).save_pretrained(folder)
        return folder

    @staticmethod
    def image(name: str, draw: torch.Generator) -> Any:
        from PIL import Image

        from hamcl.rng import generator

        pattern = torch.randint(40, 216, (4, 4, 3), generator=generator(0, "pattern", name)).repeat_interleave(4, 0)
        pixels = pattern.repeat_interleave(4, 1) + torch.randint(-40, 40, (16, 16, 3), generator=draw)
        return Image.fromarray(pixels.to(torch.uint8).numpy())

    @classmethod
    def text(cls, name: str, draw: torch.Generator) -> str:
        from hamcl.rng import generator

        own = torch.randperm(len(cls.WORDS), generator=generator(0, "words", name))[:4]
        count = int(torch.randint(2, 20, (), generator=draw))
        picks = torch.where(
            torch.rand(count, generator=draw) < 0.8, own[torch.randint(4, (count,), generator=draw)], 0
        )
        return " ".join(cls.WORDS[i] for i in picks.tolist())

    @classmethod
    def samples(cls, classes: Sequence[str], counts: Sequence[int], modality: str, *purpose: str) -> Any:
        from hamcl.rng import generator
        from hamcl.streams.base import Samples

        draw, make = generator(1, *purpose), cls.image if modality == "image" else cls.text
        labels = [y for y, count in enumerate(counts) for _ in range(count)]
        return Samples([make(classes[y], draw) for y in labels], labels)

    @classmethod
    def task(
        cls, name: str, classes: Sequence[str], count: int | Sequence[int] = 6, modality: str = "image", **options: Any
    ) -> Any:
        """`count` training samples of each class, as many of all or one number each, and 6 test samples."""
        from hamcl.streams.base import Task

        counts = [count] * len(classes) if isinstance(count, int) else count
        train = cls.samples(classes, counts, modality, name, "train")
        test = cls.samples(classes, [6] * len(classes), modality, name, "test")
        return Task(name, tuple(classes), train, test=test, modality=modality, **options)  # type: ignore[arg-type]

    @staticmethod
    def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
        """Whether two states agree bit for bit."""
        return a.keys() == b.keys() and all(
            torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name] for name in a
        )


@pytest.fixture(scope="session")
def toy() -> type[Toy]:
    """Small backbones and tasks, see `Toy`."""
    return Toy


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `Toy.save_bert`; do not change it."""
    return Toy.save_bert(tmp_path_factory.mktemp("models") / "bert")


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 12, "max_position_embeddings": 64}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", TEXT),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 12}),
    "llama": ("Llama", {**TEXT, "num_key_value_heads": 4}),
    "gpt2": ("GPT2", dict(n_embd=32, n_layer=1, n_head=4, vocab_size=12, bos_token_id=0, eos_token_id=0)),
    "t5": ("T5", {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8, "vocab_size": 12}),
    "xlnet": ("XLNet", {"vocab_size": 12, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}),
    "vit": ("ViT", VISION),
    "swin": ("Swin", SWIN),
    "resnet": ("ResNet", {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 8}),
    "ijepa": ("IJepa", VISION),
    "clip": ("CLIP", {"vision_config": VISION, "text_config": {**TEXT, "bos_token_id": 0, "eos_token_id": 0}}),
    "vit_mae": ("ViTMAE", VISION),
    "wav2vec2": ("Wav2Vec2", SIZES),
}
"""Kind of network -> the name of its configuration in transformers, and the smallest sizes."""
READERS = ("bert", "distilbert", "llama", "gpt2", "t5", "xlnet")
"""Those that read texts."""


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a kind to a folder as transformers, or (kinds `timm-*`) timm, saves it; do not change it."""
    import timm
    import transformers as tf
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    root = tmp_path_factory.mktemp("families")

    def save(kind: str) -> Path:
        folder = root / kind
        if folder.exists():
            return folder
        torch.manual_seed(0)
        if kind.startswith("timm-"):
            model = timm.create_model(kind.removeprefix("timm-"), num_classes=7)
            timm.models.save_for_hf(model, folder, safe_serialization=True)
            return folder
        name, sizes = FAMILIES[kind]
        tf.AutoModel.from_config(getattr(tf, f"{name}Config")(**sizes)).save_pretrained(folder)
        if kind in READERS:
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "fat", "cat", "sat", "on", "mats"]
            tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
            tokenizer.pre_tokenizer = Whitespace()
            pad = None if kind == "gpt2" else "[PAD]"
            tf.PreTrainedTokenizerFast(
                tokenizer_object=tokenizer, unk_token="[UNK]", pad_token=pad, model_max_length=64
            ).save_pretrained(folder)
        return folder

    return save

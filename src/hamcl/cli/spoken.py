"""Sentences of the library in the command's language: arguments of Python functions become options."""

import dataclasses
import re

from hamcl.config import MACHINE, HAMConfig

ARGUMENTS = (
    *("augmentation", "backbone", "checkpoint_minutes", "class_order", "class_order_file", "classes_per_task"),
    *("data_dir", "image_size", "keep", "known", "label_column", "text_column", "max_length", "name", "overwrite"),
    *("record", "restart", "task_sizes", "tasks", "test_fraction", "test_per_class", "train_per_class"),
    *("train_shards", "val_fraction"),
)
"""Arguments of the library, besides the fields of `HAMConfig`, that are options of a command."""

PHRASES = {
    "call learn(task) first": "use ham learn first",
    "lower lr (": "lower --lr (",
}
"""What a Python user is told to do, and how that is done on the command line."""

_NAMES = {*ARGUMENTS, *MACHINE, *(field.name for field in dataclasses.fields(HAMConfig))}
_LONG = "|".join(sorted(name for name in _NAMES if "_" in name))  # no word of a sentence looks like these
_ALL = "|".join(sorted(_NAMES))
_OPTION = re.compile(rf"\b(?:the )?option '?({_ALL})\b'?(?!=)")
_VALUE = re.compile(rf"(?<![\w.-])({_ALL})=('[^']*'|[\w+-]+(?:\.\w+)*)")
_NAME = re.compile(rf"(?<![\w'\"/.=-])({_LONG})(?![\w'\"/.=])")


def spoken(sentence: str) -> str:
    """The sentence with `option 'rank'`, `rank=8`, `known=True` and `max_length` as the command line has them."""
    for phrase, said in PHRASES.items():
        sentence = sentence.replace(phrase, said)
    sentence = _OPTION.sub(lambda found: _flag(found[1]), sentence)
    sentence = _VALUE.sub(lambda found: _given(found[1], found[2]), sentence)
    return _NAME.sub(lambda found: _flag(found[1]), sentence)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(name: str, value: str) -> str:
    if value in ("True", "False"):
        return _flag(name) if value == "True" else _flag(f"no_{name}")
    return f"{_flag(name)} {value.strip(chr(39)).replace('None', 'none')}"

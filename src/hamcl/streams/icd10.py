"""`icd10`: descriptions of ICD-10-CM diagnosis codes; class = block of the classification, superclass = chapter."""

import hashlib
import warnings
from collections import defaultdict

from hamcl.errors import UsageError
from hamcl.streams.source import Request, Source

FEWEST = 40  # texts a block must have to be a class
MOST_TEST = 20  # test texts of a class; never more than a quarter of its texts


def load(request: Request) -> Source:
    """Return the descriptions of all leaf codes, each text once, in every block with at least 40 of them.

    The test texts are fixed: those with the smallest SHA-256, at most 20 and at most a quarter of the class.
    """
    request.nowhere()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package imports a deprecated part of setuptools
            import simple_icd_10_cm as icd
    except ImportError as error:
        raise UsageError("the source 'icd10' needs simple-icd-10-cm: install hamcl[demo]") from error

    texts: dict[str, list[str]] = defaultdict(list)
    chapters: dict[str, str] = {}
    seen: set[str] = set()
    for code in icd.get_all_codes(with_dots=True):
        if not icd.is_leaf(code) or icd.is_block(code):  # headings over several blocks have no codes of their own
            continue
        *_, block, chapter = icd.get_ancestors(code)
        text = icd.get_description(code)
        if text.casefold() not in seen:
            seen.add(text.casefold())
            texts[block].append(text)
            chapters[block] = chapter

    order, superclasses = [], {}
    splits: dict[str, tuple[list[str], list[str]]] = {"train": ([], []), "test": ([], [])}
    for block, block_texts in texts.items():
        if len(block_texts) < FEWEST:
            continue
        name = _named(block, icd.get_description(block, prioritize_blocks=True))
        order.append(name)
        superclasses[name] = _named(chapters[block], icd.get_description(chapters[block]))
        ranked = sorted(block_texts, key=lambda text: hashlib.sha256(text.casefold().encode()).digest())
        count = min(MOST_TEST, len(block_texts) // 4)
        held_out = set(ranked[:count])
        for text in block_texts:
            inputs, labels = splits["test" if text in held_out else "train"]
            inputs.append(text)
            labels.append(name)
    return Source.build(
        "icd10", splits["train"], splits["test"], order=order, modality="text", superclasses=superclasses
    )


def _named(code: str, description: str) -> str:
    """Return "code description" without the code range that the description repeats at its end."""
    return f"{code} {description.rpartition(' (')[0] or description}"

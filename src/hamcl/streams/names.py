"""Names of classes and tasks: the one form in which they are kept, and what cannot be a name."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from hamcl.errors import DataError
from hamcl.words import cut, listed

LONGEST = 1_000
"""The most characters of a name: every state of a model and every report repeats it."""


def canonical(name: str) -> str:
    """A name as it is kept: in Unicode's composed form (NFC) and without spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


def key(name: str) -> str:
    """What two names must not have in common: the name without regard to case."""
    return unicodedata.normalize("NFC", canonical(name).casefold())


def legible(text: str) -> str:
    """The text with what is not Unicode escaped: bytes of a file's name as \\xNN, halves of characters as \\udNNN."""
    return _HALF.sub(_escaped, text)


def is_unicode(text: str) -> bool:
    """Whether it holds no lone surrogate: half a character, or a byte of a file's name that is not UTF-8."""
    return _HALF.search(text) is None


_HALF = re.compile(r"[\ud800-\udfff]")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def file_name(name: str) -> str:
    """A name as that of one file or folder: without separators, not "." or "..", and not longer than systems take."""
    kept = re.sub(r"[/\\\0]", "_", name)
    if not kept.strip("."):
        kept = kept.replace(".", "_")
    data = kept.encode()
    if len(data) <= 200:
        return kept
    return f"{data[:180].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"


def check_name(name: object, what: str) -> str:
    """The canonical form of a name; `what` names it in messages, for example "a class of task 'birds'".

    Raises:
        DataError: it is no text, empty, too long or not Unicode.
    """
    if not isinstance(name, str):
        raise DataError(f"{what} is {name!r}, which is no text; name it by one")
    if not is_unicode(name):
        raise DataError(f"{what} is called '{cut(legible(name))}', which is not Unicode text; give it another name")
    kept = canonical(str(name))
    if not kept:
        raise DataError(f"{what} has an empty name; give it one")
    if len(kept) > LONGEST:
        raise DataError(
            f"{what} has a name of {len(kept)} characters ('{cut(kept)}'), but at most {LONGEST} are kept; shorten it"
        )
    return kept


def check_classes(names: Iterable[object], owner: str) -> tuple[str, ...]:
    """Canonical forms of class names; DataError: there is none, one is no name, or two differ by case at most."""
    classes = tuple(check_name(name, f"a class of {owner}") for name in names)
    if not classes:
        raise DataError(f"{owner} has no classes; name one at least")
    count = Counter(map(key, classes))
    if twice := sorted(name for name in set(classes) if count[key(name)] > 1):
        raise DataError(f"{owner}: rename the classes that repeat or differ only by case: {_several(twice)}")
    return classes


def renamed(names: Iterable[str]) -> list[str]:
    """What to note where names are not in their canonical form, or several become one."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        spellings[canonical(name)].append(name)
    merged = [kept for kept, found in spellings.items() if len(found) > 1]
    changed = [kept for kept, found in spellings.items() if len(found) == 1 and found != [kept]]
    notes = []
    if merged:
        notes.append(
            f"taken for one class, because they differ only in spaces around them or in Unicode form: the spellings "
            f"of {_several(merged)}"
        )
    if changed:
        notes.append(f"class names kept without spaces around them and in composed Unicode (NFC): {_several(changed)}")
    return notes


def spelled(names: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """The names as `known` spells them, where they differ only in form: models of old hold any form."""
    exact = set(known)
    by_form: Mapping[str, str] = {canonical(name): name for name in exact}
    return tuple(name if name in exact else by_form.get(canonical(name), name) for name in names)


def _several(names: Sequence[str]) -> str:
    return listed([cut(name) for name in names])

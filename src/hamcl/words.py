"""Names and values inside messages, short enough for a sentence."""

import difflib
from collections.abc import Iterable, Sequence

from hamcl.errors import UsageError


def listed(names: Sequence[str], most: int = 5) -> str:
    """The names, cut after `most`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def cut(text: str, most: int = 60) -> str:
    """The text, or its beginning with three dots, of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def shown(value: object) -> str:
    """A value as Python writes it, or the beginning of that."""
    try:
        return cut(repr(value))
    except ValueError:  # a number of more digits than Python prints
        return "a number of thousands of digits"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message: the close matches of `word`, or all choices if they are few."""
    choices = list(choices)
    close = difflib.get_close_matches(word, choices, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"choose from {listed(choices, 20)}"


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        UsageError: it is not; the message names the close ones.
    """
    if value not in choices:
        raise UsageError(f"{option} is {value!r}; {did_you_mean(str(value), choices)}")


def reason(error: Exception) -> str:
    """The first line of an error's message, the rest being of use only to those who read tracebacks."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

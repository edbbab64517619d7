"""Read every sample once before training, so that a bad one is found now and not in the middle of a task."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from PIL import Image

from hamcl.errors import DataError
from hamcl.streams.base import Samples
from hamcl.streams.lazy import check_text
from hamcl.streams.pixels import GUESSED, rgb
from hamcl.words import check_choice, listed

OnBadSample = Literal["error", "skip"]


def check(
    samples: Samples,
    on_bad_sample: OnBadSample = "error",
    classes: Sequence[str] = (),
    notes: list[str] | None = None,
    told: Callable[[int, int], None] | None = None,
) -> tuple[Samples, list[str]]:
    """Return the usable samples and one message for each that was skipped.

    Args:
        on_bad_sample: "error" raises at the first bad sample, "skip" leaves bad samples out.
        classes: class names, for the message.
        told: of the number of samples read, and of all.
        notes: is given one sentence more for each range that images were scaled from as a guess.

    Raises:
        DataError: a sample is bad ("error"), or a class has none left ("skip").
        UsageError: `on_bad_sample` is neither.
    """
    check_choice("on_bad_sample", on_bad_sample, get_args(OnBadSample))
    good, messages = [], []
    guessed: Counter[str] = Counter()
    for i in range(len(samples)):
        try:
            sample = samples.inputs[i]
            if isinstance(sample, Image.Image):  # given as it was opened, or decoded already
                guessed.update(filter(None, [rgb(sample, f"training image {i}").info.get(GUESSED)]))
            elif isinstance(sample, str):
                check_text(sample, f"sample {i}")
            else:  # also None and nan, as tables write a missing value
                what = repr(sample) if sample is None or isinstance(sample, float) else f"a {type(sample).__name__}"
                raise DataError(f"sample {i} is neither a text nor an image but {what}; replace or remove it")
        except DataError as error:
            if on_bad_sample == "error":
                raise
            messages.append(str(error))
        else:
            good.append(i)
        if told:
            told(i + 1, len(samples))
    if notes is not None:
        notes += [
            f"{count} of {len(samples)} training images could hold larger numbers than they do and were scaled from "
            f"{span}"
            for span, count in sorted(guessed.items())
        ]
    if not messages:
        return samples, []
    usable = samples.select(good)
    if lost := sorted(set(samples.labels) - set(usable.labels)):
        names = [classes[y] if classes else str(y) for y in lost]
        raise DataError(f"no sample of class {listed(names)} is usable; the first bad one: {messages[0]}")
    return usable, messages

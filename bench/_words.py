"""Word error rates by jiwer, with an interval by bootstrap over the words of the reference.

Both sides are brought to one form first: lower case, no punctuation, Spanish accents kept, numbers
from zero to twelve as words, "mister" for "mr". Nothing else is changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jiwer
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAWS = 2000
_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
_SAME = {"mr": "mister"} | {str(number): word for number, word in enumerate(_NUMBERS)}


@dataclass(frozen=True)
class Score:
    """Errors of each word of the reference; an insertion counts to the word before it."""

    errors: tuple[int, ...]

    @property
    def words(self) -> int:
        return len(self.errors)

    @property
    def wrong(self) -> int:
        return sum(self.errors)

    @property
    def rate(self) -> float:
        return self.wrong / self.words

    @property
    def interval(self) -> tuple[float, float]:
        """Of the rate, 95 %, by drawing words anew."""
        errors = np.array(self.errors)
        drawn = np.random.default_rng(1).choice(errors, (DRAWS, errors.size)).mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        return float(low), float(high)


def score(said: Sequence[Sequence[str]], heard: Sequence[str]) -> Score:
    """Of what is said and heard on each channel."""
    errors: list[int] = []
    for sentences, text in zip(said, heard, strict=True):
        errors += _errors(words(" ".join(sentences)), words(text))
    return Score(tuple(errors))


def words(text: str) -> list[str]:
    """A text in the form in which it is compared."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower().replace("\u2019", "'"))
    return [_SAME.get(word, word) for word in found]


def _errors(said: list[str], heard: list[str]) -> list[int]:
    errors = [0] * len(said)
    compared = jiwer.process_words(" ".join(said), " ".join(heard))
    for change in compared.alignments[0]:
        if change.type == "insert":
            errors[max(0, change.ref_start_idx - 1)] += change.hyp_end_idx - change.hyp_start_idx
        elif change.type != "equal":
            for index in range(change.ref_start_idx, change.ref_end_idx):
                errors[index] += 1
    return errors

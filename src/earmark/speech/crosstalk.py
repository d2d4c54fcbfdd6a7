"""The voice of one channel that leaks into another: where it does, that other one is silenced.

Headsets, hybrids and speakers do this. Left alone, words of one side stand in the transcript as
words of the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from earmark.speech import RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from earmark.speech import Samples

LEVEL_DIFFERENCE_DB = 12.0
"""By how much the leak must be quieter than the voice it comes from: whoever speaks into a channel
of his own is louder than that, unless he whispers while the other shouts."""

LEAST_LIKENESS = 0.4
"""Correlation of a leak with its source, 0 to 1. Two voices that speak at once stay below 0.3; a
copy that a codec and the noise of a line changed, above 0.5."""

MOMENT_SECONDS = 0.5
_STEP_SECONDS = MOMENT_SECONDS / 2

MOST_DELAY_SECONDS = 0.25
"""Between a voice and its echo from the far end."""

_THINNING = 2
"""Likeness is looked for at 8 kHz: all that a telephone passes is below 4 kHz."""

_RATE_HZ = RATE_HZ // _THINNING
_TINY = 1e-30
_SILENT_POWER = 1e-8
"""-80 dB: what is below is silence already."""


def silence_leaks(channels: Samples, channel: int) -> Samples:
    """One channel, with zeros wherever it holds nothing but a quiet copy of another one.

    What is said while the other side speaks stays, even if it is quiet: that is no copy.

    Args:
        channels: the samples of all, of one length, at 16 kHz.
        channel: which one is wanted.
    """
    clear: Samples = channels[channel].copy()
    thinned = [_thinned(samples) for samples in channels]
    for number, other in enumerate(thinned):
        if number != channel:
            for start, stop in _leaks(thinned[channel], other):
                clear[start * _THINNING : stop * _THINNING] = 0.0
    return clear


def _thinned(samples: Samples) -> Samples:
    whole = samples[: samples.size // _THINNING * _THINNING]
    thinned: Samples = whole.reshape(-1, _THINNING).mean(axis=1)
    return thinned


def _leaks(own: Samples, other: Samples) -> Iterator[tuple[int, int]]:
    """Where the moments begin and end in which one channel is a quiet copy of another."""
    size, step = int(MOMENT_SECONDS * _RATE_HZ), int(_STEP_SECONDS * _RATE_HZ)
    delay = int(MOST_DELAY_SECONDS * _RATE_HZ)
    most = 10 ** (-LEVEL_DIFFERENCE_DB / 10)
    before = np.concatenate([np.zeros(delay, np.float32), other])
    for start in range(0, own.size, step):
        stop = min(start + size, own.size)
        moment = own[start:stop]
        nearby = before[start : stop + delay]  # as much earlier as an echo may be late
        power = float(np.square(moment).mean())
        source = float(np.square(nearby).sum()) / moment.size
        if power >= _SILENT_POWER and power < most * source and _is_copy(moment, nearby):
            yield start, stop


def _is_copy(own: Samples, other: Samples) -> bool:
    """Whether a moment is like some piece of the other channel, but for its level."""
    length = 1 << math.ceil(math.log2(own.size + other.size))
    crossed = np.fft.irfft(np.fft.rfft(other, length) * np.fft.rfft(own, length).conj(), length)
    lags = other.size - own.size + 1
    power = _powers(other, own.size)[:lags] * float(np.square(own).sum())
    likeness = np.abs(crossed[:lags]) / np.sqrt(np.maximum(power, _TINY))
    return bool(likeness.max() >= LEAST_LIKENESS)


def _powers(samples: Samples, size: int) -> NDArray[np.float64]:
    """The power of each stretch of that size."""
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    powers: NDArray[np.float64] = total[size:] - total[:-size]
    return powers

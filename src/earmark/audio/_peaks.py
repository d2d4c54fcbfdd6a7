"""Lowest and highest samples, gathered while a recording streams by. Sandbox's child only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[Any]
    """(channels, n), of any type that FFmpeg decodes to."""

_PIXELS_PER_SECOND = 20
_MOST_PIXELS = 1 << 17
"""20 pixels a second show each syllable; 2^17 of them last 109 minutes. Whenever a recording
outgrows that, neighbours are joined, so that no waveform takes more than 256 KiB a channel."""

_FULL_SCALE = {"u1": 1 << 7, "i2": 1 << 15, "i4": 1 << 31}
"""The amplitude 1.0 by numpy type; floating-point samples are on that scale already."""


class Peaks:
    """Peaks of one recording, in memory that does not grow with its length."""

    def __init__(self, channels: int, sample_rate_hz: int) -> None:
        self.channels = channels
        self.sample_rate_hz = sample_rate_hz
        self.samples_per_pixel = max(1, sample_rate_hz // _PIXELS_PER_SECOND)
        self.samples = 0
        self._pixels = 0
        self._chunks: list[NDArray[np.float32]] = []  # each (pixels, channels, lowest-highest)
        self._rest = np.zeros((channels, 0), np.float32)  # samples of a pixel not yet full

    def add(self, samples: Samples) -> None:
        """Take the next samples."""
        self.samples += samples.shape[1]
        block = _to_unit(samples)
        while block.shape[1]:
            room = (_MOST_PIXELS - self._pixels) * self.samples_per_pixel - self._rest.shape[1]
            self._reduce(block[:, :room])
            block = block[:, room:]
            if self._pixels == _MOST_PIXELS:
                self._fold()

    def peak(self) -> float:
        """The greatest amplitude; full scale is 1."""
        return float(np.abs(self._all()).max(initial=0))

    def to_bytes(self) -> bytes:
        """The peaks as `Waveform.peaks` wants them; rounded toward zero, as audiowaveform does."""
        return (self._all() * 128).clip(-128, 127).astype(np.int8).tobytes()

    def _reduce(self, block: NDArray[np.float32]) -> None:
        block = np.concatenate((self._rest, block), axis=1)
        pixels = block.shape[1] // self.samples_per_pixel
        whole = pixels * self.samples_per_pixel
        self._chunks.append(
            _extremes(block[:, :whole].reshape(self.channels, pixels, self.samples_per_pixel))
        )
        self._pixels += pixels
        self._rest = block[:, whole:].copy()

    def _fold(self) -> None:
        """Halve the resolution. Called on a full pixel only, so that none is torn apart."""
        pairs = np.concatenate(self._chunks).reshape(-1, 2, self.channels, 2)
        folded = np.stack((pairs[..., 0].min(axis=1), pairs[..., 1].max(axis=1)), axis=-1)
        self._chunks = [folded]
        self._pixels = len(folded)
        self.samples_per_pixel *= 2

    def _all(self) -> NDArray[np.float32]:
        chunks = list(self._chunks)
        if self._rest.shape[1]:
            chunks.append(_extremes(self._rest[:, np.newaxis, :]))
        # A WAV of floating-point samples may hold NaN and infinities.
        return np.nan_to_num(np.concatenate(chunks), nan=0, posinf=1, neginf=-1)


def _extremes(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(channels, pixels, samples) to (pixels, channels, lowest-highest)."""
    if not pixels.size:
        return np.zeros((0, len(pixels), 2), np.float32)
    return np.stack((pixels.min(axis=2), pixels.max(axis=2)), axis=-1).transpose(1, 0, 2)


def _to_unit(samples: Samples) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = samples.astype(np.float32, copy=False)
    name = samples.dtype.str[1:]
    if name in _FULL_SCALE:
        unit = unit / np.float32(_FULL_SCALE[name])
    return unit - np.float32(1) if name == "u1" else unit

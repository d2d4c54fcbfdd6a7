"""A decoded recording on disk, read piece by piece, and the pieces in which it is recognized."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from earmark.speech import RATE_HZ
from earmark.speech.crosstalk import silence_leaks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from numpy.typing import NDArray

    from earmark.speech import Samples

LEAST_HEARD_SECONDS = 180
MOST_HEARD_SECONDS = 240
"""A block is cut in a quiet moment when somebody was heard in it for as long as this: so long that
the cuts cost little, so short that a worker that dies has little to do again. Engines work for
what is heard, and each block costs about half a window of 30 s more."""

LONGEST_BLOCK_SECONDS = 480
"""Whatever is heard in it: a block stands in memory."""

_MOMENTS = 8
"""In a second. Two are about as long as the pause between two sentences."""

_MOMENT = RATE_HZ // _MOMENTS

_EQUAL_SHARE = 1e-4
"""-40 dB: how much two channels may differ and still be one, stored twice with losses."""

_SILENT_LEVEL = 1e-3
"""Full scale is 1; -60 dB, below the noise of any line that a person spoke on."""

_HEARD_POWER = 1e-5
"""-50 dB: no voice is quieter. Where the line is louder than that, all of it counts as heard."""

_FULL_SCALE = 32768.0
_SAMPLE_BYTES = 2
_READ_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of one channel, in samples from the beginning of the recording."""

    channel: int
    start: int
    stop: int

    @property
    def start_seconds(self) -> float:
        """When it begins."""
        return self.start / RATE_HZ

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.stop - self.start) / RATE_HZ


class Sound:
    """16-bit samples of all channels in a file; see `audio.decode_speech`."""

    def __init__(self, file: BinaryIO, channels: int) -> None:
        """Keeps the file, which stays the caller's to close."""
        self._file = file
        self._frame_bytes = _SAMPLE_BYTES * channels
        self._stored = channels
        self.length = file.seek(0, 2) // self._frame_bytes
        self.channels = 1 if channels > 1 and self._is_one_channel() else channels

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.length / RATE_HZ

    def read(self, block: Block) -> Samples:
        """The samples of a block, -1 to 1."""
        return _scaled(self._read(block.start, block.stop)[:, block.channel])

    def read_clear(self, block: Block) -> Samples:
        """The samples of a block, silent where it holds no more than the voice of another channel.

        See crosstalk.silence_leaks.
        """
        if self.channels == 1:
            return self.read(block)
        samples = _scaled(self._read(block.start, block.stop))
        return silence_leaks(samples.T, block.channel)

    def blocks(self) -> list[Block]:
        """All of it in blocks, in the order of time; always the same for the same sound."""
        found = [block for channel in range(self.channels) for block in self._blocks(channel)]
        return sorted(found, key=lambda block: (block.start, block.channel))

    def is_silent(self, block: Block) -> bool:
        """Whether nobody can be heard in it, so that no engine need listen."""
        samples = self.read(block)
        return not samples.size or float(np.abs(samples).max()) < _SILENT_LEVEL

    def _blocks(self, channel: int) -> Iterator[Block]:
        powers = self._powers[:, channel]
        start = 0
        while start < powers.size:
            stop = start + _cut(powers[start:])
            yield Block(channel, start * _MOMENT, min(stop * _MOMENT, self.length))
            start = stop

    @cached_property
    def _powers(self) -> NDArray[np.float32]:
        """How loud each moment of each channel is; full scale is 1."""
        step = _READ_SECONDS * RATE_HZ
        found = []
        for start in range(0, self.length, step):
            samples = _scaled(self._read(start, min(start + step, self.length)))
            short = -samples.shape[0] % _MOMENT
            whole = np.pad(samples, ((0, short), (0, 0)))
            found.append(np.square(whole.reshape(-1, _MOMENT, self._stored)).mean(axis=1))
        return np.concatenate(found) if found else np.empty((0, self._stored), np.float32)

    def _is_one_channel(self) -> bool:
        """Whether all channels hold the same."""
        level = difference = 0.0
        step = _READ_SECONDS * RATE_HZ
        for start in range(0, self.length, step):
            samples = self._read(start, min(start + step, self.length)).astype(np.float32)
            level += float(np.square(samples).sum())
            difference += float(np.square(samples - samples[:, :1]).sum())
        return difference <= _EQUAL_SHARE * level

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        self._file.seek(start * self._frame_bytes)
        data = self._file.read((stop - start) * self._frame_bytes)
        return np.frombuffer(data, dtype="<i2").reshape(-1, self._stored)


def _cut(powers: NDArray[np.float32]) -> int:
    """After how many moments a block ends that begins with the first of these."""
    heard = np.cumsum(powers > _HEARD_POWER)
    most, least = (seconds * _MOMENTS for seconds in (MOST_HEARD_SECONDS, LEAST_HEARD_SECONDS))
    stop = min(int(np.searchsorted(heard, most, "right")), LONGEST_BLOCK_SECONDS * _MOMENTS)
    if stop >= powers.size:
        return powers.size
    first = min(int(np.searchsorted(heard, least)), stop * least // most)
    pauses = np.maximum(powers[first:stop], powers[first + 1 : stop + 1])
    # Of pauses that are about as quiet the last: the fuller the block, the fewer there are.
    return first + int(np.flatnonzero(pauses <= 2 * pauses.min())[-1]) + 1


def _scaled(samples: NDArray[Any]) -> Samples:
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)

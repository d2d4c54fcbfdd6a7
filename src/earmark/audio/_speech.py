"""Decode one recording for speech recognition. Runs in the sandbox's child only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from av.audio.resampler import AudioResampler

from earmark.audio import _decode
from earmark.audio.faults import fault
from earmark.audio.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from av.audio.frame import AudioFrame


def decode(
    file: BinaryIO, *, container: str, channels: int, rate_hz: int
) -> tuple[None, Iterator[bytes]]:
    """Decode all of the first audio stream to 16-bit samples.

    Args:
        file: binary and seekable.
        container: a `Kind` of category audio.
        channels: of the recording; a part of it that has others is brought to these.
        rate_hz: of the samples.

    Returns:
        Nothing, and the samples, little-endian, those of one moment side by side.

    Raises:
        MediaError: the file is at fault.
    """
    return None, _samples(file, Kind(container), channels, rate_hz)


def _samples(file: BinaryIO, kind: Kind, channels: int, rate_hz: int) -> Iterator[bytes]:
    with _decode.open_media(file, kind) as media:
        if not media.streams.audio:
            raise fault("no_audio")
        resampler: AudioResampler | None = None
        form: tuple[object, ...] = ()
        for frame in _decode.Recording(media, kind, None).frames():
            if resampler is None or form != _form(frame):
                if resampler is not None:
                    yield from map(_bytes, resampler.resample(None))
                form = _form(frame)
                resampler = AudioResampler("s16", _layout(frame, channels), rate_hz)
            yield from map(_bytes, resampler.resample(frame))
        if resampler is not None:
            yield from map(_bytes, resampler.resample(None))


def _form(frame: AudioFrame) -> tuple[object, ...]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _layout(frame: AudioFrame, channels: int) -> str:
    """The layout of the frame if it has so many channels, else the usual one of so many."""
    if len(frame.layout.channels) == channels:
        return frame.layout.name
    return {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")


def _bytes(frame: AudioFrame) -> bytes:
    return frame.to_ndarray().tobytes()

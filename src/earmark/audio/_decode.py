"""Decode one recording with PyAV. Runs in the sandbox's child only; nothing else imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import av
import numpy as np
from av.audio.resampler import AudioResampler

from earmark.audio import _wav
from earmark.audio._peaks import Peaks
from earmark.audio.faults import fault
from earmark.audio.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from numpy.typing import NDArray

    Told = dict[str, str | int | float | None]

_DEMUXERS = {Kind.MP4: "mov"}
"""FFmpeg's name for a container where it is not ours."""

_GUESSED_DURATION = frozenset({Kind.AAC, Kind.AMR, Kind.MPEG_TS})
"""Containers that state no duration; FFmpeg guesses one from the first frames' bit rate."""

_UNKNOWN_SAMPLES = 0xFFFFFFFF
"""What a recorder that streams a WAV writes into its `fact` chunk."""

_DECODERS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,"
    "adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,eac3,flac,g722,g723_1,g726,g726le,g729,gsm,gsm_ms,ilbc,mp2,mp2float,"
    "mp3,mp3float,opus,pcm_alaw,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,"
    "pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8,speex,truespeech,vorbis,"
    "wmapro,wmav1,wmav2,wmavoice"
)
"""The only decoders that may run, by FFmpeg's names: what telephony records with. It keeps every
video, picture and subtitle decoder away from foreign bytes, even while FFmpeg probes streams."""

_DAMAGE = (av.FFmpegError, OSError)
"""What PyAV raises on a damaged file; `OSError` also comes from `_refuse`. A lack of memory, which
is one of these too, is always let through before."""

_IO_BYTES = 1 << 18
_BATCH_SAMPLES = 1 << 16
"""How many samples are gathered before numpy looks at them: frames hold as few as 160, and a
call into numpy for each would take longer than decoding does."""

_MOST_CHANNELS = 16
"""Conference recorders write one per party; beyond that it is no call."""


def decode(file: BinaryIO, *, container: str, doubtful: bool) -> tuple[Told, bytes]:
    """Decode all of the first audio stream; tell what it is, and its peaks.

    Args:
        file: binary and seekable.
        container: a `Kind` of category audio; nothing else is tried.
        doubtful: the content did not say so itself: too many failed packets mean that it is
            something else.

    Returns:
        The facts by name, and int8 peaks as `Waveform.peaks` describes them.

    Raises:
        MediaError: the file is at fault.
    """
    kind = Kind(container)
    stated = _wav.stated_seconds(file) if kind is Kind.WAV else None
    file.seek(0)
    guessed = kind is Kind.MP3 and not _counts_frames(file)
    file.seek(0)
    with open_media(file, kind) as media:
        if not media.streams.audio:
            raise fault("no_audio")
        recording = Recording(media, kind, stated)
        recording.decode()
        if doubtful and 2 * recording.failed_packets > recording.packets:
            raise fault("not_audio", found=Kind.UNKNOWN.words)
        told, peaks = recording.told()
        return {**told, "header_guessed": guessed}, peaks


def _counts_frames(file: BinaryIO) -> bool:
    """Whether an MP3 says how many frames it has; else FFmpeg guesses from the first ones."""
    head = file.read(_IO_BYTES)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def open_media(file: BinaryIO, kind: Kind) -> InputContainer:
    """Open a file as what it is known to be, and as nothing else."""
    demuxer = _DEMUXERS.get(kind, kind.value)
    try:
        return av.open(
            file,
            mode="r",
            format=demuxer,
            options={
                "format_whitelist": demuxer,
                "protocol_whitelist": "none",
                "codec_whitelist": _DECODERS,
            },
            metadata_errors="ignore",
            buffer_size=_IO_BYTES,
            io_open=_refuse,
        )
    except MemoryError:
        raise
    except (*_DAMAGE, ValueError) as error:
        raise fault("unreadable", found=kind.words) from error


def _refuse(url: str, *_: object) -> NoReturn:
    """Open no second file, whatever the first one refers to."""
    raise PermissionError(url)


class Recording:
    """The first audio stream of a file, on its way through the decoder."""

    def __init__(self, media: InputContainer, kind: Kind, stated: float | None) -> None:
        self._media = media
        self._kind = kind
        self._stated_seconds = stated
        self._stream = media.streams.audio[0]
        self._context = self._stream.codec_context
        if self._context.name not in _DECODERS.split(","):
            raise fault("unsupported_codec", codec=self._context.name)
        self._context.thread_count = 1  # threads gain nothing on sound and cost address space
        self._peaks: Peaks | None = None
        self._batch: list[NDArray[Any]] = []
        self._gathered = 0
        self.packets = self.failed_packets = 0

    def decode(self) -> None:
        """Decode everything, passing over what is damaged."""
        for frame in self.frames():
            self._take(frame)
        self._flush()

    def told(self) -> tuple[Told, bytes]:
        """What `decode` found out."""
        peaks = self._peaks
        if peaks is None or not peaks.samples:
            raise fault("no_audio_decoded")
        told: Told = {
            "codec": self._context.codec.canonical_name,
            "sample_rate_hz": peaks.sample_rate_hz,
            "channels": peaks.channels,
            "duration_seconds": peaks.samples / peaks.sample_rate_hz,
            "header_duration_seconds": self._header_duration(),
            "packets": self.packets,
            "failed_packets": self.failed_packets,
            "samples_per_pixel": peaks.samples_per_pixel,
            "peak": peaks.peak(),
        }
        return told, peaks.to_bytes()

    def _header_duration(self) -> float | None:
        if self._stated_seconds is not None:
            return self._stated_seconds
        stated = self._stream.duration
        if self._kind in _GUESSED_DURATION or stated == _UNKNOWN_SAMPLES:
            return None
        if stated and self._stream.time_base:
            return float(stated * self._stream.time_base)
        return self._media.duration / av.time_base if self._media.duration else None

    def frames(self) -> Iterator[AudioFrame]:
        """Decode everything, passing over what is damaged."""
        try:
            for packet in self._media.demux(self._stream):
                self.packets += bool(packet.size)  # the last, empty one flushes the decoder
                yield from self._decode(packet)
        except MemoryError:
            raise
        except _DAMAGE:  # nothing can be read from here on
            self.packets += 1
            self.failed_packets += 1

    def _decode(self, packet: Packet[AudioStream]) -> list[AudioFrame]:
        try:
            return self._context.decode(packet)
        except MemoryError:
            raise
        except _DAMAGE:
            self.failed_packets += 1
            return []

    def _take(self, frame: AudioFrame) -> None:
        """Add a frame, brought to the first frame's sample rate and channels if need be."""
        channels, rate = len(frame.layout.channels), frame.sample_rate
        if self._peaks is None:
            if channels > _MOST_CHANNELS:
                raise fault("too_many_channels", channels=channels, most=_MOST_CHANNELS)
            self._peaks = Peaks(channels, rate)
            self._layout = frame.layout
        if (channels, rate) == (self._peaks.channels, self._peaks.sample_rate_hz):
            self._gather(_samples(frame))
            return
        resampler = AudioResampler(frame.format, self._layout, self._peaks.sample_rate_hz)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            self._gather(_samples(part))

    def _gather(self, samples: NDArray[Any]) -> None:
        if self._batch and self._batch[0].dtype != samples.dtype:
            self._flush()
        self._batch.append(samples)
        self._gathered += samples.shape[1]
        if self._gathered >= _BATCH_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if self._batch and self._peaks:
            self._peaks.add(np.concatenate(self._batch, axis=1))
        self._batch = []
        self._gathered = 0


def _samples(frame: AudioFrame) -> NDArray[Any]:
    """The samples as (channels, n), whether they lie apart or interleaved."""
    array: NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, len(frame.layout.channels)).T

"""What a recording is and sounds like.

`sniff` judges first bytes and may be called anywhere. `listen` decodes a whole file, in the
sandbox: this process imports neither PyAV nor numpy, only `_decode` in the child does.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earmark import sandbox
from earmark.audio.faults import SENTENCES, fault
from earmark.audio.kinds import (
    HEAD_BYTES,
    Category,
    Kind,
    container_of_extension,
    sniff,
)
from earmark.model import AudioFacts, Warn

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

__all__ = [
    "HEAD_BYTES",
    "SENTENCES",
    "Category",
    "Kind",
    "Listening",
    "Waveform",
    "container_of_extension",
    "decode_speech",
    "listen",
    "sniff",
]

_DURATION_SLACK_SECONDS = 1.0
_DURATION_SLACK_SHARE = 0.02
"""How far header and sound may differ unremarked: encoders pad by frames and round."""

_SILENT_PEAK = 0.001
"""Full scale is 1; -60 dB, below the noise of any line that a person spoke on."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """The lowest and highest sample of each short stretch, to draw the recording.

    Attributes:
        sample_rate_hz: of the recording.
        samples_per_pixel: how long a stretch is, in samples; the last one may be shorter.
        channels: of the recording.
        peaks: signed bytes, -128 to 127: for each stretch, for each channel, lowest, highest.
    """

    sample_rate_hz: int
    samples_per_pixel: int
    channels: int
    peaks: bytes

    @property
    def length(self) -> int:
        """How many stretches there are."""
        return len(self.peaks) // (2 * self.channels)

    def to_json(self) -> bytes:
        """Write it in version 2 of the format that peaks.js and wavesurfer.js read.

        Source: https://github.com/bbc/audiowaveform/blob/master/doc/DataFormat.md
        """
        document = {
            "version": 2,
            "channels": self.channels,
            "sample_rate": self.sample_rate_hz,
            "samples_per_pixel": self.samples_per_pixel,
            "bits": 8,
            "length": self.length,
            "data": array("b", self.peaks).tolist(),
        }
        return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Listening:
    """All that decoding a recording once tells."""

    facts: AudioFacts
    warnings: tuple[Warn, ...]
    waveform: Waveform


def listen(path: Path, *, limits: sandbox.Limits, extension: str = "") -> Listening:
    """Decode a whole recording, once, in a confined child process.

    Of several streams of sound the first counts; pictures are passed over.

    Args:
        path: the file; its name does not matter.
        limits: what decoding may use.
        extension: what the uploader called it (".mp3"), tried when the content says nothing,
            as with an MP3 that begins in the middle of a frame.

    Raises:
        MediaError: the file is at fault; the codes are those of `SENTENCES`.
        SandboxError: the child was ended from outside, or our own code failed in it.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found = sniff(head)
    known = found is not Kind.UNKNOWN
    kind = found if known else container_of_extension(extension)
    if not head:
        raise fault("not_audio", found="nothing at all")
    if kind.category is not Category.AUDIO:
        raise fault("not_audio", found=found.words)
    arguments = {"container": kind.value, "doubtful": not known}
    return _listening(kind, _decoded(path, limits, arguments))


def decode_speech(
    path: Path, facts: AudioFacts, sink: BinaryIO, *, rate_hz: int, limits: sandbox.Limits
) -> None:
    """Decode a whole recording for speech recognition, in a confined child process.

    Args:
        path: the file.
        facts: what `listen` found out about it.
        sink: gets signed 16-bit little-endian samples, those of the channels side by side: two
            hours of two channels are 460 MB at 16 kHz.
        rate_hz: of the samples.
        limits: what decoding may use.

    Raises:
        MediaError, SandboxError, OSError: as `listen`.
    """
    arguments = {"container": facts.container, "channels": facts.channels, "rate_hz": rate_hz}
    _in_sandbox("_speech", path, limits, arguments, sink)


def _decoded(path: Path, limits: sandbox.Limits, arguments: dict[str, Any]) -> sandbox.Answer:
    return _in_sandbox("_decode", path, limits, arguments)


def _in_sandbox(
    module: str,
    path: Path,
    limits: sandbox.Limits,
    arguments: dict[str, Any],
    sink: BinaryIO | None = None,
) -> sandbox.Answer:
    function = f"{__name__}.{module}:decode"
    try:
        return sandbox.run(function, path, limits=limits, arguments=arguments, sink=sink)
    except sandbox.DeadlineExceededError as error:
        raise fault("decode_too_slow") from error
    except sandbox.MemoryExceededError as error:
        raise fault("decoder_out_of_memory") from error
    except sandbox.CrashedError as error:
        if error.by_file:
            raise fault("decoder_crashed") from error
        raise


def _listening(kind: Kind, answer: sandbox.Answer) -> Listening:
    told = answer.value
    facts = AudioFacts(
        container=kind.value,
        codec=told["codec"],
        sample_rate_hz=told["sample_rate_hz"],
        channels=told["channels"],
        duration_seconds=told["duration_seconds"],
        header_duration_seconds=told["header_duration_seconds"],
    )
    waveform = Waveform(
        sample_rate_hz=facts.sample_rate_hz,
        samples_per_pixel=told["samples_per_pixel"],
        channels=facts.channels,
        peaks=answer.blob,
    )
    return Listening(facts, tuple(_warnings(facts, told)), waveform)


def _warnings(facts: AudioFacts, told: dict[str, Any]) -> list[Warn]:
    found = [_duration_warning(facts, guessed=told["header_guessed"])]
    if told["failed_packets"]:
        share = f"{told['failed_packets']} of {told['packets']} parts"
        found.append(
            Warn("decode_errors", f"{share} of the recording are damaged and were left out.")
        )
    if told["peak"] < _SILENT_PEAK:
        found.append(Warn("silent", "The recording is silent from beginning to end."))
    return [warn for warn in found if warn]


def _duration_warning(facts: AudioFacts, *, guessed: bool) -> Warn | None:
    decoded, header = facts.duration_seconds, facts.header_duration_seconds
    if header is None:
        return None
    slack = max(_DURATION_SLACK_SECONDS, _DURATION_SLACK_SHARE * max(decoded, header))
    if abs(decoded - header) <= slack:
        return None
    if decoded < header and not guessed:
        return Warn(
            "truncated",
            f"The recording breaks off after {decoded:.1f} s; its header says {header:.1f} s.",
        )
    return Warn(
        "duration_differs",
        f"The recording lasts {decoded:.1f} s though its header says {header:.1f} s.",
    )

"""Makes short real recordings and archives, the same bytes every time, with PyAV alone."""

from __future__ import annotations

import io
import json
import pkgutil
import tarfile
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np

from earmark import sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Form:
    """How a recording is encoded."""

    container: str
    codec: str
    rate_hz: int = 8000
    channels: int = 2
    bit_rate: int = 0


FORMS = {
    "mulaw.wav": Form("wav", "pcm_mulaw"),
    "alaw.wav": Form("wav", "pcm_alaw"),
    "pcm.wav": Form("wav", "pcm_s16le", 16000, 1),
    "float.wav": Form("wav", "pcm_f32le", 16000, 1),
    "unsigned.wav": Form("wav", "pcm_u8", 8000, 1),
    "deep.wav": Form("wav", "pcm_s24le", 8000, 2),
    "adpcm.wav": Form("wav", "adpcm_ms"),
    "call.mp3": Form("mp3", "libmp3lame", 16000, 2, 32000),
    "call.mp4": Form("mp4", "aac", 16000, 2, 32000),
    "call.m4a": Form("ipod", "alac"),
    "aac.m4a": Form("ipod", "aac", 16000, 1, 32000),
    "call.ogg": Form("ogg", "vorbis", 16000),
    "call.opus": Form("ogg", "libopus", 48000, 2, 24000),
    "call.flac": Form("flac", "flac", 16000),
    "call.aac": Form("adts", "aac", 16000, 1, 32000),
    "call.aiff": Form("aiff", "pcm_s16be"),
    "call.au": Form("au", "pcm_mulaw"),
    "call.mka": Form("matroska", "libopus", 48000, 1, 24000),
    "call.ts": Form("mpegts", "aac", 16000, 1, 32000),
}


EXTENSIONS = (
    *("mulaw.wav", "call.mp3", "call.mp4", "call.ogg", "call.opus", "call.m4a"),
    *("chat.zip", "chat.tar"),
)
"""One file for each extension that may be uploaded."""

_ENCODER = {"flags": "+bitexact", "strict": "experimental"}
"""FFmpeg's own Vorbis encoder, the only one in PyAV's wheel, counts as experimental."""


def make(folder: Path) -> dict[str, Path]:
    """Two seconds of every form, and a chat as .zip and .tar; by file name."""
    made = {name: record(folder / name, form) for name, form in FORMS.items()}
    made["chat.zip"] = _zip(folder / "chat.zip")
    made["chat.tar"] = _tar(folder / "chat.tar")
    return made


def decoded_here(
    function: str,
    path: Path,
    *,
    limits: sandbox.Limits,
    arguments: dict[str, Any],
    sink: BinaryIO | None = None,
) -> sandbox.Answer:
    """Takes the place of `sandbox.run`: a child spends half a second on its imports.

    For tests of what decoders tell; that they tell it from within the sandbox, others show.
    """
    with path.open("rb", buffering=0) as file:
        value, blob = pkgutil.resolve_name(function)(file, **arguments)
        data = blob if isinstance(blob, bytes) else b"".join(blob)
    if sink is not None:
        sink.write(data)
        data = b""
    return sandbox.Answer(json.loads(json.dumps(value)), data)


def sound(seconds: float, rate_hz: int, channels: int) -> NDArray[np.int16]:
    """Tones at half amplitude, shape (channels, n); the channels take turns of 0.5 s."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    turn = (time // 0.5).astype(int) % channels
    tones = [
        np.sin(2 * np.pi * (300 + 140 * channel) * time) * (turn == channel)
        for channel in range(channels)
    ]
    return (np.stack(tones) * 16384).astype(np.int16)


def record(
    path: Path, form: Form, *, seconds: float = 2.0, samples: NDArray[np.int16] | None = None
) -> Path:
    """Encode `samples`, else `seconds` of tones."""
    if samples is None:
        samples = sound(seconds, form.rate_hz, form.channels)
    layout = "stereo" if form.channels == 2 else "mono"
    options = {"fflags": "+bitexact"}
    with av.open(path, "w", format=form.container, container_options=options) as media:
        stream = media.add_stream(form.codec, rate=form.rate_hz, options=_ENCODER)
        stream.layout = layout
        if form.bit_rate:
            stream.bit_rate = form.bit_rate
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), "s16", layout)
        frame.sample_rate = form.rate_hz
        frame.pts, frame.time_base = 0, Fraction(1, form.rate_hz)
        context = stream.codec_context
        context.open()
        resampler = av.AudioResampler(
            context.format, layout, form.rate_hz, frame_size=context.frame_size or 1024
        )
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            media.mux(stream.encode(part))
        media.mux(stream.encode(None))
    return path


CHAT = {
    "Version": "1.1.0",
    "Participants": [
        {"ParticipantId": "agent-1", "ParticipantRole": "AGENT"},
        {"ParticipantId": "customer-1", "ParticipantRole": "CUSTOMER"},
    ],
    "Transcript": [
        {
            "AbsoluteTime": "2026-03-02T09:15:00.000Z",
            "Content": "Good morning, appointment desk. How can I help?",
            "ContentType": "text/plain",
            "DisplayName": "Desk",
            "Id": "1",
            "ParticipantId": "agent-1",
            "ParticipantRole": "AGENT",
            "Type": "MESSAGE",
        },
        {
            "AbsoluteTime": "2026-03-02T09:15:20.000Z",
            "Content": "I need to move my visit to Thursday.",
            "ContentType": "text/plain",
            "DisplayName": "Visitor",
            "Id": "2",
            "ParticipantId": "customer-1",
            "ParticipantRole": "CUSTOMER",
            "Type": "MESSAGE",
        },
    ],
}
MEMBERS = {
    "conversation.json_chat": json.dumps(CHAT, indent=1).encode(),
    "conversation.json_meta": json.dumps({"queue": "appointments"}).encode(),
}


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name, (2026, 3, 2, 9, 20, 0))
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


def _tar(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path

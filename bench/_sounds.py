"""Spoken sounds that the benchmarks of speech hear, and what a line does to them.

Spoken by espeak-ng and flite, so that anybody can make the same; nothing here is fetched.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RATE_HZ = 16_000
PAUSE_SECONDS = 0.8
LINE_RATE_HZ = 8_000

Sound = Any
"""Samples at 16 kHz, -1 to 1, as float32."""


@dataclass(frozen=True)
class Voice:
    """Who speaks: the program, its voice, and how fast, as that program says it."""

    program: str
    name: str
    pace: str


@functools.cache
def speak(text: str, voice: Voice) -> Sound:
    """A sentence."""
    if voice.program == "flite":
        stretch = ("--setf", f"duration_stretch={voice.pace}")
        spoken = _run("flite", "-voice", voice.name, *stretch, "-t", text, "-o", "/dev/stdout")
    else:
        spoken = _run("espeak-ng", "-v", voice.name, "-s", voice.pace, "--stdout", text)
    return _samples(_run(*_ffmpeg("-i", "-"), *_PCM, "-", given=spoken))


def read(path: Path, *options: str) -> Sound:
    """The samples of a file; the options tell what a raw one holds."""
    return _samples(_run(*_ffmpeg(*options, "-i", str(path)), "-ac", "1", *_PCM, "-"))


def converse(turns: Sequence[tuple[int, str]], voices: Sequence[Voice]) -> list[Sound]:
    """The channels of a call in which each turn waits for the one before."""
    channels: list[list[Sound]] = [[] for _ in voices]
    for speaker, text in turns:
        spoken = pause(speak(text, voices[speaker]), PAUSE_SECONDS)
        for number, channel in enumerate(channels):
            channel.append(spoken if number == speaker else np.zeros_like(spoken))
    return [np.concatenate(channel) for channel in channels]


def pause(sound: Sound, seconds: float) -> Sound:
    """The sound with silence after it."""
    return np.concatenate([sound, np.zeros(int(seconds * RATE_HZ), np.float32)])


# What a line does to a call


def on_the_telephone(channels: Sequence[Sound]) -> list[Sound]:
    """Each through 8 kHz mu-law and back."""
    return [_telephone(channel) for channel in channels]


def with_noise(channels: Sequence[Sound], *, ratio_db: float = 15.0) -> list[Sound]:
    """Each with white noise so far below its speech (where it is not silent)."""
    return [_noisy(channel, ratio_db, seed) for seed, channel in enumerate(channels)]


def with_crosstalk(channels: Sequence[Sound], *, leak_db: float = -25.0) -> list[Sound]:
    """Each with the other one's voice in it, as much quieter."""
    leak = np.float32(10 ** (leak_db / 20))
    total = np.sum(channels, axis=0)
    return [channel + leak * (total - channel) for channel in channels]


def _telephone(channel: Sound) -> Sound:
    raw = (np.clip(channel, -1, 1) * 32767).astype("<i2").tobytes()
    line = ("-ar", str(LINE_RATE_HZ), "-ac", "1", "-f", "mulaw")
    source = ("-ar", str(RATE_HZ), "-ac", "1", "-f", "s16le", "-i", "-")
    coded = _run(*_ffmpeg(*source), *line, "-", given=raw)
    return _samples(_run(*_ffmpeg(*line, "-i", "-"), *_PCM, "-", given=coded))[: channel.size]


def _noisy(channel: Sound, ratio_db: float, seed: int) -> Sound:
    speech = channel[np.abs(channel) > 1e-3]
    level = np.sqrt(np.square(speech).mean()) * 10 ** (-ratio_db / 20)
    noise = np.random.default_rng(seed).normal(0, level, channel.size)
    return (channel + noise).astype(np.float32)


_PCM = ("-ar", str(RATE_HZ), "-f", "s16le")


def _ffmpeg(*options: str) -> tuple[str, ...]:
    return ("ffmpeg", "-v", "error", "-nostdin", *options)


def _samples(raw: bytes) -> Sound:
    return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32768)


def _run(*command: str, given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout

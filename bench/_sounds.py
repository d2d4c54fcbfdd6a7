"""Sounds that the benchmarks of speech hear: spoken ones, and ones in which nobody speaks.

Spoken by espeak-ng and flite, so that anybody can make the same; nothing here is fetched.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
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


# Sounds in which nobody speaks


def wordless(seconds: float) -> Iterator[tuple[str, Sound]]:
    """Each by its name."""
    for name, make in _WORDLESS.items():
        yield name, make(_moments(seconds)).astype(np.float32)


def music(moments: Sound) -> Sound:
    """Hold music: chords with overtones, each fading away, a melody over them."""
    chords = ((262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294))
    melody = (523, 494, 440, 392, 349, 392, 440, 494)
    beat, fading = moments.astype(int), np.exp(-2 * (moments % 1.0))
    quick = np.exp(-4 * (moments % 0.5))
    sound = np.zeros_like(moments)
    for number, chord in enumerate(chords):
        for pitch in chord:
            sound += (beat % 4 == number) * fading * _overtones(pitch, moments, 5) * 0.1
    for number, pitch in enumerate(melody):
        sound += ((moments * 2).astype(int) % 8 == number) * quick * _overtones(pitch, moments, 3) * 0.15
    return sound


def _white(moments: Sound) -> Sound:
    return np.random.default_rng(1).normal(0, 0.1, moments.size)


def _pink(moments: Sound) -> Sound:
    spectrum = np.fft.rfft(np.random.default_rng(2).normal(0, 1, moments.size))
    sound = np.fft.irfft(spectrum / np.sqrt(np.arange(1, spectrum.size + 1)), moments.size)
    return sound / np.abs(sound).max() * 0.5


def _hum(moments: Sound) -> Sound:
    return _overtones(60, moments, 6) * 0.1 + _white(moments) * 0.03


def _tone(moments: Sound) -> Sound:
    return np.sin(2 * np.pi * 440 * moments) * 0.5


def _ringing(moments: Sound) -> Sound:
    """The ringing of North America: two seconds of 440 and 480 Hz, four of silence."""
    pair = np.sin(2 * np.pi * 440 * moments) + np.sin(2 * np.pi * 480 * moments)
    return pair * (moments % 6 < 2) * 0.2


def _busy(moments: Sound) -> Sound:
    pair = np.sin(2 * np.pi * 480 * moments) + np.sin(2 * np.pi * 620 * moments)
    return pair * (moments % 1 < 0.5) * 0.2


def _keys(moments: Sound) -> Sound:
    """DTMF: all digits, one after the other."""
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477)
    number = (moments / 0.25).astype(int) % 12
    low, high = np.array(rows)[number // 3], np.array(columns)[number % 3]
    pair = np.sin(2 * np.pi * low * moments) + np.sin(2 * np.pi * high * moments)
    return pair * (moments % 0.25 < 0.12) * 0.25


def _fax(moments: Sound) -> Sound:
    """A calling tone, then frequencies that jump 300 times a second."""
    bits = np.random.default_rng(3).integers(0, 2, int(moments[-1] * 300) + 1)
    pitch = np.where(bits[(moments * 300).astype(int)] == 1, 1650, 1850)
    data = np.sin(2 * np.pi * np.cumsum(pitch) / RATE_HZ)
    calling = np.sin(2 * np.pi * 1100 * moments) * (moments % 3.5 < 0.5)
    return np.where(moments < moments[-1] / 3, calling, data) * 0.3


_WORDLESS: dict[str, Callable[[Sound], Sound]] = {
    "silence": np.zeros_like,
    "tone": _tone,
    "white noise": _white,
    "pink noise": _pink,
    "line hum": _hum,
    "hold music": music,
    "ringing": _ringing,
    "busy tone": _busy,
    "keys (DTMF)": _keys,
    "fax": _fax,
}


def _moments(seconds: float) -> Sound:
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def _overtones(pitch: float, moments: Sound, count: int) -> Sound:
    return sum(
        np.sin(2 * np.pi * pitch * number * moments) / number**2 for number in range(1, count + 1)
    )


_PCM = ("-ar", str(RATE_HZ), "-f", "s16le")


def _ffmpeg(*options: str) -> tuple[str, ...]:
    return ("ffmpeg", "-v", "error", "-nostdin", *options)


def _samples(raw: bytes) -> Sound:
    return np.frombuffer(raw, "<i2").astype(np.float32) / np.float32(32768)


def _run(*command: str, given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout

"""Sounds in which nobody speaks, as they occur in calls: no engine may hear a word in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from earmark.speech import RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Sound = Any
"""Samples at 16 kHz, -1 to 1, as float32."""


def wordless(seconds: float) -> Iterator[tuple[str, Sound]]:
    """Each by its name."""
    for name in WORDLESS:
        yield name, make(name, seconds)


def make(name: str, seconds: float) -> Sound:
    """One of them."""
    return WORDLESS[name](_moments(seconds)).astype(np.float32)


def _music(moments: Sound) -> Sound:
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
        turn = (moments * 2).astype(int) % 8 == number
        sound += turn * quick * _overtones(pitch, moments, 3) * 0.15
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


WORDLESS: dict[str, Callable[[Sound], Sound]] = {
    "silence": np.zeros_like,
    "tone": _tone,
    "white noise": _white,
    "pink noise": _pink,
    "line hum": _hum,
    "hold music": _music,
    "ringing": _ringing,
    "busy tone": _busy,
    "keys (DTMF)": _keys,
    "fax": _fax,
}


def _moments(seconds: float) -> Sound:
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def _overtones(pitch: float, moments: Sound, count: int) -> Sound:
    numbers = range(1, count + 1)
    return sum(np.sin(2 * np.pi * pitch * number * moments) / number**2 for number in numbers)

"""Recordings and chats that differ each time, small enough to be processed by the hundred."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING

from chats import zipped

if TYPE_CHECKING:
    import random

LARGEST_BYTES = {".wav": 2_000_000, ".zip": 120_000}
"""Chats stay in memory until they are committed, most recordings do not."""


def media(name: str, dice: random.Random, size: int = 0) -> bytes:
    """What a file of that name holds; of that many bytes if they are given, but for its head."""
    kind = name[-4:]
    size = size or dice.randrange(LARGEST_BYTES[kind] // 10, LARGEST_BYTES[kind])
    return _recording(dice, size) if kind == ".wav" else _chat(dice, size)


def _recording(dice: random.Random, size: int) -> bytes:
    """Noise."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(dice.randbytes(size // 2 * 2))
    return made.getvalue()


def _chat(dice: random.Random, size: int) -> bytes:
    """An archive of nonsense."""
    return zipped({"chat.txt": f"Somebody: {dice.randbytes(size // 2).hex()}"})

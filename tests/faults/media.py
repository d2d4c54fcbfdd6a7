"""Recordings and chats that differ each time, small enough to be processed by the hundred."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING

from chats import zipped

if TYPE_CHECKING:
    import random

LARGEST_BYTES = 120_000


def recording(dice: random.Random, most: int = LARGEST_BYTES) -> bytes:
    """Noise of a few seconds; at most that many bytes, and at least a tenth of it."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(dice.randbytes(2 * dice.randrange(most // 20, most // 2)))
    return made.getvalue()


def chat(dice: random.Random, most: int = LARGEST_BYTES) -> bytes:
    """An archive of nonsense."""
    said = dice.randbytes(dice.randrange(most // 20, most // 2)).hex()
    return zipped({"chat.txt": f"Somebody: {said}"})


def media(name: str, dice: random.Random, most: int = LARGEST_BYTES) -> bytes:
    """What a file of that name holds."""
    return (recording if name.endswith(".wav") else chat)(dice, most)

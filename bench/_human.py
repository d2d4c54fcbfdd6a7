"""People who speak English, with what they say: recordings of Debian's pocketsphinx-testdata.

Readings of a novel by a volunteer of LibriVox (public domain), playing cards called out, and a
command; the package's licence is BSD.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _calls import Call
from _sounds import pause, read

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/usr/share/pocketsphinx/test/data")
GAP_SECONDS = 1.0
_RAW = ("-f", "s16le", "-ar", "16000", "-ac", "1")


def calls() -> Iterator[Call]:
    """All recordings, one after the other, as one channel."""
    told, sounds = zip(*_recordings(), strict=True)
    channel = np.concatenate([pause(sound, GAP_SECONDS) for sound in sounds])
    yield Call("human English", "en", [channel], [list(told)])


def _recordings() -> Iterator[tuple[str, object]]:
    for name in ("librivox/transcription", "cards/cards.transcription"):
        folder = (FOLDER / name).parent
        for line in (FOLDER / name).read_text().splitlines():
            said = re.fullmatch(r"<s> (.*?) +</s> \((.*)\)", line.strip())
            assert said, line
            yield said[1], read(folder / f"{said[2]}.wav")
    yield "go forward ten meters", read(FOLDER / "goforward.raw", *_RAW)

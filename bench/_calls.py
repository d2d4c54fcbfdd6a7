"""Generated calls with what is said in them: conversation of a clinic's desk, in two languages.

No sentence holds a number, a name or an abbreviation that can be written in two ways.
"""

from __future__ import annotations

import math
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from _sounds import RATE_HZ, Sound, Voice, converse, on_the_telephone

import wordless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ENGLISH_VOICES = (Voice("flite", "rms", "1.0"), Voice("flite", "kal16", "1.0"))
SPANISH_VOICES = (Voice("espeak-ng", "es-419+m2", "145"), Voice("espeak-ng", "es-419+f2", "130"))

ENGLISH = (
    (0, "Good morning, Riverside Clinic. How can I help you?"),
    (1, "Hello. I have an appointment on Tuesday and I need to move it."),
    (0, "Of course. Would Thursday morning suit you?"),
    (1, "Thursday is fine, but could it be in the afternoon?"),
    (0, "Yes, there is a free place after lunch. Shall I book that for you?"),
    (1, "Yes, please. Do I have to bring anything?"),
    (0, "Only your insurance card. We will send you a reminder the day before."),
    (1, "That is great. And can you tell me where I can park my car?"),
    (0, "There is a large car park behind the building, and it is free for patients."),
    (1, "Wonderful. My mother will come with me, because she drives."),
    (0, "That is no problem at all. She can wait in the room next to the entrance."),
    (1, "Thank you very much for your help. Goodbye."),
    (0, "You are welcome. Have a nice day. Goodbye."),
)
SPANISH = (
    (0, "Buenos días. Quisiera hablar con usted de su cita."),
    (1, "Sí, perfecto. Tengo la cita el martes por la mañana."),
    (0, "Muy bien. ¿Es posible venir el jueves por la mañana?"),
    (1, "Prefiero el lunes, si es posible."),
    (0, "De acuerdo. El lunes por la mañana es mejor para nosotros."),
    (1, "Sí, es perfecto. ¿Tengo que llevar algo?"),
    (0, "No, no es necesario. Todo está en nuestro sistema."),
    (1, "Muy bien. Mi madre quiere venir conmigo."),
    (0, "Claro que sí. Su madre puede esperar en la sala."),
    (1, "De acuerdo. Muchas gracias por todo."),
    (0, "Muchas gracias por su tiempo. Hasta el lunes."),
)


@dataclass(frozen=True)
class Call:
    """A call of two channels and what is said on each.

    Attributes:
        channels: agent first.
        said: the sentences of each channel.
    """

    name: str
    language: str
    channels: Sequence[Sound]
    said: Sequence[Sequence[str]]


def calls() -> Iterator[Call]:
    """One in each language."""
    for name, language, turns, voices in (
        ("generated English", "en", ENGLISH, ENGLISH_VOICES),
        ("generated Spanish", "es", SPANISH, SPANISH_VOICES),
    ):
        said = [[text for speaker, text in turns if speaker == side] for side in (0, 1)]
        yield Call(name, language, converse(turns, voices), said)


LONG_TALK_SECONDS, LONG_WAIT_SECONDS = 600, 510
"""A long call begins with so much talk without a break; then it waits so long between talks."""


def long_call(seconds: float) -> list[Sound]:
    """A telephone call of that length: talk, then ever again hold music, silence and some talk."""
    talk = on_the_telephone(converse(ENGLISH, ENGLISH_VOICES))
    hold = wordless.make("hold music", 60)
    rest = np.zeros((LONG_WAIT_SECONDS - 60) * RATE_HZ, np.float32)
    waiting = np.concatenate([hold, rest])
    wait = on_the_telephone([waiting, np.zeros_like(waiting)])
    first = math.ceil(min(seconds, LONG_TALK_SECONDS) * RATE_HZ / talk[0].size)
    pieces, length = [talk] * first, first * talk[0].size
    while length < seconds * RATE_HZ:
        pieces += [wait, talk]
        length += wait[0].size + talk[0].size
    wanted = int(seconds * RATE_HZ)
    return [np.concatenate(channel)[:wanted] for channel in zip(*pieces, strict=True)]


def write_wav(channels: Sequence[Sound], path: Path) -> None:
    """16 bits, 16 kHz."""
    frames = np.stack(channels, axis=1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.clip(frames, -1, 1) * 32767).astype("<i2").tobytes())

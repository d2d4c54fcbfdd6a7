"""Why a recording cannot be processed: every code with its sentence, cause and mend."""

from __future__ import annotations

from types import MappingProxyType

from earmark.errors import MediaError

_SEND = "Upload the recording itself, as .wav, .mp3, .mp4, .m4a, .ogg or .opus."

SENTENCES = MappingProxyType(
    {
        "not_audio": f"The file holds {{found}}, not audio. {_SEND}",
        "unreadable": (
            "The file says that it is {found} but is damaged or cut off before any sound. "
            "Export the recording again and upload that."
        ),
        "no_audio": f"The file holds no sound, only other things such as pictures. {_SEND}",
        "no_audio_decoded": (
            "The file has a place for sound, but there is none in it. "
            "Check that the call was recorded, export it again and upload that."
        ),
        "unsupported_codec": (
            "The sound is coded as {codec}, which cannot be decoded here. "
            "Convert the recording to PCM, G.711, MP3, AAC or Opus and upload that."
        ),
        "too_many_channels": (
            "The recording has {channels} channels; at most {most} are taken. "
            "Mix it down to one channel per speaker and upload that."
        ),
        "decode_too_slow": (
            "Decoding the recording took longer than the limit. If it is sound and simply long, "
            "split it or ask the operator for a higher limit."
        ),
        "decoder_crashed": (
            "The decoder crashed on the file, which is probably damaged. "
            "Export the recording again and upload that."
        ),
        "decoder_out_of_memory": (
            "Decoding the file needs more memory than the limit, which no sound recording does. "
            "Export the recording again and upload that."
        ),
    }
)
"""Sentence by code; the words in braces are filled in."""


def fault(code: str, **words: object) -> MediaError:
    """Make the error of a code, its sentence filled in."""
    return MediaError(code, SENTENCES[code].format(**words))

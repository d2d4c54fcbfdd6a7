"""One real refusal of each code, which its page shows whole.

What a person reads here is what the code says elsewhere: tests bring about each refusal that can
be brought about and compare, and look every other sentence up in the source that words it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.exceptions import HTTPException

from earmark.errors import (
    ConflictError,
    DeletedError,
    EarmarkError,
    Fault,
    ForbiddenError,
    Invalid,
    InvalidError,
    KeyInUseError,
    KeyReusedError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    SlowError,
    StorageQuotaError,
    TooLargeError,
    TooManyUploadsError,
    UnauthenticatedError,
    UnavailableError,
    UploadRateError,
    Why,
)
from earmark.web import errors
from earmark.web.acxapi import upload, wire
from earmark.web.api.media import unsatisfiable

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE_ID = UUID("018f2f1e-7a5c-7c3e-9d41-5b0c6a2f8e10")
"""Stands for an id of the reader's."""


@dataclass(frozen=True, slots=True)
class Example:
    """An answer, and what another refusal of the same code has otherwise.

    Attributes:
        varies: in words, with backquotes around names; empty if every such answer is this one.
        problem_only: only `/v1` tells it, always as a problem.
    """

    answer: errors.Answer
    varies: str = ""
    problem_only: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """What stands in a record of an interaction.

    Attributes:
        message: the sentence of `steps[].error` or `warnings[]`.
        step: in which it fails; empty for a warning.
        status: of that step.
        varies: as of an Example.
    """

    message: str
    step: str = ""
    status: str = "failed"
    varies: str = ""


_FAULTS: Mapping[Why, tuple[str, str, str]] = {
    Why.NO_FILE: ("file", f"Send a file whose name ends in {wire.LISTED}.", ""),
    Why.NO_METADATA: ("metadata", "Send a metadata part with JSON text.", ""),
    Why.METADATA_FORM: (
        "metadata",
        "The metadata is not a JSON object.",
        "`detail` of the fault says what is wrong with it",
    ),
    Why.MEDIA_TYPE: ("UploadType", "Send Audio or Chat.", ""),
    Why.VALUE: (
        "CallDirection",
        "Send Inbound or Outbound.",
        "`field` and `detail` of the fault name the key and what it takes",
    ),
    Why.FILE_NAME: (
        "FileName",
        "End the name in one of: .m4a, .mp3, .mp4, .ogg, .opus, .wav.",
        "`detail` of the fault says what is wrong with the name",
    ),
    Why.EXTENSION_MISMATCH: (
        "FileName",
        "The name ends in .mp3, the file in .wav.",
        "`detail` of the fault has the two extensions",
    ),
    Why.NAME_TAKEN: (
        "file_name",
        "Choose another name, or delete the other one.",
        (
            "`existingId` and `Location` name the other interaction; `Earmark-Duplicate` is "
            "`identical`, `different` or `unknown`"
        ),
    ),
    Why.LOCALE: ("locale", "Send one of the supported locales, or none.", ""),
    Why.HIERARCHY: (
        "hierarchy_code",
        "No active hierarchy node of your organization has this id or code.",
        "`field` of the fault is `HierarchyId` where no code was sent",
    ),
    Why.SIGNED_URL_OFF: ("signedUrl", "Send the file in the part file.", ""),
    Why.SIGNED_URL_INVALID: (
        "signedUrl",
        "Send an absolute address that begins with https://.",
        "`detail` of the fault says what is wrong with the address",
    ),
    Why.SIGNED_URL_EXPIRED: ("signedUrl", "Sign it anew, for longer.", ""),
    Why.SIGNED_URL_REFUSED: (
        "signedUrl",
        "Downloads from there are not allowed, or there is no such host.",
        "",
    ),
    Why.SIGNED_URL_FAILED: (
        "signedUrl",
        "Its server answers with status 403.",
        (
            "`detail` of the fault has the status of a public store; else it says that the file "
            "could not be had"
        ),
    ),
    Why.SIGNED_URL_TOO_SLOW: (
        "signedUrl",
        "Its server sends too slowly; try again, or upload the file itself.",
        "",
    ),
    Why.SIGNED_URL_TOO_LARGE: ("signedUrl", "The file there is larger than is taken.", ""),
    Why.SIGNED_URL_INTERRUPTED: (
        "signedUrl",
        "The service stopped in the middle of the download. Send the upload again.",
        "`detail` of the fault says what came between",
    ),
    Why.EMPTY_FILE: ("file", "The file holds no bytes.", ""),
    Why.NOT_MEDIA: (
        "file",
        "The file holds an XML or HTML page; send a recording or a chat archive.",
        "`detail` of the fault says what the file holds",
    ),
    Why.DIGEST_MISMATCH: (
        "file",
        (
            "124 bytes came, whose SHA-256 is "
            "da15cc9a1a8e18c9f897ce40b6c3601531b547617876d699c47939b83582afe9, not "
            f"{'0' * 64}. Compare them with the file, and send it again."
        ),
        "`detail` of the fault has the size and the SHA-256 of what came, and the one announced",
    ),
    Why.DIGEST_MALFORMED: (
        "file",
        "A sha-256 has 32 bytes, which are 44 characters of base64.",
        "`detail` of the fault says what is wrong with the digest",
    ),
    Why.KEY_MALFORMED: (
        "Idempotency-Key",
        "Write visible ASCII in quotation marks, without anything behind them.",
        "`detail` of the fault says what is wrong with the key",
    ),
    Why.TOO_MANY_PARTS: ("", "Send at most 32 parts.", ""),
    Why.FORM_MALFORMED: (
        "",
        "Unexpected end of multipart stream (parser closed).",
        "`detail` of the fault says where the form breaks",
    ),
}
"""Field and detail of a fault of each kind, and what varies."""

_RETRY = "the seconds, in the sentence and in `Retry-After`"

_RAISED: Mapping[str, tuple[EarmarkError, str]] = {
    "invalid_value": (
        InvalidError(Invalid("pageSize", "Send a number from 1 to 1000.")),
        "`errors` has every value that is wrong; the sentence joins them",
    ),
    "unauthenticated": (
        UnauthenticatedError("The access token is not valid.", presented=True),
        (
            "the sentence says what is wrong with the token; where none was sent, "
            "`WWW-Authenticate` is `Bearer` alone"
        ),
    ),
    "insufficient_scope": (
        ForbiddenError('This client does not hold the grant "ingest".'),
        "the name of the grant, or of the scope",
    ),
    "not_found": (NotFoundError(), ""),
    "processing": (
        ConflictError("processing", "The interaction is still processed; ask later."),
        "a retry says `wait for its end` in place of `ask later`",
    ),
    "nothing_to_retry": (
        ConflictError(
            "nothing_to_retry",
            "The interaction is ready and none of its steps failed or was skipped.",
        ),
        "",
    ),
    "idle": (SlowError(), ""),
    "idempotency_key_in_use": (KeyInUseError(2), _RETRY),
    "idempotency_key_reused": (KeyReusedError(), ""),
    "deleted": (DeletedError(), ""),
    "too_large": (TooLargeError(5 * 1024**3 // 2), "the most that the operator lets in"),
    "rate_limited": (RateLimitedError(60), _RETRY),
    "upload_rate_limited": (UploadRateError(60), _RETRY),
    "too_many_uploads": (TooManyUploadsError(1), _RETRY),
    "internal": (EarmarkError(), ""),
    "unavailable": (UnavailableError("", retry_after_seconds=60), _RETRY),
    "storage_quota_reached": (StorageQuotaError(), ""),
}
"""What the heart raises, with one of its sentences where it has several."""

_PROBLEMS_ONLY = frozenset({"not_acceptable", "nothing_to_retry", "processing"})

_WORDED: Mapping[str, Example] = {
    "not_multipart": Example(upload.NOT_MULTIPART),
    "method_not_allowed": Example(
        errors.of_http(HTTPException(405), ["POST"]),
        "the methods that the address takes, in the sentence and in `Allow`",
    ),
    "http_error": Example(
        errors.of_http(HTTPException(400, "There was an error parsing the body"), []),
        "status and sentence",
    ),
    "processing_failed": Example(
        errors.Answer(
            400,
            "processing_failed",
            "The conversation failed to process. The archive is damaged or cut off. Export the "
            "chat again and upload that.",
        ),
        "what follows the first sentence says why",
    ),
    "not_acceptable": Example(
        errors.Answer(
            406,
            "not_acceptable",
            "Send an Accept header with one of: application/json, text/vtt, "
            "application/x-subrip, text/plain.",
            {"Vary": "Accept"},
        ),
        "",
        problem_only=True,
    ),
    "range_not_satisfiable": Example(
        unsatisfiable(124),
        "the size of the media, in the sentence and in `Content-Range`",
        problem_only=True,
    ),
}
"""What is worded where it arises."""


def refused_upload(why: Why) -> Example:
    """The refusal of an upload for one fault."""
    field, detail, varies = _FAULTS[why]
    error = RefusedError(
        [Fault(why, field, detail)], existing_id=EXAMPLE_ID, duplicate="identical"
    )
    return Example(wire.refusal(error), varies)


def refused_request(code: str) -> Example:
    """The refusal of another request."""
    if code in _WORDED:
        return _WORDED[code]
    error, varies = _RAISED[code]
    return Example(errors.describe(error), varies, problem_only=code in _PROBLEMS_ONLY)


TOKENS: Mapping[str, tuple[str, Mapping[str, str], str]] = {
    "invalid_request": (
        "Send grant_type=client_credentials.",
        {},
        "`error_description` says what is wrong",
    ),
    "invalid_client": (
        "Unknown client or wrong secret.",
        {},
        (
            "`error_description` where credentials are missing or malformed; who authenticates by "
            "Basic gets `WWW-Authenticate`, too"
        ),
    ),
    "unsupported_grant_type": ("The only grant type is client_credentials.", {}, ""),
    "invalid_scope": ("The only scope is acxapi.", {}, ""),
    "too_many_requests": (
        "Too many requests or wrong secrets. Retry in 60 s.",
        {"Retry-After": "60"},
        _RETRY,
    ),
}
"""Description, further headers, and what varies."""

_RECORDING = "Upload the recording itself, as .wav, .mp3, .mp4, .m4a, .ogg or .opus."
_PACK = "Pack the chat's files into a plain .tar or a .zip and upload that."
_EXPORT = "Export the chat again and upload that."
_SOUND = "Export the recording again and upload that."

NOTES: Mapping[str, Note] = {
    "not_audio": Note(
        f"The file holds JSON text, not audio. {_RECORDING}",
        "listen",
        varies="what the file holds",
    ),
    "unreadable": Note(
        f"The file says that it is mp3 audio but is damaged or cut off before any sound. {_SOUND}",
        "listen",
        varies="the kind of file",
    ),
    "no_audio": Note(
        f"The file holds no sound, only other things such as pictures. {_RECORDING}", "listen"
    ),
    "no_audio_decoded": Note(
        "The file has a place for sound, but there is none in it. Check that the call was "
        "recorded, export it again and upload that.",
        "listen",
    ),
    "unsupported_codec": Note(
        "The sound is coded as wmav2, which cannot be decoded here. Convert the recording to "
        "PCM, G.711, MP3, AAC or Opus and upload that.",
        "listen",
        varies="the name of the codec",
    ),
    "too_many_channels": Note(
        "The recording has 24 channels; at most 16 are taken. Mix it down to one channel per "
        "speaker and upload that.",
        "listen",
        varies="the number of channels",
    ),
    "decode_too_slow": Note(
        "Decoding the recording took longer than the limit. If it is sound and simply long, "
        "split it or ask the operator for a higher limit.",
        "listen",
    ),
    "decoder_crashed": Note(
        f"The decoder crashed on the file, which is probably damaged. {_SOUND}", "listen"
    ),
    "decoder_out_of_memory": Note(
        "Decoding the file needs more memory than the limit, which no sound recording does. "
        f"{_SOUND}",
        "listen",
    ),
    "decoder_killed": Note(
        "The process that decodes the recording was ended from outside, most likely because the "
        "machine ran out of memory, and so each time it was tried. Retry it; if it fails again, "
        "give the machine more memory or lower EARMARK_WORKER_CONCURRENCY.",
        "listen",
    ),
    "not_archive": Note(
        f"The file holds something else, not a .tar or .zip archive. {_PACK}",
        "unpack",
        varies="what the file holds",
    ),
    "archive_compressed": Note(
        f"The file holds gzip-compressed data; a .tar must not be compressed. {_PACK}",
        "unpack",
        varies="the kind of compression",
    ),
    "archive_unsafe": Note(
        "The archive breaks a rule that keeps this service safe: it has more than 2000 members. "
        f"{_PACK}",
        "unpack",
        varies="the rule",
    ),
    "archive_damaged": Note(f"The archive is damaged or cut off. {_EXPORT}", "unpack"),
    "archive_empty": Note(
        "The archive holds no files. Check the export and upload it again.", "unpack"
    ),
    "chat_missing": Note(
        "The archive holds no chat log, only: photo.jpg. Add the log, such as chat.json_chat or "
        "chat.txt, and upload the archive again.",
        "unpack",
        varies="the names of the files",
    ),
    "chat_unknown": Note(
        "The archive holds no chat in a format that is understood. Found: chat.txt (other text). "
        "Understood: Earmark's JSON, Amazon Connect transcripts, vCon text dialogs, WhatsApp "
        "exports, lines of `Name: text`. Export the chat in one of them and upload that.",
        "unpack",
        varies="the files, and what each seems to be",
    ),
    "chat_encoding": Note(
        "The chat log is neither UTF-8 nor UTF-16 with a byte order mark: chat.txt. Save it as "
        "UTF-8 and upload the archive again.",
        "unpack",
        varies="the names of the logs",
    ),
    "chat_damaged": Note(
        "The chat log chat.json has in message 3 a time that is no ISO 8601 (yesterday). "
        f"{_EXPORT}",
        "unpack",
        varies="the log, the place, and what is wrong there",
    ),
    "chat_empty": Note(
        "The chat log holds no message: chat.json. Check the export.",
        "unpack",
        varies="the names of the logs",
    ),
    "chat_too_large": Note(
        "The chat has more text than fits into a transcript. Split it into several archives, or "
        "leave out what is no message.",
        "unpack",
        varies="of what there is too much",
    ),
    "chat_too_slow": Note(
        "Reading the archive took longer than the limit. If it is sound and simply large, split "
        "it or ask the operator for a higher limit.",
        "unpack",
    ),
    "chat_reader_crashed": Note(
        f"The reader crashed on the archive, which is probably damaged. {_EXPORT}", "unpack"
    ),
    "speech_off": Note(
        "Speech recognition is switched off by EARMARK_SPEECH_ENGINE. Switch it on, then retry.",
        "transcribe",
        "skipped",
    ),
    "speech_engine_missing": Note(
        "What recognizes speech is not installed here. Install it with "
        "`pip install 'earmark[speech]'`, then retry.",
        "transcribe",
        "skipped",
    ),
    "speech_model_missing": Note(
        "No speech model is installed. Install one with `earmark models install base`, then "
        "retry.",
        "transcribe",
        "skipped",
        "where EARMARK_SPEECH_MODEL names one, its name",
    ),
    "speech_model_unusable": Note(
        "The speech model in base cannot be used (the file is cut off); install it anew.",
        "transcribe",
        varies="the model, and what is wrong with it",
    ),
    "speech_url_missing": Note(
        "EARMARK_SPEECH_ENGINE is remote, but EARMARK_SPEECH_URL names no server. Set it, then "
        "retry.",
        "transcribe",
        "skipped",
    ),
    "speech_unreachable": Note(
        "The speech server did not serve (it answers 502). Retry when it does.",
        "transcribe",
        varies="what the server did",
    ),
    "speech_refused": Note(
        "The speech server refused the recording with status 401. Check EARMARK_SPEECH_URL, "
        "EARMARK_SPEECH_KEY and EARMARK_SPEECH_MODEL, then retry.",
        "transcribe",
        varies="the status",
    ),
    "worker_lost": Note(
        "The worker stopped in the middle of processing this, and did so again each time it was "
        "tried. Retry it; if it fails again, the file itself may be what stops the worker.",
        "listen",
        varies="the step",
    ),
    "internal": Note(
        "Earmark could not process this because of a fault of its own. Retry it; if it fails "
        "again, give the id of the interaction to your operator, whose log holds the details.",
        "listen",
        varies="the step",
    ),
    "short_of_resources": Note(
        "The machine had no more memory, processes, open files or room on its disk for this. "
        "Give it more, or lower EARMARK_WORKER_CONCURRENCY; then retry it.",
        "listen",
        varies="the step",
    ),
    "unavailable": Note(
        "Storage or database could not be reached while this was processed. Retry it when they "
        "can.",
        "listen",
        varies="the step",
    ),
    "truncated": Note(
        "The recording breaks off after 4.9 s; its header says 33.3 s.", varies="the seconds"
    ),
    "duration_differs": Note(
        "The recording lasts 33.3 s though its header says 28.6 s.", varies="the seconds"
    ),
    "chat_files_left_out": Note(
        "Files of the archive were not understood and are not in the transcript: "
        "notes.txt (other text).",
        varies="the files, and what each seems to be",
    ),
    "chat_metadata_left_out": Note(
        "Side files of the archive could not be used: other.json_meta (no log of this name).",
        varies="the files, and why",
    ),
    "container_differs": Note(
        "The name ends in .mp3, but the file holds wav audio.", varies="the two kinds"
    ),
    "decode_errors": Note(
        "3 of 1200 parts of the recording are damaged and were left out.", varies="the numbers"
    ),
    "language_mismatch": Note(
        "The locale says English, but the recording sounds like Spanish; its transcript may be "
        "wrong.",
        varies="the two languages",
    ),
    "silent": Note("The recording is silent from beginning to end."),
}
"""What a record says of each failed or skipped step and each warning."""

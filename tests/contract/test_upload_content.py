"""What the file holds: real recordings, other containers, and what is plainly no media."""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from contract.forms import WAV, form, meta, new_name

if TYPE_CHECKING:
    from contract.serving import Caller

seed = pytest.mark.origin("seed")
ours = pytest.mark.origin("ours")

EMPTY = "You must upload a file that is not empty."
NOT_MEDIA = "You must upload a file that holds audio or a chat archive."

both_orders = pytest.mark.parametrize("file_first", [False, True], ids=["metadata", "file"])


def sent(content: bytes, ending: str = ".wav", *, file_first: bool = False) -> bytes:
    upload_type = "Chat" if ending in {".tar", ".zip"} else "Audio"
    metadata = meta(FileName=new_name(ending), UploadType=upload_type)
    return form(metadata, content, name=f"sent{ending}", file_first=file_first)


@seed
@both_orders
@pytest.mark.parametrize(
    "ending", [".wav", ".mp3", ".mp4", ".ogg", ".opus", ".m4a", ".tar", ".zip"]
)
def test_a_real_file_of_each_extension_is_kept_byte_for_byte(
    caller: Caller, samples: dict[str, bytes], ending: str, file_first: bool
) -> None:
    content = samples[ending]
    answer = caller.upload(sent(content, ending, file_first=file_first))
    interaction = caller.interaction(answer)
    digest = hashlib.sha256(content).digest()
    assert (interaction.size_bytes, interaction.sha256) == (len(content), digest)
    assert interaction.warnings == ()
    assert answer.headers["repr-digest"] == f"sha-256=:{b64encode(digest).decode()}:"
    media = caller.send("GET", f"/v1/interactions/{interaction.id}/media")
    assert media.body == content


NO_MEDIA = [
    (b"", EMPTY),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', NOT_MEDIA),
    (b"\xef\xbb\xbf \r\n<!DOCTYPE html><p>Sign in</p>", NOT_MEDIA),
    (b"<html>", NOT_MEDIA),
    (b"\x7fELF\x02\x01\x01" + bytes(60), NOT_MEDIA),
    (b"MZ\x90\x00" + bytes(60), NOT_MEDIA),
    (b"#!/bin/sh\nrm -rf /\n", NOT_MEDIA),
    (b"%PDF-1.7\n", NOT_MEDIA),
    (b"\x89PNG\r\n\x1a\n" + bytes(8), NOT_MEDIA),
    (b"\x7fELF" + os.urandom(300_000), NOT_MEDIA),
]


@ours
@both_orders
@pytest.mark.parametrize(
    ("content", "sentence"),
    NO_MEDIA,
    ids=["empty", "xml", "doctype", "html", "elf", "mz", "shell", "pdf", "png", "large elf"],
)
@pytest.mark.parametrize("ending", [".mp3", ".wav", ".zip"])
def test_what_is_plainly_no_media_is_refused(
    caller: Caller, content: bytes, sentence: str, ending: str, file_first: bool
) -> None:
    before = caller.service.kept()
    whole = sent(content, ending, file_first=file_first)
    pieces = [whole[at : at + 8192] for at in range(0, len(whole), 8192)]
    answer = caller.upload(pieces)
    assert (answer.status, answer.text) == (400, sentence)
    assert caller.service.kept() == before


@ours
@both_orders
@pytest.mark.parametrize("archive", [".zip", ".tar"])
@pytest.mark.parametrize("ending", [".mp3", ".wav"])
def test_an_archive_named_as_audio_is_refused(
    caller: Caller, samples: dict[str, bytes], archive: str, ending: str, file_first: bool
) -> None:
    answer = caller.upload(sent(samples[archive], ending, file_first=file_first))
    assert (answer.status, answer.text) == (400, NOT_MEDIA)


@ours
def test_the_problem_says_what_the_file_holds(caller: Caller) -> None:
    answer = caller.upload(sent(b"<html>", ".mp3"), accept="application/problem+json")
    assert answer.json["code"] == "file_not_media"
    (fault,) = answer.json["faults"]
    assert (
        fault["detail"]
        == "The file holds an XML or HTML page; send a recording or a chat archive."
    )


@ours
@pytest.mark.parametrize(
    ("holds", "ending"), [(".wav", ".mp3"), (".ogg", ".wav"), (".mp3", ".m4a"), (".wav", ".zip")]
)
def test_another_audio_container_is_taken_with_a_warning(
    caller: Caller, samples: dict[str, bytes], holds: str, ending: str
) -> None:
    interaction = caller.interaction(caller.upload(sent(samples[holds], ending)))
    (warning,) = interaction.warnings
    assert warning.code == "container_differs"
    record = caller.send("GET", f"/v1/interactions/{interaction.id}").json
    assert [each["code"] for each in record["warnings"]] == ["container_differs"]


@ours
@pytest.mark.parametrize("pair", [(".mp4", ".m4a"), (".m4a", ".mp4"), (".opus", ".ogg")], ids=str)
def test_extensions_of_one_container_are_the_same(
    caller: Caller, samples: dict[str, bytes], pair: tuple[str, str]
) -> None:
    answer = caller.upload(sent(samples[pair[0]], pair[1]))
    assert caller.interaction(answer).warnings == ()


@ours
@pytest.mark.parametrize("ending", [".mp3", ".zip"])
@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x01" * 5000, bytes(range(256)) * 40, b'{"error": "expired"}', b"plain words"],
    ids=["nul", "ones", "all bytes", "json", "words"],
)
def test_bytes_of_no_known_kind_are_left_to_processing(
    caller: Caller, content: bytes, ending: str
) -> None:
    interaction = caller.interaction(caller.upload(sent(content, ending)))
    assert (interaction.size_bytes, interaction.warnings) == (len(content), ())


@ours
@pytest.mark.parametrize(
    ("size", "kilobytes"),
    [(1, 1), (1023, 1), (1024, 1), (1025, 2), (10_240, 10), (3_000_000, 2930)],
)
def test_the_size_is_told_in_kilobytes_rounded_up(
    caller: Caller, size: int, kilobytes: int
) -> None:
    answer = caller.upload(sent(b"\x01" * size))
    assert answer.json["fileSizeKb"] == kilobytes


@seed
def test_the_200_has_exactly_the_published_keys(caller: Caller) -> None:
    metadata: dict[str, Any] = meta(FileName="folder/" + new_name())
    answer = caller.upload(form(metadata))
    interaction = caller.interaction(answer)
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.decode() == (
        f'{{"id":"{interaction.id}","fileName":"{metadata["FileName"]}","fileSizeKb":1}}'
    )
    assert answer.headers["repr-digest"] == (
        f"sha-256=:{b64encode(hashlib.sha256(WAV).digest()).decode()}:"
    )
    assert "location" not in answer.headers


@seed
def test_an_accepted_upload_waits_for_processing(caller: Caller) -> None:
    answer = caller.upload(form(meta()))
    record = caller.send("GET", f"/v1/interactions/{answer.json['id']}").json
    assert record["status"] == "processing"

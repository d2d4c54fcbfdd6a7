"""Names: which are taken, how they are normalised, and which are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.forms import WAV, form, meta, new_name
from contract.test_upload_precedence import BAD_FORM, BAD_NAME, MISMATCH, NO_FILE, TAKEN

if TYPE_CHECKING:
    from contract.serving import Caller, Service

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

GOOD = [
    "filename.mp3",
    "topfolder/subfolder/subsubfolder/filename.mp3",
    "2022-03-18T21:52:26.wav",
    "a b.wav",
    " .wav",
    "rec_aB3.wav",
    "rec_Ab3.wav",
    "CON.wav",
    "aux/NUL.wav",
    "dots../folder./a.wav",
    "....wav",
    "a..wav",
    ".hidden/a.wav",
    "...three/a.wav",
    "a.exe.wav",
    "~/a.wav",
    "%2e%2e/a.wav",
    "%00.wav",
    "a;b&c=d?e#f*g|h<i>j.wav",
    'quote".wav',
    "apostrophe'.wav",
    "$(id)`id`.wav",
    "-rf.wav",
    "Zoë.wav",
    "通話/録音.wav",
    "مكالمة.wav",
    "\u202eabc.wav",
    "zero\u200bwidth.wav",
    "\U0001f600.wav",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467.wav",
    "no-break\u00a0space.wav",
    "ﬁ ligature.wav",
    "ß.wav",
    "ss.wav",
    "İ.wav",
    "a.WAV",
    "a.wav",
    "A.wav",
    "x" * 1020 + ".wav",
    "é" * 510 + ".wav",
    "/".join(["d"] * 510) + ".wav",
]


@pytest.fixture
def both(service: Service) -> Caller:
    """A client of an empty service on each database."""
    return service.caller()


@ours
def test_each_of_these_is_a_name_of_its_own(both: Caller) -> None:
    for name in GOOD:
        ending = name[-4:].lower()
        answer = both.upload(form(meta(FileName=name), name=f"sent{ending}"))
        assert (answer.status, answer.json["fileName"]) == (200, name), name
        assert both.interaction(answer).file_name == name
    names = {both.service.store.__class__.__name__: both.service.kept().rows}
    assert [*names.values()] == [len(GOOD)]


@ours
@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("/a{}.wav", "a{}.wav"),
        ("//srv//calls///a{}.wav", "srv/calls/a{}.wav"),
        ("\\\\server\\share\\a{}.wav", "server/share/a{}.wav"),
        ("C:\\calls\\a{}.wav", "C:/calls/a{}.wav"),
        ("x/\\/a{}.wav", "x/a{}.wav"),
        ("e\u0301{}.wav", "é{}.wav"),
        ("\u212b{}.wav", "\u00c5{}.wav"),
    ],
)
def test_a_name_is_kept_in_one_spelling(caller: Caller, sent: str, stored: str) -> None:
    unique = new_name("")
    answer = caller.upload(form(meta(FileName=sent.format(unique))))
    assert answer.json["fileName"] == stored.format(unique)
    again = caller.upload(form(meta(FileName=stored.format(unique))))
    assert (again.status, again.text) == (400, TAKEN)


UNSAFE = [
    ".wav",
    "/.wav",
    "folder/.wav",
    "folder\\.wav",
    "..",
    "../a.wav",
    "a/../b.wav",
    "a/./b.wav",
    "./a.wav",
    "a/..",
    "..\\a.wav",
    "a\\..\\b.wav",
    "\uff0e\uff0e/a.wav",
    "a/\uff0e/b.wav",
    "a\uff0f..\uff0fb.wav",
    "..\uff3ca.wav",
    "\u2025/a.wav",
    "\u2024/a.wav",
    "a\x00.wav",
    "a\n.wav",
    "a\r\nX: y.wav",
    "\ta.wav",
    "a\x1b[0m.wav",
    "a\x7f.wav",
    "a\x85.wav",
    "x" * 1021 + ".wav",
    "é" * 510 + "x.wav",
    "a",
    "a.",
    "a.wav.",
    "a.wav ",
    "a.wav/",
    "a.wav/b",
    "a.exe",
    "wav",
    "a.flac",
    " ",
]


@ours
@pytest.mark.parametrize(
    "name",
    UNSAFE,
    ids=ascii,
)
def test_an_unsafe_name_is_refused(caller: Caller, name: str) -> None:
    answer = caller.upload(form(meta(FileName=name)))
    assert (answer.status, answer.text) == (400, BAD_NAME)


@ours
@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d"])
def test_half_of_a_surrogate_pair_is_refused(caller: Caller, half: str) -> None:
    sent = f'{{"FileName": "{half}.wav", "UploadType": "Audio"}}'.encode()
    answer = caller.upload(form(sent))
    assert (answer.status, answer.text) == (400, BAD_NAME)


@ours
def test_a_surrogate_as_bytes_is_no_json(caller: Caller) -> None:
    sent = b'{"FileName": "\xed\xa0\xbd.wav", "UploadType": "Audio"}'
    assert caller.upload(form(sent)).text == BAD_FORM


@ours
def test_a_name_that_nfc_makes_shorter_is_measured_after_it(caller: Caller) -> None:
    name = "e\u0301" * 500 + new_name()
    assert len(name.encode()) > 1024
    assert caller.upload(form(meta(FileName=name))).status == 200


@ours
def test_the_name_becomes_no_path(wire: Service, caller: Caller) -> None:
    metadata = meta(FileName="deep/er/" + new_name())
    answer = caller.upload(form(metadata))
    objects = [path.name for path in (wire.folder / "objects").glob("*/*")]
    assert answer.json["id"] in {name.partition(".")[0] for name in objects}
    assert not [*wire.folder.rglob("deep*")]


@seed
@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ("a.mp3", MISMATCH),
        ("a.zip", MISMATCH),
        ("a.flac", NO_FILE),
        ("a.wav.exe", NO_FILE),
        ("a", NO_FILE),
        ("wav", NO_FILE),
        ("", NO_FILE),
        ("a.wav/", NO_FILE),
    ],
)
def test_the_extension_of_the_file_part_counts(caller: Caller, sent: str, sentence: str) -> None:
    answer = caller.upload(form(meta(), name=sent))
    assert (answer.status, answer.text) == (400, sentence)


@ours
@pytest.mark.parametrize(
    "sent", ["b.WAV", "C:\\calls\\b.wav", "../../etc/b.wav", "..wav", ".wav", "é.wav", "a;b.wav"]
)
def test_nothing_but_the_extension_of_the_file_part_counts(caller: Caller, sent: str) -> None:
    assert caller.upload(form(meta(), WAV, name=sent)).status == 200

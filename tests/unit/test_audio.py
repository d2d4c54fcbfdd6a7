"""What a file is by its first bytes, and what decoding all of it tells."""

from __future__ import annotations

import io
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recordings
import sandboxed
from earmark import audio, sandbox
from earmark.audio import Category, Kind, Waveform, _decode, _peaks, _wav
from earmark.audio._peaks import Peaks
from earmark.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = sandbox.Limits(cpu_seconds=30, wall_seconds=60.0)
SAMPLES = Path(__file__).parents[2] / "samples"

RIFF = b"RIFF\x24\x00\x00\x00WAVEfmt "
OGG_PAGE = b"OggS\x00\x02" + bytes(20) + b"\x01\x13"
MP3_FRAME = b"\xff\xfb\x90\x00"
ADTS_FRAME = b"\xff\xf1\x50\x80"


def old_tar() -> bytes:
    """A tar header from before POSIX: no magic, only a checksum."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("chat.json"))
        header = bytearray(file.getvalue()[:512])
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return recordings.make(tmp_path_factory.mktemp("recordings"))


# First bytes.


FIRST_BYTES = [
    (RIFF, Kind.WAV),
    (b"RF64\xff\xff\xff\xffWAVEds64", Kind.WAV),
    (b"BW64\xff\xff\xff\xffWAVEds64", Kind.WAV),
    (b"RIFX\x00\x00\x00\x24WAVEfmt ", Kind.WAV),
    (MP3_FRAME, Kind.MP3),
    (b"\xff\xf3\x40\xc4", Kind.MP3),
    (b"\xff\xe3\x40\xc4", Kind.MP3),
    (b"\xff\xfd\x80\x04", Kind.MP3),
    (b"ID3\x04\x00\x00\x00\x00\x00\x02\x00\x00" + MP3_FRAME, Kind.MP3),
    (b"ID3\x04\x00\x00\x00\x00\x7f\x7f" + bytes(100), Kind.MP3),
    (b"ID3", Kind.MP3),
    (b"ID3\x04\x00\x00\x00\x00\x00\x02\x00\x00" + ADTS_FRAME, Kind.AAC),
    (b"ID3\x04\x00\x00\x00\x00\x00\x02\x00\x00fLaC", Kind.FLAC),
    (ADTS_FRAME, Kind.AAC),
    (b"\x00\x00\x00\x20ftypM4A ", Kind.MP4),
    (b"\x00\x00\x00\x20ftypisom", Kind.MP4),
    (b"\x00\x00\x00\x08wide\x00\x00", Kind.MP4),
    (OGG_PAGE + b"OpusHead", Kind.OGG),
    (b"fLaC\x00\x00\x00\x22", Kind.FLAC),
    (b"#!AMR\n\x3c", Kind.AMR),
    (b"#!AMR-WB\n\x3c", Kind.AMR),
    (b"FORM\x00\x00\x00\x24AIFFCOMM", Kind.AIFF),
    (b"FORM\x00\x00\x00\x24AIFCFVER", Kind.AIFF),
    (b".snd\x00\x00\x00\x18", Kind.AU),
    (b"caff\x00\x01\x00\x00", Kind.CAF),
    (b"\x1a\x45\xdf\xa3\x01", Kind.MATROSKA),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind.ASF),
    ((b"G" + bytes(187)) * 3, Kind.MPEG_TS),
    (old_tar(), Kind.TAR),
    (b"PK\x03\x04\x14", Kind.ZIP),
    (b"PK\x05\x06" + bytes(18), Kind.ZIP),
    (b"\x1f\x8b\x08", Kind.GZIP),
    (b"BZh91AY&SY", Kind.BZIP2),
    (b"\xfd7zXZ\x00", Kind.XZ),
    (b"7z\xbc\xaf\x27\x1c", Kind.SEVEN_ZIP),
    (b"Rar!\x1a\x07\x01\x00", Kind.RAR),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', Kind.MARKUP),
    (b"\xef\xbb\xbf\r\n  <?xml version='1.0'?>", Kind.MARKUP),
    (b"\n<!DOCTYPE html><title>Sign in</title>", Kind.MARKUP),
    (b"<HTML><body>", Kind.MARKUP),
    (b"<svg xmlns=''/>", Kind.MARKUP),
    (b"<!-- page -->", Kind.MARKUP),
    ("\ufeff<html>".encode("utf-16-le"), Kind.MARKUP),
    ("\ufeff<html>".encode("utf-16-be"), Kind.MARKUP),
    (b"\x7fELF\x02\x01", Kind.EXECUTABLE),
    (b"MZ\x90\x00", Kind.EXECUTABLE),
    (b"\xcf\xfa\xed\xfe\x07", Kind.EXECUTABLE),
    (b"\xfe\xed\xfa\xce\x07", Kind.EXECUTABLE),
    (b"#!/bin/sh\n", Kind.SCRIPT),
    (b"ffconcat version 1.0\nfile 'secret.wav'\n", Kind.SCRIPT),
    (b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/x.ts\n", Kind.SCRIPT),
    (b"\xef\xbb\xbf#EXTM3U\n", Kind.SCRIPT),
    (b"[playlist]\nFile1=x\n", Kind.SCRIPT),
    (b"%PDF-1.7", Kind.PDF),
    (b"\x89PNG\r\n\x1a\n", Kind.IMAGE),
    (b"\xff\xd8\xff\xe0", Kind.IMAGE),
    (b'{"error": "denied"}', Kind.JSON),
    (b"[\n {}]", Kind.JSON),
]


@pytest.mark.parametrize(
    ("head", "kind"),
    FIRST_BYTES,
)
def test_first_bytes_tell_the_kind(head: bytes, kind: Kind) -> None:
    assert audio.sniff(head) is kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff",
        bytes(2000),
        bytes(100) + MP3_FRAME,
        b"A call on Tuesday, as plain text.",
        b"< 3 apples",
        b"<tag\x00>",
        b"{braces}",
        b"RIFF\x24\x00\x00\x00AVI LIST",
        b"BZh but a text",
        b"\xff\xeb\x90\x00",  # a version of MPEG that there is not
        b"\xff\xfe\x90\x00",  # layer I
        b"\xff\xfb\xf0\x00",  # bit rate 15
        b"\xff\xfb\x00\x00",  # free bit rate
        b"\xff\xfb\x9c\x00",  # sample rate 3
        b"\xff\xe1\x50\x80",  # 11 bits of sync are not ADTS
        b"\xff\xf1\x7c\x80",  # sampling frequency index 15
        b"G" + bytes(400),
        old_tar()[:400],
        old_tar().replace(b"chat", b"chas"),
        b"x" * 512,
    ],
)
def test_bytes_of_no_known_kind_stay_unknown(head: bytes) -> None:
    assert audio.sniff(head) is Kind.UNKNOWN


@given(st.binary(max_size=600))
def test_sniffing_never_fails(head: bytes) -> None:
    assert audio.sniff(head).words


@given(
    st.sampled_from([b"ID3", b"OggS", b"\xff\xfb", b"\xff\xfe<", b"<", b"{", b"RIFF"]),
    st.binary(max_size=600),
)
def test_sniffing_never_fails_behind_a_magic_number(magic: bytes, rest: bytes) -> None:
    assert audio.sniff(magic + rest).words


def test_only_the_head_counts() -> None:
    head = b"<html>".ljust(audio.HEAD_BYTES)
    assert audio.sniff(head + b"\x00") is audio.sniff(head) is Kind.MARKUP


@pytest.mark.parametrize(
    ("category", "kinds"),
    [
        (Category.ARCHIVE, {"tar", "zip", "gzip", "bzip2", "xz", "7z", "rar"}),
        (Category.FOREIGN, {"markup", "executable", "script", "pdf", "image"}),
        (Category.UNKNOWN, {"json", "unknown"}),
        (
            Category.AUDIO,
            {"wav", "mp3", "mp4", "ogg", "flac", "aac", "amr", "aiff", "au", "caf"}
            | {"matroska", "asf", "mpegts"},
        ),
    ],
)
def test_every_kind_has_its_category(category: Category, kinds: set[str]) -> None:
    assert {kind.value for kind in Kind if kind.category is category} == kinds


def test_every_kind_can_stand_in_a_sentence() -> None:
    assert Kind.WAV.words == "wav audio"
    assert Kind.ZIP.words == "a zip archive"


@pytest.mark.parametrize("name", recordings.EXTENSIONS)
def test_a_file_is_what_its_extension_promises(made: dict[str, Path], name: str) -> None:
    path = made[name]
    kind = audio.sniff(path.read_bytes()[: audio.HEAD_BYTES])
    assert kind is audio.container_of_extension(path.suffix.upper())


def test_an_extension_of_no_kind_promises_nothing() -> None:
    assert audio.container_of_extension(".docx") is Kind.UNKNOWN
    assert audio.container_of_extension("") is Kind.UNKNOWN


# What decoding tells.


def listen(path: Path, extension: str = "") -> audio.Listening:
    return audio.listen(path, limits=LIMITS, extension=extension)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `listen` decode without a child."""
    monkeypatch.setattr(sandbox, "run", recordings.decoded_here)


def decode_here(path: Path, *, doubtful: bool = False) -> tuple[dict[str, object], bytes]:
    """What the child does, in this process, where coverage sees it."""
    with path.open("rb") as file:
        kind = audio.sniff(file.read(audio.HEAD_BYTES))
        kind = audio.container_of_extension(path.suffix) if kind is Kind.UNKNOWN else kind
        file.seek(0)
        return _decode.decode(file, container=kind.value, doubtful=doubtful)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(MediaError) as caught:
        call()
    assert caught.value.code in audio.SENTENCES
    assert "{" not in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("name", recordings.FORMS)
def test_every_form_is_decoded_in_full(made: dict[str, Path], name: str) -> None:
    form = recordings.FORMS[name]
    told, peaks = decode_here(made[name])
    codec = {"libmp3lame": "mp3", "libopus": "opus"}.get(form.codec, form.codec)
    assert told["codec"] == codec
    assert told["sample_rate_hz"] == form.rate_hz
    assert told["channels"] == form.channels
    assert told["duration_seconds"] == pytest.approx(2.0, abs=0.15)
    assert told["failed_packets"] == 0
    assert told["peak"] == pytest.approx(0.5, abs=0.35)
    assert len(peaks) == pytest.approx(40 * form.channels * 2, abs=14)


@pytest.fixture(scope="module")
def call(made: dict[str, Path]) -> audio.Listening:
    """A stereo call, heard in the sandbox."""
    return listen(made["mulaw.wav"])


def test_a_stereo_call_in_mu_law_gives_its_facts(call: audio.Listening) -> None:
    assert call.facts == audio.AudioFacts(
        container="wav",
        codec="pcm_mulaw",
        sample_rate_hz=8000,
        channels=2,
        duration_seconds=2.0,
        header_duration_seconds=2.0,
    )
    assert call.warnings == ()


def test_the_waveform_is_version_2_of_audiowaveform_s_format(call: audio.Listening) -> None:
    document = json.loads(call.waveform.to_json())
    data = np.array(document.pop("data")).reshape(40, 2, 2)
    assert document == {
        "version": 2,
        "channels": 2,
        "sample_rate": 8000,
        "samples_per_pixel": 400,
        "bits": 8,
        "length": 40,
    }
    loud = np.abs(data).max(axis=2) > 32
    turns = np.arange(40) // 10 % 2  # the tones take turns of half a second, 10 pixels
    assert (loud[:, 0] == (turns == 0)).all()
    assert (loud[:, 1] == (turns == 1)).all()


@pytest.mark.parametrize("name", ["support-call.wav", "llamada-citas.mp3"])
def test_our_samples_are_good_stereo_calls(name: str) -> None:
    heard = listen(SAMPLES / name)
    assert heard.facts.channels == 2
    assert 15 < heard.facts.duration_seconds < 40
    assert heard.warnings == ()


def test_decoding_leaves_the_parent_without_pyav_and_numpy(made: dict[str, Path]) -> None:
    script = (
        "import sys; from pathlib import Path; from earmark import audio, sandbox\n"
        "audio.listen(Path(sys.argv[1]), limits=sandbox.Limits())\n"
        "assert not {'av', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(made["pcm.wav"])], check=True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["pcm.wav", "mulaw.wav"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_streamed_wav_without_its_size_is_a_good_file(
    made: dict[str, Path], tmp_path: Path, name: str, size: int
) -> None:
    path = with_wav_size(made[name], tmp_path / "streamed.wav", size)
    heard = listen(path)
    assert heard.facts.duration_seconds == 2.0
    assert heard.warnings == ()


@pytest.mark.usefixtures("here")
def test_a_wav_that_promises_more_than_it_holds_is_truncated(
    made: dict[str, Path], tmp_path: Path
) -> None:
    heard = listen(with_wav_size(made["pcm.wav"], tmp_path / "lie.wav", 10 * 32000))
    assert heard.facts.duration_seconds == 2.0
    assert heard.facts.header_duration_seconds == 10.0
    assert [warn.code for warn in heard.warnings] == ["truncated"]
    assert heard.warnings[0].message == (
        "The recording breaks off after 2.0 s; its header says 10.0 s."
    )


@pytest.mark.usefixtures("here")
def test_an_mp3_that_counts_its_frames_and_lacks_some_is_truncated(
    made: dict[str, Path], tmp_path: Path
) -> None:
    whole = made["call.mp3"].read_bytes()
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[: len(whole) // 3])
    assert listen(made["call.mp3"]).warnings == ()
    assert [warn.code for warn in listen(path).warnings] == ["truncated"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"RIFF\x24\x00",
        b"RIFX" + bytes(100),
        RIFF + b"\x06\x00\x00\x00" + bytes(6),
        RIFF[:12] + b"LIST\x04\x00\x00\x00infodata\x10\x00\x00\x00",
        RIFF[:12] + b"note\x01\x00\x00\x00x\x00" * 100,
        RIFF + struct.pack("<IHHII", 12, 0x55, 1, 8000, 2000) + b"data\x10\x00\x00\x00",
        RIFF + struct.pack("<IHHII", 12, 7, 1, 8000, 8000) + b"data\x00\x00\x00\x00",
    ],
)
def test_a_wav_whose_header_tells_no_duration_has_none(head: bytes) -> None:
    assert _wav.stated_seconds(io.BytesIO(head)) is None


def test_a_wav_s_duration_is_found_behind_other_chunks() -> None:
    form = RIFF + struct.pack("<IHHII", 12, 7, 1, 8000, 8000)
    note = b"note\x01\x00\x00\x00x\x00"
    file = io.BytesIO(form + note + b"data" + struct.pack("<I", 12000))
    assert _wav.stated_seconds(file) == 1.5


@pytest.mark.usefixtures("here")
def test_an_mp3_of_varying_bit_rate_without_a_count_is_flagged(tmp_path: Path) -> None:
    path = variable_mp3(tmp_path / "vbr.mp3")
    heard = listen(path)
    assert heard.facts.duration_seconds == pytest.approx(8.0, abs=0.3)
    assert [warn.code for warn in heard.warnings] == ["duration_differs"]


@pytest.mark.usefixtures("here")
def test_a_truncated_mp3_gives_what_is_left(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.mp3"
    data = made["call.mp3"].read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    heard = listen(path)
    assert 0.8 < heard.facts.duration_seconds < 1.4


def test_damage_in_the_middle_is_counted(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "damaged.m4a"
    data = bytearray(made["aac.m4a"].read_bytes())
    start = data.index(b"mdat") + 2000
    data[start : start + 2000] = random.Random(1).randbytes(2000)
    path.write_bytes(data)
    told, _ = decode_here(path)
    assert told["failed_packets"]
    heard = listen(path)
    assert "decode_errors" in [warn.code for warn in heard.warnings]


def test_a_file_that_ends_inside_a_packet_keeps_its_sound(
    made: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "cut.flac"
    path.write_bytes(made["call.flac"].read_bytes()[:-5000])
    told, _ = decode_here(path)
    assert 0 < float(str(told["duration_seconds"])) < 2.0


def test_a_file_that_stops_being_readable_keeps_what_was_heard(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2_000_000:
                raise OSError("worn out")
            return super().read(size)

    form = recordings.FORMS["mulaw.wav"]
    file = Broken(recordings.record(tmp_path / "long.wav", form, seconds=200).read_bytes())
    told, _ = _decode.decode(file, container="wav", doubtful=False)
    assert told["failed_packets"] == 1
    assert 100 < float(str(told["duration_seconds"])) < 200


@pytest.mark.usefixtures("here")
def test_silence_is_flagged(tmp_path: Path) -> None:
    samples = np.zeros((2, 16000), np.int16)
    path = recordings.record(tmp_path / "s.wav", recordings.FORMS["mulaw.wav"], samples=samples)
    assert [warn.code for warn in listen(path).warnings] == ["silent"]


def test_a_picture_beside_the_sound_is_passed_over(tmp_path: Path) -> None:
    told, _ = decode_here(movie(tmp_path / "movie.mp4", sound=True))
    assert told["codec"] == "aac"
    assert told["duration_seconds"] == pytest.approx(1.0, abs=0.15)


def test_a_movie_without_sound_has_no_audio(tmp_path: Path) -> None:
    path = movie(tmp_path / "silent.mp4", sound=False)
    assert refusal(lambda: decode_here(path)) == "no_audio"
    assert refusal(lambda: listen(path)) == "no_audio"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("header", ["RIFX", "RF64"])
def test_a_file_that_breaks_off_in_its_header_is_unreadable(tmp_path: Path, header: str) -> None:
    path = tmp_path / "cut.wav"
    path.write_bytes(header.encode() + b"\x24\x00\x00\x00WAVE")
    assert refusal(lambda: listen(path)) == "unreadable"


@pytest.mark.usefixtures("here")
def test_a_wav_without_a_sample_has_no_audio_decoded(
    made: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "empty.wav"
    data = made["mulaw.wav"].read_bytes()
    path.write_bytes(data[: data.index(b"data") + 4] + bytes(4))
    assert refusal(lambda: listen(path)) == "no_audio_decoded"


def test_a_codec_that_no_telephone_uses_is_not_run(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_decode, "_DECODERS", "opus,vorbis")
    assert refusal(lambda: decode_here(made["call.mp3"])) == "unsupported_codec"


def test_more_channels_than_a_call_has_are_refused(tmp_path: Path) -> None:
    assert refusal(lambda: decode_here(wide_wav(tmp_path / "w.wav", 17))) == "too_many_channels"
    told, _ = decode_here(wide_wav(tmp_path / "w.wav", 16))
    assert told["channels"] == 16


def test_a_change_of_rate_and_channels_is_brought_to_the_first(
    made: dict[str, Path], tmp_path: Path
) -> None:
    mono = recordings.record(
        tmp_path / "m.mp3", recordings.Form("mp3", "libmp3lame", 24000, 1, 32000)
    )
    path = tmp_path / "changing.mp3"
    path.write_bytes(made["call.mp3"].read_bytes() + mono.read_bytes())
    told, peaks = decode_here(path)
    assert (told["sample_rate_hz"], told["channels"]) == (16000, 2)
    assert told["duration_seconds"] == pytest.approx(4.0, abs=0.3)
    later = np.frombuffer(peaks, np.int8).reshape(-1, 2, 2)[45:75]
    assert (np.abs(later).max(axis=(0, 2)) > 20).all()  # mono is heard on both sides


# Hostile and mistaken files.


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.mp3", b"ffconcat version 1.0\nfile 'secret.wav'\n", "a script or playlist"),
        ("a.mp3", b"PK\x03\x04" + bytes(100), "a zip archive"),
        ("a.wav", b"<?xml version='1.0'?><Error/>", "an XML or HTML page"),
        ("a.mp3", b'{"error": "denied"}', "JSON text"),
        ("a.ogg", b"", "nothing at all"),
        ("a", bytes(5000), "bytes of no known kind"),
    ],
)
def test_what_is_no_audio_is_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"The file holds {what}, not audio") as caught:
        listen(path, path.suffix)
    assert caught.value.code == "not_audio"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("extension", [".mp3", ".wav", ".m4a", ".ogg"])
def test_random_bytes_are_no_recording(tmp_path: Path, extension: str) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"\x00" + random.Random(7).randbytes(200_000))
    assert refusal(lambda: listen(path, extension)) in {
        "not_audio",
        "unreadable",
        "no_audio_decoded",
    }


def test_unknown_bytes_of_which_most_fail_are_no_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, Path]
) -> None:
    def fail(_self: object, _packet: object) -> list[object]:
        _self.failed_packets += 1
        return []

    monkeypatch.setattr(_decode.Recording, "_decode", fail)
    assert refusal(lambda: decode_here(made["call.mp3"], doubtful=True)) == "not_audio"
    assert refusal(lambda: decode_here(made["call.mp3"])) == "no_audio_decoded"


@pytest.mark.usefixtures("here")
def test_an_mp3_that_begins_with_garbage_is_heard(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "padded.mp3"
    path.write_bytes(bytes(1000) + made["call.mp3"].read_bytes())
    assert listen(path, ".mp3").facts.duration_seconds == pytest.approx(2.0, abs=0.2)
    assert refusal(lambda: listen(path)) == "not_audio"


@pytest.mark.parametrize("container", ["mp4", "mp3", "wav", "ogg"])
def test_a_playlist_under_any_demuxer_opens_no_connection(tmp_path: Path, container: str) -> None:
    path = tmp_path / "evil.m4a"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/ssrf.ts"
        path.write_text(f"#EXTM3U\n#EXTINF:10.0,\n{address}\n#EXT-X-ENDLIST\n")
        assert refusal(lambda: listen(path)) == "not_audio"
        with path.open("rb") as file, pytest.raises(MediaError):
            _decode.decode(file, container=container, doubtful=True)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("demuxer", ["hls", "concat"])
def test_even_the_wrong_demuxer_opens_no_second_file(
    tmp_path: Path, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, demuxer: str
) -> None:
    monkeypatch.setattr(_decode, "_DEMUXERS", {Kind.MP3: demuxer})
    path = tmp_path / "list.mp3"
    lists = {
        "hls": f"#EXTM3U\n#EXTINF:10.0,\nfile://{made['call.mp3']}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{made['call.mp3']}'\n",
    }
    path.write_text(lists[demuxer])
    with path.open("rb") as file, pytest.raises(MediaError):
        _decode.decode(file, container="mp3", doubtful=False)


def test_ffmpeg_is_told_every_restriction(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They back one another up, so that no hostile file alone shows that one is missing."""
    asked: dict[str, object] = {}

    def spy(file: object, **words: object) -> object:
        asked.update(words)
        return real_open(file, **words)

    real_open = av.open
    monkeypatch.setattr(av, "open", spy)
    decode_here(made["call.mp4"])
    assert asked["format"] == "mov"
    assert asked["io_open"] is _decode._refuse
    assert asked["options"] == {
        "format_whitelist": "mov",
        "protocol_whitelist": "none",
        "codec_whitelist": _decode._DECODERS,
    }


def test_no_second_file_is_opened_for_a_demuxer() -> None:
    with pytest.raises(PermissionError, match="other"):
        _decode._refuse("other.wav", 0, {})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sandbox.DeadlineExceededError("slow"), "decode_too_slow"),
        (sandbox.MemoryExceededError("large"), "decoder_out_of_memory"),
        (sandbox.CrashedError(signal.SIGSEGV, ""), "decoder_crashed"),
        (sandbox.CrashedError(signal.SIGABRT, ""), "decoder_crashed"),
    ],
)
def test_a_decoder_that_a_file_breaks_is_that_file_s_fault(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    monkeypatch.setattr(sandbox, "run", raiser(error))
    assert refusal(lambda: listen(made["pcm.wav"])) == code


def test_a_decoder_killed_from_outside_is_not_the_file_s_fault(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "run", raiser(sandbox.CrashedError(signal.SIGKILL, "")))
    with pytest.raises(sandbox.CrashedError):
        listen(made["pcm.wav"])


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        ("crash", "decoder_crashed"),
        ("abort", "decoder_crashed"),
        ("spin", "decode_too_slow"),
        ("swell", "decoder_out_of_memory"),
    ],
)
def test_a_file_that_ends_its_decoder_has_a_cause_of_its_own_and_we_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, code: str
) -> None:
    """A real child reads the file, and does what it says for want of a known fault in FFmpeg."""
    real = sandbox.run
    folders = [*sandbox._import_folders(), str(Path(sandboxed.__file__).parent)]
    monkeypatch.setattr(sandbox, "_import_folders", lambda: folders)
    monkeypatch.setattr(
        sandbox, "run", lambda _, path, **options: real("sandboxed:obey", path, **options)
    )
    path = tmp_path / "hostile.wav"
    path.write_bytes(RIFF + deed.encode())
    limits = sandbox.Limits(cpu_seconds=2, wall_seconds=60.0, memory_bytes=512 << 20)
    assert refusal(lambda: audio.listen(path, limits=limits)) == code


def test_a_deadline_holds_while_decoding(made: dict[str, Path]) -> None:
    limits = sandbox.Limits(wall_seconds=0.02)
    assert refusal(lambda: audio.listen(made["pcm.wav"], limits=limits)) == "decode_too_slow"


def test_a_memory_limit_holds_while_decoding(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = sandbox.Limits(memory_bytes=280 << 20)
    assert audio.listen(made["pcm.wav"], limits=limits).facts.duration_seconds == 2.0
    path = hungry_m4a(made["aac.m4a"], tmp_path / "hungry.m4a")
    assert refusal(lambda: audio.listen(path, limits=limits)) == "decoder_out_of_memory"


def test_memory_running_out_is_never_taken_for_damage(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exhausted = raiser(av.error.MemoryError(12, "Cannot allocate memory"))
    recording = object.__new__(_decode.Recording)
    recording._context = SimpleNamespace(decode=exhausted)
    recording._media = SimpleNamespace(demux=exhausted)
    recording._stream = None
    with pytest.raises(MemoryError):
        recording._decode(None)
    with pytest.raises(MemoryError):
        list(recording.frames())
    monkeypatch.setattr(av, "open", exhausted)
    with pytest.raises(MemoryError):
        decode_here(made["call.mp3"])


# Peaks.


def test_peaks_do_not_depend_on_how_the_samples_arrive() -> None:
    samples = np.random.default_rng(3).integers(-32768, 32767, (2, 10_000), dtype=np.int16)
    whole, parts = Peaks(2, 8000), Peaks(2, 8000)
    whole.add(samples)
    for part in np.array_split(samples, 77, axis=1):
        parts.add(part)
    assert whole.to_bytes() == parts.to_bytes()
    assert parts.samples == 10_000


def test_peaks_are_the_extremes_of_each_pixel_and_channel() -> None:
    peaks = Peaks(2, 40)  # two samples a pixel
    left, right = [0, 16384, -32768, 32767, 255], [0, 0, 256, -256, -255]
    peaks.add(np.array([left, right], np.int16))
    values = np.frombuffer(peaks.to_bytes(), np.int8).reshape(-1, 2, 2).tolist()
    assert values == [[[0, 64], [0, 0]], [[-128, 127], [-1, 1]], [[0, 0], [0, 0]]]
    assert peaks.peak() == 1.0


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([[0, 128, 255]], np.uint8), [-128, 127]),
        (np.array([[-(1 << 31), 0, 1 << 30]], np.int32), [-128, 64]),
        (np.array([[-0.5, 0, 2.0]], np.float32), [-64, 127]),
        (np.array([[-1.0, 0, 0.25]], np.float64), [-128, 32]),
        (np.array([[np.nan, 0, 0]], np.float32), [0, 0]),
        (np.array([[-np.inf, 0, np.inf]], np.float32), [-128, 127]),
    ],
)
def test_every_sample_type_has_its_full_scale(
    samples: np.ndarray[tuple[int, int], np.dtype[np.float64]], expected: list[int]
) -> None:
    peaks = Peaks(1, 60)
    peaks.add(samples)
    assert np.frombuffer(peaks.to_bytes(), np.int8).tolist() == expected


def test_a_long_recording_halves_its_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(4).integers(-32768, 32767, (2, 1001), dtype=np.int16)
    fine = Peaks(2, 20)
    fine.add(samples)
    monkeypatch.setattr(_peaks, "_MOST_PIXELS", 128)
    coarse = Peaks(2, 20)
    for part in np.array_split(samples, 9, axis=1):
        coarse.add(part)
    assert (fine.samples_per_pixel, coarse.samples_per_pixel) == (1, 8)
    expected = np.frombuffer(fine.to_bytes(), np.int8).reshape(-1, 2, 2)
    expected = np.concatenate((expected, expected[-1:].repeat(7, axis=0))).reshape(-1, 8, 2, 2)
    found = np.frombuffer(coarse.to_bytes(), np.int8).reshape(-1, 2, 2)
    assert (found[..., 0] == expected[..., 0].min(axis=1)).all()
    assert (found[..., 1] == expected[..., 1].max(axis=1)).all()


def test_an_empty_recording_has_no_peak() -> None:
    peaks = Peaks(1, 8000)
    peaks.add(np.zeros((1, 1), np.int16))
    assert peaks.peak() == 0
    assert Waveform(8000, 400, 1, peaks.to_bytes()).length == 1


# Helpers.


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def with_wav_size(source: Path, target: Path, size: int) -> Path:
    """A copy whose data chunk and whose whole say another size."""
    data = bytearray(source.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", size)
    data[4:8] = struct.pack("<I", min(size + place, 0xFFFFFFFF))
    if size in {0, 0xFFFFFFFF} and b"fact" in data:  # its samples are not known either
        place = data.index(b"fact") + 8
        data[place : place + 4] = struct.pack("<I", size)
    target.write_bytes(data)
    return target


def variable_mp3(path: Path) -> Path:
    """4 s at 64 kbit/s and 4 s at 16, joined without a header that counts the frames."""
    parts = []
    for bit_rate in (64000, 16000):
        form = recordings.Form("mp3", "libmp3lame", 16000, 1, bit_rate)
        data = recordings.record(path, form, seconds=4.0).read_bytes()
        start = data.index(b"\xff\xf3", data.index(b"Info") + 4)  # the frame after the count
        parts.append(data[start:])
    path.write_bytes(b"".join(parts))
    return path


def hungry_m4a(source: Path, target: Path) -> Path:
    """A copy whose first packet is 400 MB long, in a file that has them: a hole."""
    data = bytearray(source.read_bytes())
    place = data.index(b"stsz") + 16
    data[place : place + 4] = struct.pack(">I", 400 << 20)
    target.write_bytes(data)
    with target.open("r+b") as file:
        file.truncate(500 << 20)
    return target


def movie(path: Path, *, sound: bool) -> Path:
    with av.open(path, "w") as media:
        video = media.add_stream("mpeg4", rate=10, options={"threads": "1"})
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        voice = media.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index in range(10):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), index * 20, np.uint8))
            picture.pts = index
            media.mux(video.encode(picture))
        media.mux(video.encode(None))
        if voice is not None:
            tone = recordings.sound(1.0, 16000, 1)
            for index in range(0, 15360, 1024):
                part = (tone[:, index : index + 1024] / 32768).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, index
                media.mux(voice.encode(frame))
            media.mux(voice.encode(None))
    return path


def wide_wav(path: Path, channels: int) -> Path:
    """16-bit PCM of many channels, WAVE_FORMAT_EXTENSIBLE left aside."""
    data = bytes(2 * channels * 800)
    form = struct.pack("<HHIIHH", 1, channels, 8000, 16000 * channels, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data))
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data)
    return path

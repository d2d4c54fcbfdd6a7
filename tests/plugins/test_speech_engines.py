"""What every engine keeps, run over the whole registry, with a real model and real recordings.

The remote engine talks to a small server of the tests, which answers as the public API describes
and recognizes with the same model: a stand-in, since no such service can be had here.
"""

from __future__ import annotations

import io
import json
import socket
import tempfile
import threading
import time
import wave
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from multipart import MultipartParser, parse_options_header
from typing_extensions import override

from earmark import audio
from earmark.sandbox import Limits
from earmark.speech import (
    ENGINES,
    RATE_HZ,
    Options,
    SpeechFailedError,
    SpeechMissingError,
    Transcriber,
    open_engine,
)
from earmark.speech import local as local_engine
from earmark.speech import remote as remote_engine
from earmark.speech.features import Features
from earmark.speech.sound import Sound
from speaking import ROOT, installed_models, tone
from wordless import WORDLESS, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from earmark.speech import Samples

pytestmark = pytest.mark.xdist_group("speech")  # the model is loaded once

KEY = "a-key"


class Server(ThreadingHTTPServer):
    """Answers `POST /v1/audio/transcriptions`; `answer` makes status and body of a form."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, options = parse_options_header(self.headers["Content-Type"])
        parts = MultipartParser(io.BytesIO(body), options["boundary"])
        form: dict[str, Any] = {"path": self.path, "key": self.headers["Authorization"]}
        for part in parts:
            form.setdefault(part.name, part.raw if part.filename else part.value)
            part.close()
        self.server.asked.append(form)
        status, answer = self.server.answer(form)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written to the tests' output."""


@contextmanager
def serving(answer: Callable[[dict[str, Any]], tuple[int, bytes]]) -> Iterator[Server]:
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def models() -> Path:
    return installed_models()


class Remembering(Transcriber):
    """An engine that hears the same sound once: to recognize takes seconds."""

    def __init__(self, engine: Transcriber) -> None:
        self.engine = engine
        self.identity = engine.identity
        self.known: dict[Any, Any] = {}

    @override
    def transcribe(self, samples: Samples, language: str) -> Any:
        key = (samples.tobytes(), language)
        if key not in self.known:
            self.known[key] = self.engine.transcribe(samples, language)
        return self.known[key]

    @override
    def detect(self, samples: Samples) -> Any:
        key = samples.tobytes()
        if key not in self.known:
            self.known[key] = self.engine.detect(samples)
        return self.known[key]


@pytest.fixture(scope="module")
def local(models: Path) -> Transcriber:
    return Remembering(open_engine("local", Options(models)))


def transcription(engine: Transcriber, form: dict[str, Any]) -> tuple[int, bytes]:
    """The answer of the public API in `verbose_json`."""
    with wave.open(io.BytesIO(form["file"])) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE_HZ, 1)
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    samples = heard.astype(np.float32)
    found = None if "language" in form else engine.detect(samples)
    language = form.get("language") or (found.code if found else "en")
    segments = engine.transcribe(samples, language)
    told = {
        "language": {"en": "english", "es": "spanish"}.get(language, language),
        "text": " ".join(one.text for one in segments),
        "segments": [
            {"start": one.start_seconds, "end": one.end_seconds, "text": f" {one.text}"}
            for one in segments
        ],
        "words": [
            {"word": word.text, "start": word.start_seconds, "end": word.end_seconds}
            for one in segments
            for word in one.words
        ],
    }
    return 200, json.dumps(told).encode()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, local: Transcriber, models: Path) -> Any:
    if request.param == "local":
        yield local
        return
    with serving(lambda form: transcription(local, form)) as server:
        yield open_engine(request.param, Options(models, url=server.url, key=KEY))


@pytest.fixture(scope="module")
def channels() -> dict[str, Samples]:
    """The channels of the two sample calls, agent first."""
    found = {}
    for name, language in (("support-call.wav", "en"), ("llamada-citas.mp3", "es")):
        path = ROOT / "samples" / name
        facts = audio.listen(path, limits=Limits()).facts
        with tempfile.TemporaryFile() as file:
            audio.decode_speech(path, facts, file, rate_hz=RATE_HZ, limits=Limits())
            sound = Sound(file, facts.channels)
            for block in sound.blocks():
                found[f"{language}{block.channel}"] = sound.read(block)
    return found


@pytest.mark.parametrize(
    ("channel", "words"),
    [
        ("en0", ["good morning riverside clinic", "shall i book that for you", "goodbye"]),
        ("en1", ["i have an appointment on monday and i need to move it", "thank you very much"]),
        ("es0", ["buenos días y gracias por llamar", "es posible", "hasta el jueves"]),
        ("es1", ["cambiar la cita que tengo", "el jueves por la mañana", "muchas gracias"]),
    ],
)
def test_what_is_said_is_heard(
    engine: Transcriber, channels: dict[str, Samples], channel: str, words: list[str]
) -> None:
    segments = engine.transcribe(channels[channel], channel[:2])
    heard = " ".join(one.text for one in segments).lower().replace(",", "")
    assert [word for word in words if word not in heard] == []


def test_times_lie_within_the_sound_and_in_order(
    engine: Transcriber, channels: dict[str, Samples]
) -> None:
    samples = channels["en0"]
    segments = engine.transcribe(samples, "en")
    times = [
        moment
        for one in segments
        for word in one.words
        for moment in (word.start_seconds, word.end_seconds)
    ]
    assert len(times) > 60
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= samples.size / RATE_HZ
    for one in segments:
        assert one.start_seconds == one.words[0].start_seconds
        assert one.end_seconds == one.words[-1].end_seconds
        assert " ".join(word.text for word in one.words) == one.text
        assert one.confidence is None or 0 < one.confidence <= 1


@pytest.mark.parametrize("name", WORDLESS)
def test_where_nobody_speaks_no_words_are_heard(engine: Transcriber, name: str) -> None:
    sound = make(name, 15)
    assert engine.transcribe(sound, "en") == ()
    assert engine.detect(sound) is None


def test_words_between_other_sounds_keep_their_times(
    engine: Transcriber, channels: dict[str, Samples]
) -> None:
    before = make("ringing", 12)
    spoken = channels["en0"][: 4 * RATE_HZ]
    segments = engine.transcribe(np.concatenate([before, spoken, make("hold music", 20)]), "en")
    assert " ".join(one.text for one in segments).lower().startswith("good morning")
    assert 11.5 <= (segments[0].start_seconds or 0) <= 13
    assert (segments[-1].end_seconds or 0) <= 17


@pytest.mark.parametrize(("channel", "code"), [("en0", "en"), ("es1", "es")])
def test_the_language_is_detected(
    engine: Transcriber, channels: dict[str, Samples], channel: str, code: str
) -> None:
    found = engine.detect(channels[channel])
    assert found
    assert found.code == code
    assert 0.5 < found.probability <= 1


def test_an_engine_tells_what_it_is(engine: Transcriber) -> None:
    identity = engine.identity
    assert identity.engine in ENGINES
    assert identity.model
    assert json.loads(json.dumps(dict(identity.settings))) == identity.settings
    assert KEY not in str(identity)


def test_the_local_engine_names_its_weights(local: Transcriber) -> None:
    assert (local.identity.model_sha256 or "")[:8] == "d01c3014"


def test_the_local_engine_makes_its_features_piece_by_piece(local: Any) -> None:
    guarded = local.engine
    assert isinstance(guarded._engine._model.feature_extractor, Features)


def test_weights_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.bin").write_bytes(b"no model")
    engine = local_engine.Local(Options(tmp_path))
    with pytest.raises(SpeechFailedError) as caught:
        engine.transcribe(tone(1), "en")
    assert caught.value.cause.code == "speech_model_unusable"


# The remote engine alone


def remote(folder: Path, url: str, model: str = "", key: str = "") -> Transcriber:
    """It without its guard, so that it asks whatever the sound."""
    return remote_engine.Remote(Options(folder, model=model, url=url, key=key))


@pytest.mark.parametrize(
    "sure",
    [
        pytest.param({"no_speech_prob": 0.9, "avg_logprob": -1.5}, id="neither believed"),
        pytest.param({"no_speech_prob": 0.9, "avg_logprob": -0.2}, id="the words believed"),
        pytest.param({"no_speech_prob": 0.1, "avg_logprob": -1.5}, id="the speech believed"),
        pytest.param({}, id="nothing told"),
    ],
)
def test_what_a_server_does_not_believe_itself_is_left_out(
    tmp_path: Path, sure: dict[str, float]
) -> None:
    told = {"segments": [{"start": 0, "end": 1, "text": "Thanks for watching.", **sure}]}
    with serving(lambda _: (200, json.dumps(told).encode())) as server:
        heard = remote(tmp_path, server.url).transcribe(tone(1), "en")
    invented = sure == {"no_speech_prob": 0.9, "avg_logprob": -1.5}
    assert [one.text for one in heard] == ([] if invented else ["Thanks for watching."])


def test_a_server_never_hears_what_holds_no_speech(models: Path) -> None:
    with serving(lambda _: (200, b'{"text": "Hello", "language": "english"}')) as server:
        engine = open_engine("remote", Options(models, url=server.url))
        assert engine.transcribe(make("hold music", 10), "en") == ()
        assert engine.detect(make("white noise", 10)) is None
    assert server.asked == []


def test_the_key_of_a_server_is_never_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    answers = iter([(401, KEY.encode()), (500, KEY.encode()), (200, KEY.encode())])
    with serving(lambda _: next(answers)) as server:
        engine = remote(tmp_path, server.url, key=KEY)
        for _ in range(3):
            with pytest.raises(SpeechFailedError) as caught:
                engine.transcribe(tone(1), "en")
            assert KEY not in str(caught.value) + repr(caught.value.cause)
    assert [form["key"] for form in server.asked] == [f"Bearer {KEY}"] * 3
    assert KEY not in caplog.text + "".join(capfd.readouterr())
    assert KEY not in repr(engine.identity)


def test_the_server_is_asked_as_its_api_says(tmp_path: Path) -> None:
    with serving(lambda _: (200, b'{"text": "", "segments": []}')) as server:
        engine = remote(tmp_path, server.url, model="m", key=KEY)
        assert engine.transcribe(tone(1), "es") == ()
    (asked,) = server.asked
    assert asked.pop("file")[:4] == b"RIFF"
    assert asked == {
        "path": "/v1/audio/transcriptions",
        "key": f"Bearer {KEY}",
        "model": "m",
        "language": "es",
        "response_format": "verbose_json",
        "temperature": "0",
        "timestamp_granularities[]": "word",
    }


def failure(tmp_path: Path, status: int, body: bytes) -> SpeechFailedError:
    with serving(lambda _: (status, body)) as server:
        engine = remote(tmp_path, f"{server.url}/")
        with pytest.raises(SpeechFailedError) as caught:
            engine.transcribe(tone(1), "en")
    return caught.value


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_does_not_serve_now_is_asked_again(tmp_path: Path, status: int) -> None:
    error = failure(tmp_path, status, b"busy")
    assert (error.cause.code, error.final) == ("speech_unreachable", False)
    assert str(status) in error.cause.message


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413])
def test_a_server_that_refuses_is_not_asked_again(tmp_path: Path, status: int) -> None:
    error = failure(tmp_path, status, b"no")
    assert (error.cause.code, error.final) == ("speech_refused", True)
    assert "EARMARK_SPEECH_KEY" in error.cause.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"segments": 7}',
        b'{"segments": [{"text": "a"}]}',
        b'{"words": [1]}',
    ],
)
def test_an_answer_that_is_none_is_told(tmp_path: Path, body: bytes) -> None:
    error = failure(tmp_path, 200, body)
    assert (error.cause.code, error.final) == ("speech_unreachable", False)


def test_an_answer_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "MOST_BYTES", 1000)
    assert "more than 1000 bytes" in failure(tmp_path, 200, b" " * 2000).cause.message


def test_a_server_that_never_answers_is_given_up_after_a_time_by_the_length_of_the_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_engine, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(remote_engine, "ANSWER_FACTOR", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts; nobody answers
        engine = remote(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        for sound_seconds, least in ((0.1, 0.1), (3, 0.6)):
            began = time.monotonic()
            with pytest.raises(SpeechFailedError) as caught:
                engine.detect(tone(sound_seconds))
            assert time.monotonic() - began >= least
            assert caught.value.cause.code == "speech_unreachable"


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    engine = remote(tmp_path, "http://127.0.0.1:9/v1")
    with pytest.raises(SpeechFailedError) as caught:
        engine.detect(tone(1))
    assert caught.value.cause.code == "speech_unreachable"


def test_a_remote_engine_without_an_address_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpeechMissingError) as caught:
        open_engine("remote", Options(tmp_path))
    assert caught.value.cause.code == "speech_url_missing"

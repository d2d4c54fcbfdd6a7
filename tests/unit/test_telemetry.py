"""Logs: a line per fact, without secrets and without what a terminal would obey."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
import structlog

from earmark import telemetry
from earmark.errors import UnavailableError


@pytest.fixture
def configured():
    """Leaves logging as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    hooks = threading.excepthook, sys.unraisablehook
    yield telemetry.configure
    threading.excepthook, sys.unraisablehook = hooks
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(capsys: Any) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_json_has_a_line_for_each_fact(configured, capsys):
    configured(log_format="json")
    structlog.get_logger("x").info("said", number=1, flag=True, nothing=None, ratio=0.5)
    logging.getLogger("library").warning("also %s", "this")
    ours, theirs = (json.loads(line) for line in lines(capsys))
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "said",
        "level": "info",
        "number": 1,
        "flag": True,
        "nothing": None,
        "ratio": 0.5,
    }
    assert (theirs["event"], theirs["level"]) == ("also this", "warning")


def test_text_is_for_terminals_and_auto_finds_out(configured, capsys, monkeypatch):
    configured(log_format="text")
    structlog.get_logger().info("said", number=1)
    (line,) = lines(capsys)
    assert "said" in line
    assert "number=1" in line
    structlog.reset_defaults()
    configured(log_format="auto")
    structlog.get_logger().info("said")
    assert json.loads(lines(capsys)[0])["event"] == "said"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    structlog.reset_defaults()
    configured(log_format="auto")
    structlog.get_logger().info("said")
    assert not lines(capsys)[0].startswith("{")


def test_less_severe_lines_are_left_out(configured, capsys):
    configured(log_format="json", level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger().error("loud")
    assert [json.loads(line)["event"] for line in lines(capsys)] == ["loud"]


def redacted(**event: Any) -> dict[str, Any]:
    return dict(telemetry.redact(None, "info", event))


@pytest.mark.parametrize("key", ["Authorization", "client_secret", "password", "signed_url"])
def test_secrets_go_by_the_name_they_stand_under_however_deep(key):
    assert redacted(**{key: "s3cret"}) == {key: "[redacted]"}
    assert redacted(headers=[{key: "s3cret", "a": ("b",)}]) == {
        "headers": [{key: "[redacted]", "a": ["b"]}]
    }


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("sent Bearer eyJhbGciOiJFUzI1NiJ9.e30.abc", "sent Bearer [redacted]"),
        (
            "GET https://bucket.example.org/a?sig=abc&x=y now",
            "GET https://bucket.example.org/a?[redacted] now",
        ),
        ("postgresql://u:p4ss@host/db", "postgresql://u:[redacted]@host/db"),
        ("postgresql://:p4ss@host/db", "postgresql://:[redacted]@host/db"),
        ("nothing to hide: a?b", "nothing to hide: a?b"),
    ],
)
def test_secrets_go_by_their_form(text, left):
    assert redacted(event=text) == {"event": left}
    assert redacted(cause=ValueError(text)) == {"cause": "ValueError"}
    assert redacted(cause=UnavailableError(text)) == {
        "cause": f"earmark.errors.UnavailableError: {left}"
    }


def test_nothing_in_a_line_can_forge_another_or_command_a_terminal():
    assert redacted(path="/a\r\n\x1b[2J\x9b\u2028b\tc") == {
        "path": "/a\\u000d\\u000a\\u001b[2J\\u009b\\u2028b\tc"
    }


def test_a_traceback_keeps_its_lines_and_loses_its_secrets(configured, capsys):
    configured(log_format="json")
    try:
        int("postgresql://u:p4ss@host/db \x1b[2J")
    except ValueError:
        structlog.get_logger().exception("failed")
    told = json.loads(lines(capsys)[0])["exception"]
    assert told.startswith("Traceback")
    assert "\n" in told
    assert "p4ss" not in told
    assert "\x1b" not in told


def test_libraries_that_would_tell_headers_are_quiet(configured, capsys):
    configured(log_format="json", level="debug")
    logging.getLogger("httpcore2.http11").debug("headers [(b'Location', b'/a?sig=secret')]")
    logging.getLogger("httpcore.http11").debug("headers [(b'Location', b'/a?sig=secret')]")
    assert lines(capsys) == []


def test_visible_text_has_no_control_characters():
    assert telemetry.visible("a\x00b\x7f\u2029é") == "a\\u0000b\\u007f\\u2029é"


def test_nothing_is_set_up_by_importing():
    script = "import logging, earmark.telemetry; print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_a_traceback_quotes_nobody(configured, capsys):
    configured(log_format="json")
    name = "Ana"
    try:
        int(name)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("also failed")
    ours, theirs = (json.loads(line)["exception"] for line in lines(capsys))
    assert ours.splitlines()[-1] == theirs.splitlines()[-1] == "ValueError"
    assert "Ana" not in ours.replace('name = "Ana"', "") + theirs


def test_what_a_library_says_of_errors_and_objects_is_cut_short(configured, capsys):
    configured(log_format="json")
    log = logging.getLogger("library")
    log.warning("lost: %s, %d", ValueError("Ana"), 7)
    log.warning("never retrieved\nfuture: <Task exception=ValueError('Ana')>")
    log.warning("%(error)s", {"error": "by name"})
    events = [json.loads(line)["event"] for line in lines(capsys)]
    assert events == ["lost: ValueError, 7", "never retrieved", "by name"]


def test_in_text_no_line_of_a_traceback_begins_like_a_fact(configured, capsys):
    configured(log_format="text")
    error = UnavailableError("away\n2026-01-01 [info] forged")
    structlog.get_logger().error("failed", exc_info=error)
    fact, *rest = lines(capsys)
    assert "failed" in fact
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_what_threads_and_finalizers_leave_is_a_line(configured, capsys):
    configured(log_format="json")
    thread = threading.Thread(target=lambda: int("Ana"))
    thread.start()
    thread.join()

    class Left:
        def __del__(self):
            int("Ana")

    Left()
    threading.excepthook(threading.ExceptHookArgs((ValueError, None, None, None)))
    first, second = map(json.loads, lines(capsys))
    for told in (first, second):
        assert told["event"] == "uncaught"
        assert told["exception"].endswith("ValueError")
        assert "literal" not in told["exception"]


def test_keys_and_the_turning_of_text_are_disarmed_too():
    assert redacted(facts={"a\n\u202eb": "\u2066c"}) == {"facts": {"a\\u000a\\u202eb": "\\u2066c"}}


def test_an_exc_info_without_an_error_tells_none(configured, capsys):
    configured(log_format="json")
    structlog.get_logger().info("said", exc_info=True)
    assert "exception" not in json.loads(lines(capsys)[0])


def test_a_line_that_nobody_can_take_is_no_error(configured, monkeypatch):
    class Full:
        def write(self, _text: str) -> None:
            raise OSError(28, "No space left on device")

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stderr", Full())
    configured(log_format="json")
    structlog.get_logger().info("said")


def test_a_line_tells_its_request_and_only_that(configured, capsys):
    configured(log_format="json")
    structlog.get_logger().info("before")
    token = telemetry.origin.set(telemetry.Origin("r-1", "127.0.0.1"))
    try:
        structlog.get_logger().info("within")
        logging.getLogger("library").warning("within too")
    finally:
        telemetry.origin.reset(token)
    told = [json.loads(line) for line in lines(capsys)]
    assert [line.get("request_id") for line in told] == [None, "r-1", "r-1"]
    assert all("address" not in line for line in told)


def test_lines_of_many_threads_are_whole(configured, capsys):
    configured(log_format="json")

    def speak(number: int) -> None:
        for turn in range(50):
            structlog.get_logger().info("said", number=number, turn=turn)
            logging.getLogger("library").warning("said %s", number)

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in lines(capsys)]) == 400


def test_what_is_said_seldom_is_said_once_a_minute(configured, capsys, monkeypatch):
    configured(log_format="json")
    moment = iter((0.0, 30.0, 30.0, 60.0, 61.0))
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: next(moment))
    seldom = telemetry.Seldom()
    for event, number in (("a", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5)):
        seldom.warning(event, number=number)
    assert [json.loads(line)["number"] for line in lines(capsys)] == [1, 3, 4]

"""Logs: one line per fact, as text or JSON, never with a secret or personal data in it.

Also here: where the present call came from, which log and audit trail tell with each fact. Beside
it stands `metrics`, what is counted.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import textwrap
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from typing_extensions import override

from earmark.tracebacks import named, outline

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_SECRET_KEYS = frozenset(
    {"authorization", "client_secret", "access_token", "token", "secret", "password", "signed_url"}
)
_SECRET_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+"), r"\1?[redacted]"),
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@"), r"\1:[redacted]@"),
)
_SUSPICIOUS = re.compile(r"(?i)bearer|basic|://")
"""Without any of these a text holds none of the above."""

SPEAK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call came from.

    Attributes:
        request_id: its `X-Request-Id`; None for what no request asked for.
        address: of the caller, as trusted proxies tell it; of a command, who ran it.
    """

    request_id: str | None = None
    address: str | None = None


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - it is frozen
"""Of the present call. It is known at the edge and told in the journal; everything between would
have to hand it on."""

# What a terminal or a line-based reader would take for more than text, and what turns its order.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def configure(*, log_format: str = "auto", level: str = "info") -> None:
    """Sends every log line, those of libraries too, to standard error.

    What a thread or a finalizer leaves uncaught goes there too, as a line like the others.

    Args:
        log_format: "json", "text", or "auto": text on a terminal, else JSON.
        level: the least severe that is written.
    """
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        _of_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [_outlined, redact, *([_indented] if text else [])]
    last.append(
        structlog.dev.ConsoleRenderer(colors=False)
        if text
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _first_line],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        ),
    )
    _LINES.handler = handler
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_names: _LINES,
        cache_logger_on_first_use=True,
    )
    handler.addFilter(_name_errors)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These tell of every look at the schema; what goes wrong they raise.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # These tell of every request's headers, in which a credential may stand.
    for name in ("httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    threading.excepthook = _uncaught
    sys.unraisablehook = _uncaught


class _Lines:
    """Writes our own lines where a handler writes those of libraries.

    They are whole when they come here. To make a record of each, which the standard library then
    formats, would cost an upload as much again as everything else that it logs (measured).

    Attributes:
        handler: of the last `configure`; loggers remember this object, and not what was before.
    """

    handler: logging.StreamHandler[Any]

    def write(self, line: str) -> None:
        """Writes a line. Whoever logs is not to fail because nobody can be told."""
        self.handler.acquire()
        try:
            self.handler.stream.write(f"{line}\n")
            self.handler.flush()
        except (OSError, ValueError):  # a full disk, a reader that is gone, a closed stream
            pass
        finally:
            self.handler.release()

    debug = info = warning = error = critical = write


_LINES = _Lines()


def _of_request(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Which request it happened in."""
    request_id = origin.get().request_id
    if request_id is not None:
        event["request_id"] = request_id
    return event


def _uncaught(left: Any) -> None:
    """What a thread or a finalizer raised, which the interpreter would print with its message."""
    if left.exc_value is not None:
        structlog.get_logger("earmark").error("uncaught", exc_info=left.exc_value)


def _outlined(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The traceback of the error at hand, without messages that others wrote."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = outline(error)
    return event


def _indented(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """In text a traceback has lines of its own: none of them begins like a fact."""
    if "exception" in event:
        event["exception"] = textwrap.indent(event["exception"], "    ", lambda _line: True)
    return event


def _first_line(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Of what a library says: what follows, as asyncio has it, may be how an object looks."""
    event["event"] = str(event["event"]).partition("\n")[0]
    return event


def _name_errors(record: logging.LogRecord) -> bool:
    """Lets a library say which error it met, and not what that error quotes."""
    if isinstance(record.args, tuple):
        told = (named(one) if isinstance(one, BaseException) else one for one in record.args)
        record.args = tuple(told)
    return True


def redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Removes secrets by the name they stand under and by their form; disarms control bytes."""
    return {key: _clean(key, value) for key, value in event.items()}


def _clean(key: str, value: Any) -> Any:
    if key.lower() in _SECRET_KEYS:
        return "[redacted]"
    if isinstance(value, dict):
        return {visible(str(inner)): _clean(str(inner), one) for inner, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean_text(key, named(value) if isinstance(value, BaseException) else str(value))


def _clean_text(key: str, text: str) -> str:
    if text.isascii() and text.isprintable() and not _SUSPICIOUS.search(text):
        return text  # as most are
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    if key == "exception":  # the lines of a traceback
        return "\n".join(visible(line) for line in text.split("\n"))
    return visible(text)


def visible(text: str) -> str:
    """Text from outside with its control characters escaped, so that it cannot forge a line."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Seldom:
    """Says each thing once a minute: for what anybody can have us say, again and again."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._last: dict[str, float] = {}

    def warning(self, event: str, **facts: Any) -> None:
        """Says it, unless it was said lately, whatever the facts were."""
        present = time.monotonic()
        if present - self._last.get(event, -math.inf) >= SPEAK_SECONDS:
            self._last[event] = present
            self._log.warning(event, **facts)


class Rarely(logging.Filter):
    """Lets each place in a library's code speak once a minute: in an outage it repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        place = (record.pathname, record.lineno)
        if record.created - self._last.get(place, 0.0) < SPEAK_SECONDS:
            return False
        self._last[place] = record.created
        return True

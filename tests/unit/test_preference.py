"""How long a caller likes to wait is read as RFC 7240 has it."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from earmark.web.preference import Preference


@pytest.mark.parametrize(
    ("sent", "patience_seconds"),
    [
        (["respond-async"], 0.0),
        (["Respond-Async"], 0.0),
        (["respond-async, wait=10"], 10.0),
        (["wait=10,respond-async"], 10.0),
        (["wait=10", "respond-async"], 10.0),
        (['return=minimal; foo="a b", respond-async; x=y, wait="7"'], 7.0),
        (["respond-async, wait=3, wait=9"], 3.0),
        (["respond-async, wait=soon"], 0.0),
        (["respond-async, wait=-1"], 0.0),
        (["respond-async, wait=9999999"], 0.0),
        (["respond-async, ,, =x"], 0.0),
    ],
)
def test_a_caller_may_prefer_an_early_answer(sent: list[str], patience_seconds: float) -> None:
    headers = Headers(raw=[(b"prefer", one.encode()) for one in sent])
    assert Preference.of(headers) == Preference(
        respond_async=True, patience_seconds=patience_seconds
    )


@pytest.mark.parametrize(
    "sent", [None, "", "wait=10", "respond-asynchronously", "x=respond-async"]
)
def test_others_wait_to_the_end(sent: str | None) -> None:
    headers = Headers({} if sent is None else {"Prefer": sent})
    assert Preference.of(headers) == Preference(respond_async=False, patience_seconds=None)


@pytest.mark.parametrize(
    "sent", ["a" + " " * 1_000_000 + "x", "wait=" + " " * 1_000_000 + "@;", " " * 1_000_000]
)
def test_a_preference_of_any_length_is_read_in_one_pass(sent: str) -> None:
    """Or it would take hours."""
    assert Preference.of(Headers({"prefer": sent})) == Preference(False, None)

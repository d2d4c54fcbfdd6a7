"""Until when a signed address holds is read where it says so, and guessed nowhere."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.fetch.expiry import expiry

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261127T110000Z&X-Amz-Expires=3600",
        "X-Amz-Expires=3600&X-Amz-Date=20261127T110000Z&X-Amz-Signature=0",
        "X-Goog-Date=20261127T110000Z&X-Goog-Expires=3600&X-Goog-Signature=0",
        "AWSAccessKeyId=AKIA&Signature=a%2Fb&Expires=1795780800",
        "GoogleAccessId=a&Expires=1795780800&Signature=a",
        "sv=2020-12-06&se=2026-11-27T12%3A00%3A00Z&sr=b&sp=r&sig=a",
        "se=2026-11-27T12:00Z&sig=a",
        "se=2026-11-27T12:00:00.0000000Z&sig=a".replace(".0000000", ".000000"),
    ],
)
def test_each_store_shows_it_in_its_own_way(query: str) -> None:
    assert expiry(f"/calls/a.wav?{query}".encode()) == NOON


def test_azure_may_name_a_day() -> None:
    assert expiry(b"/a?se=2026-11-27&sig=a") == datetime(2026, 11, 27, tzinfo=UTC)


@pytest.mark.parametrize(
    "target",
    [
        "/a.wav",
        "/a.wav?",
        "/a?Expires=1795780800",
        "/a?se=2026-11-27",
        "/a?Expires=soon&Signature=a",
        "/a?Expires=99999999999999999999&Signature=a",
        "/a?X-Amz-Date=20261127T110000Z",
        "/a?X-Amz-Date=yesterday&X-Amz-Expires=3600",
        "/a?X-Amz-Date=20261127T110000Z&X-Amz-Expires=99999999999999",
        "/a?X-Amz-Date=20261127T110000Z&X-Amz-Expires=an+hour",
        "/a?se=soon&sig=a",
        "/a?" + "&".join(f"f{number}=1" for number in range(200)),
    ],
)
def test_what_does_not_show_it_is_left_to_the_store(target: str) -> None:
    assert expiry(target.encode()) is None


@given(query=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_no_query_is_an_error(query: str) -> None:
    for known in ("", "se=", "sig=&se=", "Expires=&Signature=", "X-Amz-Date=&X-Amz-Expires="):
        expiry(f"/a?{known}{query}".encode())

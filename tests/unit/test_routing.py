"""Paths as a log may tell them."""

from __future__ import annotations

import pytest

from earmark.web.routing import ToldPaths

PATHS = ["/Agent/{AgentId:uuid}", "/v1/interactions/{id}/transcript.{extension}", "/health/live"]
ID = "018f0000-0000-7000-8000-00000000000A"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/health/live", "/health/live"),
        ("/Health/LIVE", "/Health/LIVE"),
        (f"/Agent/{ID}", f"/Agent/{ID}"),
        (f"/Agent/{ID}x", "/Agent/*"),
        ("/Agent/Ana Example", "/Agent/*"),
        (f"/v1/interactions/{ID}/transcript.vtt", f"/v1/interactions/{ID}/transcript.*"),
        ("/v1/interactions/x\n/transcript.Ana", "/v1/interactions/*/transcript.*"),
        ("/Ana", "/*"),
        ("/", "/"),
        ("//", "//"),
        ("*", "*"),
        ("/health" * 5, "/*"),
    ],
)
def test_it_tells_our_own_words_and_ids(path, told):
    assert ToldPaths(PATHS).told(path) == told


def test_without_routes_it_tells_nothing():
    assert ToldPaths([]).told("/Ana") == "/*"

"""The way out to addresses that the operator configured."""

from __future__ import annotations

import httpx

CONNECT_SECONDS = 5.0
"""What does not answer in this is not there; where there is no way out, this is all it costs."""


def open_client(*, base_url: str = "", read_seconds: float) -> httpx.Client:
    """A client for an address that the operator configured.

    It follows no redirect and believes no proxy settings of the environment: recordings go where
    the settings say and nowhere else.

    Args:
        base_url: what relative addresses begin with.
        read_seconds: between two pieces of an answer.
    """
    timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
    return httpx.Client(
        base_url=base_url, timeout=timeout, trust_env=False, follow_redirects=False
    )

"""What is sealed opens for its owner with the same key, and for nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.access.seal import Seal
from earmark.errors import SettingsError

SEAL = Seal(b"k" * 32, "tests")


@given(content=st.binary(max_size=2000), owner=st.binary(max_size=20))
def test_what_is_sealed_is_opened_again(content: bytes, owner: bytes) -> None:
    sealed = SEAL.close(content, owner)
    assert SEAL.open(sealed, owner) == content
    assert len(content) < 16 or content not in sealed
    assert SEAL.close(content, owner) != sealed


@pytest.mark.parametrize(
    ("seal", "owner", "change"),
    [
        (Seal(b"x" * 32, "tests"), b"owner", 0),
        (Seal(b"k" * 32, "another purpose"), b"owner", 0),
        (SEAL, b"another owner", 0),
        (SEAL, b"owner", 1),
    ],
)
def test_it_opens_for_nobody_else(seal: Seal, owner: bytes, change: int) -> None:
    sealed = bytearray(SEAL.close(b"content", b"owner"))
    sealed[-1] ^= change
    with pytest.raises(SettingsError, match="EARMARK_SECRET_KEY"):
        seal.open(bytes(sealed), owner)

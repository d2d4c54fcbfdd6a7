"""Under which keys the storage has what belongs to an interaction."""

from __future__ import annotations

from uuid import UUID


def media_key(interaction_id: UUID) -> str:
    """The storage key of an interaction's media."""
    return str(interaction_id)


def waveform_key(interaction_id: UUID) -> str:
    """The storage key of an interaction's waveform."""
    return f"{interaction_id}.waveform"


def transcript_key(interaction_id: UUID) -> str:
    """The storage key of an interaction's transcript."""
    return f"{interaction_id}.transcript"


def sha512_key(interaction_id: UUID) -> str:
    """The storage key of the SHA-512 of an interaction's media."""
    return f"{interaction_id}.sha512"


def owner_of(key: str) -> UUID | None:
    """The interaction to which an object belongs; None if its key is no interaction's."""
    stem = key.partition(".")[0]
    try:
        owner = UUID(stem)
    except ValueError:
        return None
    return owner if str(owner) == stem else None

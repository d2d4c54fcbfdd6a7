"""Transcripts for the tests of searching, and what a plain reading of them finds."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from earmark.database import processing
from earmark.model import TranscriptFacts
from earmark.model.transcript import Segment, Speaker, Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from earmark.database import Database


def transcript(*lines: str, language: str = "en", apart: bool = True) -> Transcript:
    """A call; each line by the other speaker, unless they are not apart."""
    sides = (Speaker.AGENT, Speaker.CUSTOMER)
    return Transcript(
        tuple(
            Segment(line, sides[i % 2 if apart else 0], 2.0 * i, 2.0 * i + 1.5)
            for i, line in enumerate(lines)
        ),
        language,
    )


def say(database: Database, organization_id: UUID, interaction_id: UUID, said: Transcript) -> None:
    """Saves a transcript as a worker does."""
    facts = TranscriptFacts(said.language, len(said.segments), 0)
    with database.write(organization_id) as scope:
        processing.save_transcript(scope, interaction_id, facts, transcript=said)


def plain_words(text: str) -> list[str]:
    """The words of European text, by other means than the service's."""
    decomposed = unicodedata.normalize("NFKD", text.replace("'", "").casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", " ", bare).split()


def plainly_holds(lines: Sequence[str], query: str) -> bool:
    """Whether lines that stand alone hold all that a query asks for, read one by one."""
    for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', query):
        sent = quoted or bare
        wanted = plain_words(sent)
        is_prefix = sent.rstrip().endswith("*")
        if wanted and not any(_begins(plain_words(line), wanted, is_prefix) for line in lines):
            return False
    return True


def _begins(said: list[str], wanted: list[str], is_prefix: bool) -> bool:
    for at in range(len(said) - len(wanted) + 1):
        part = said[at : at + len(wanted)]
        if part == wanted:
            return True
        if is_prefix and part[:-1] == wanted[:-1] and part[-1].startswith(wanted[-1]):
            return True
    return False

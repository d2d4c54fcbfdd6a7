"""What every processing step keeps, run over the whole registry."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys
import wave
from typing import TYPE_CHECKING

import pytest

import recordings
from chats import LOG, zipped
from earmark import sandbox
from earmark.database import processing
from earmark.errors import MediaError
from earmark.interactions import media_key, waveform_key
from earmark.model import AudioFacts, MediaType, new_id
from earmark.pipeline import STEPS, Done, Item, Skipped, Step, Tools, load_steps
from earmark.sandbox import Limits
from earmark.storage import Store, open_store
from processing import Remembered, load, receive
from speaking import Scripted as Hears

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database


def recording() -> bytes:
    """One second of a tone, mono, 8 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        tone = (int(9000 * math.sin(index / 3)) for index in range(8000))
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in tone))
    return file.getvalue()


def archive() -> bytes:
    """A chat with a side file."""
    return zipped({"4711.json_chat": LOG, "4711.json_meta": '{"queue": "general"}'})


FACTS = AudioFacts("wav", "pcm_s16le", 8000, 1, 1.0, 1.0)
"""Of the recording, for steps that come after the one that finds them out."""

MEDIA = {MediaType.AUDIO: (".wav", recording), MediaType.CHAT: (".zip", archive)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file:{tmp_path}/objects")


@pytest.fixture
def tools(store: Store) -> Tools:
    return Tools(store=store, limits=Limits(), transcriber=Hears)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has steps decode without a child."""
    monkeypatch.setattr(sandbox, "run", recordings.decoded_here)


@pytest.fixture(params=STEPS, ids=lambda path: path.rpartition(":")[2])
def step(request: pytest.FixtureRequest, tools: Tools) -> Step:
    (found,) = load_steps(tools, [request.param])
    return found


def item_for(store: Store, step: Step, interaction_id: UUID, data: bytes | None = None) -> Item:
    """An interaction of a kind to which the step applies, its media in the store."""
    media_type = next(kind for kind in MediaType if step.applies_to(kind))
    extension, make = MEDIA[media_type]
    store.put(media_key(interaction_id), make() if data is None else data)
    return Item(new_id(), interaction_id, media_type, extension, audio=FACTS)


def keys(store: Store) -> set[str]:
    return set(store.keys(older_than_seconds=-1))


def test_names_are_unique_and_fit_the_ledger(tools: Tools) -> None:
    names = [step.name for step in load_steps(tools)]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) <= 32 for name in names)


@pytest.mark.parametrize("media_type", MediaType)
def test_every_kind_of_media_has_a_required_step(tools: Tools, media_type: MediaType) -> None:
    applicable = [step for step in load_steps(tools) if step.applies_to(media_type)]
    assert any(step.required for step in applicable)


def test_the_registry_alone_loads_no_step() -> None:
    code = "import earmark.pipeline, sys; sys.exit('earmark.pipeline.listen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_step_ends_done_or_says_why_not(step: Step, store: Store) -> None:
    outcome = step.run(item_for(store, step, new_id()), Remembered())
    assert isinstance(outcome, Done | Skipped)
    if isinstance(outcome, Skipped):
        assert outcome.cause.code
        assert outcome.cause.message.endswith(".")


@pytest.mark.usefixtures("here")
def test_doing_it_twice_is_doing_it_once(
    step: Step, store: Store, database: Database, organization: UUID
) -> None:
    interaction_id = receive(database, organization)
    item = item_for(store, step, interaction_id)
    seen = []
    for _ in range(2):
        outcome = step.run(item, Remembered())
        if isinstance(outcome, Done) and outcome.save:
            with database.write(organization) as scope:
                outcome.save(scope)
        contents = {key: b"".join(store.read(key)) for key in keys(store)}
        seen.append((contents, load(database, interaction_id)))
    assert seen[0] == seen[1]


@pytest.mark.usefixtures("here")
def test_what_it_stores_bears_the_id_and_goes_with_discard(step: Step, store: Store) -> None:
    interaction_id = new_id()
    item = item_for(store, step, interaction_id)
    step.run(item, Remembered())
    assert all(key.startswith(str(interaction_id)) for key in keys(store))
    step.discard(item)
    assert keys(store) == {media_key(interaction_id)}
    step.discard(item)


@pytest.mark.usefixtures("here")
def test_a_file_that_is_no_media_is_its_own_fault(step: Step, store: Store) -> None:
    item = item_for(store, step, new_id(), b"no media of any kind " * 100)
    with pytest.raises(MediaError) as caught:
        step.run(item, Remembered())
    assert caught.value.code
    assert caught.value.message.endswith(".")
    assert str(item.interaction_id) not in caught.value.message


@pytest.mark.usefixtures("here")
def test_the_media_itself_is_left_as_it_was(step: Step, store: Store) -> None:
    item = item_for(store, step, new_id())
    before = b"".join(store.read(media_key(item.interaction_id)))
    step.run(item, Remembered())
    assert b"".join(store.read(media_key(item.interaction_id))) == before


def test_listening_tells_what_a_recording_is_and_draws_it(
    tools: Tools, store: Store, database: Database, organization: UUID
) -> None:
    (listen,) = load_steps(tools, ["earmark.pipeline.listen:Listen"])
    interaction_id = receive(database, organization)
    outcome = listen.run(item_for(store, listen, interaction_id), Remembered())
    with database.write(organization) as scope:
        outcome.save(scope)
    facts = load(database, interaction_id).audio
    assert (facts.container, facts.sample_rate_hz, facts.channels) == ("wav", 8000, 1)
    assert facts.duration_seconds == pytest.approx(1.0)
    waveform = json.loads(b"".join(store.read(waveform_key(interaction_id))))
    assert (waveform["version"], waveform["channels"]) == (2, 1)
    assert waveform["length"] * 2 == len(waveform["data"])


@pytest.mark.usefixtures("here")
def test_facts_are_saved_only_while_the_interaction_is_there(
    tools: Tools, store: Store, database: Database, organization: UUID
) -> None:
    (listen,) = load_steps(tools, ["earmark.pipeline.listen:Listen"])
    outcome = listen.run(item_for(store, listen, new_id()), Remembered())
    with database.write(organization) as scope, pytest.raises(processing.GoneError):
        outcome.save(scope)

"""A client that somebody else's generator makes of the published API works against Earmark.

Nothing of it is changed but the address and the credentials. It goes through every operation that
the contract serves, on a real server with its worker.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import pkgutil
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from books import Books
from earmark.app.parts import Parts
from earmark.interactions import transcript_key
from earmark.model.transcript import Recognition, Segment, Speaker, Transcript
from earmark.render.json import Json
from published import PACKAGE, make_client
from serving import RECORDING, Server, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

TRANSCRIPT = Transcript(
    segments=(Segment("Good day.", Speaker.AGENT, 1.0, 2.0),),
    language="en",
    duration_seconds=3.0,
    recognition=Recognition("local", "base", None),
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """Finds a module of the generated package, which is made once for this run."""
    with pytest.MonkeyPatch.context() as patch:
        for place in make_client(tmp_path_factory.mktemp("client")):
            patch.setattr(sys, "path", [*sys.path, str(place)])
        yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
        for name in [one for one in sys.modules if one.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


class Published:
    """The generated client of one organization. What it calls are its own functions."""

    def __init__(self, server: Server, generated: Callable[[str], ModuleType], name: str) -> None:
        made = server.create_client(name)
        self.organization_id = made.client.organization_id
        self.generated = generated
        self.models = generated("models")
        self.types = generated("types")
        secret = {"client_id": made.client.id, "client_secret": made.secret}
        form = {"grant_type": "client_credentials", **secret}
        answer = httpx.post(f"{server.base}/connect/token", data=form, trust_env=False)
        self.client = generated("client").AuthenticatedClient(
            base_url=server.base,
            token=answer.json()["access_token"],
            raise_on_unexpected_status=True,
            httpx_args={"trust_env": False},
            timeout=httpx.Timeout(60),
        )

    def call(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """An answer as the client understood it, with its status."""
        module = self.generated(f"api.{operation}")
        return module.sync_detailed(*arguments, client=self.client, **named)

    def good(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """What the client understood of a 200."""
        answer = self.call(operation, *arguments, **named)
        assert answer.status_code == 200, answer.content
        return answer.parsed

    def model(self, name: str, /, **values: Any) -> Any:
        return getattr(self.models, f"AcxApiModels{name}")(**values)

    def upload(self, content: bytes, **metadata: Any) -> Any:
        file = self.types.File(io.BytesIO(content), "sent.wav", "audio/wav")
        facts = {"UploadType": "Audio", **metadata}
        body = self.models.PostMediaUploadBody(metadata=json.dumps(facts), file=file)
        return self.call("media.post_media_upload", body=body)

    def metadata(self, **query: Any) -> list[Any]:
        found: list[Any] = self.good("metadata.get_metadata", **query)
        return found

    def processed(self, call: str) -> Any:
        """The metadata of a call once its processing ended."""
        (item,) = until(
            lambda: (
                (found := self.metadata(client_call_id=call))
                and found[0].status != "Processing"
                and found
            ),
            f"{call} processed",
        )
        return item

    def close(self) -> None:
        self.client.get_httpx_client().close()


@pytest.fixture
def published(
    request: pytest.FixtureRequest,
    server: Server,
    generated: Callable[[str], ModuleType],
) -> Iterator[Published]:
    """A client of an organization that no other test has."""
    with closing(Published(server, generated, request.node.name)) as made:
        yield made


def test_agents_and_hierarchy_are_kept_by_the_generated_client(published: Published) -> None:
    assert published.call("agent.get_agent_all").status_code == 404
    assert published.call("hierarchy.get_hierarchy_all").status_code == 404
    top = published.good(
        "hierarchy.post_hierarchy",
        body=published.model("HierarchiesCreateHierarchyRequest", name="North", code="N"),
    )
    below = published.good(
        "hierarchy.post_hierarchy",
        body=published.model(
            "HierarchiesCreateHierarchyRequest",
            name="Desk",
            parent_id=top.id,
            hierarchy_codes=["D1", "D2"],
        ),
    )
    (tree,) = published.good("hierarchy.get_hierarchy_all", is_active=True)
    assert [child.id for child in tree.children] == [below.id]
    assert tree.children[0].hierarchy_codes == ["D1", "D2"]
    renamed = published.good(
        "hierarchy.put_hierarchy_hierarchy_id",
        below.id,
        body=published.model("HierarchiesUpdateHierarchyRequest", name="Front desk"),
    )
    assert (renamed.id, renamed.name) == (below.id, "Front desk")
    agent = published.good(
        "agent.post_agent",
        body=published.model(
            "AgentCreateAgentRequest",
            first_name="Ada",
            last_name="Quill",
            agent_email="ada@example.org",
            agent_code="007",
            osms=[below.id],
        ),
    )
    assert published.good("agent.get_agent_agent_id", agent.id) == agent
    changed = published.good(
        "agent.put_agent_agent_id",
        agent.id,
        body=published.model("AgentUpdateAgentRequest", last_name="Reed"),
    )
    assert (changed.first_name, changed.last_name) == ("Ada", "Reed")
    assert published.good("agent.get_agent_all", is_active=True) == [changed]
    assert published.call("agent.get_agent_agent_id", uuid4()).status_code == 404


def test_an_upload_is_followed_by_the_generated_client(published: Published) -> None:
    begun = datetime.now(UTC)
    node = published.good(
        "hierarchy.post_hierarchy",
        body=published.model("HierarchiesCreateHierarchyRequest", name="North", code="N"),
    )
    content = RECORDING.read_bytes()
    sent = {
        "FileName": "north/support-call.wav",
        "CallDirection": "Inbound",
        "Phone": "800-555-5555",
        "AgentFirstName": "James",
        "AgentLastName": "Bond",
        "InteractionDate": "2022-03-18T17:56:09.8683110-04:00",
        "ExtendedMetadataValues": {"queue": "general"},
        "HierarchyCode": "N",
        "LocaleId": 1033,
        "ClientCallId": "5CD1S",
    }
    taken = published.upload(content, **sent)
    assert taken.status_code == 200
    assert taken.parsed.file_name == "north/support-call.wav"
    assert taken.parsed.file_size_kb == -(-len(content) // 1024)
    again = published.upload(content, **sent)
    assert (again.status_code, again.content) == (
        400,
        b"An interaction with this file name already exists.",
    )
    item = published.processed("5CD1S")
    assert (item.id, item.status) == (str(taken.parsed.id), "ReadyToSample")
    assert item.organization_structure_member_id == str(node.id)
    assert item.timestamp == datetime(2022, 3, 18, 21, 56, 9, 868311, UTC)
    assert begun <= item.arrived_on <= datetime.now(UTC)
    assert item.call_duration_millis > 1000
    assert item.extended_metadata_values.to_dict() == {"queue": "general"}
    assert (item.agent_name, item.locale_id, item.media_type) == ("James Bond", 1033, "Audio")
    day = timedelta(days=1)
    body = published.model(
        "MetadataPostMetadataRequest",
        start_date=begun - day,
        end_date=begun + day,
        page_size=10,
        hierarchy_ids=[node.id],
        client_call_ids=["5CD1S"],
        media_type="Audio",
    )
    assert published.good("metadata.post_metadata", body=body) == [item]
    assert published.metadata(hierarchy_ids=str(node.id), page_size=1) == [item]
    assert published.metadata(last_id=item.id) == []


def test_metadata_are_corrected_by_the_generated_client(published: Published) -> None:
    id_ = published.upload(
        RECORDING.read_bytes(), FileName="c.wav", ClientCallId="before"
    ).parsed.id
    values = published.models.AcxApiModelsMetadataPatchMetadataRequestExtendedMetadataType0
    corrected = published.good(
        "metadata.patch_metadata_id",
        id_,
        body=published.model(
            "MetadataPatchMetadataRequest",
            timestamp=datetime(2021, 6, 8, 19, 39, 8, 561000, UTC),
            phone="8444025347",
            call_direction="Outbound",
            client_call_id="after",
            locale_id=2058,
            meta1=0,
            meta4=True,
            extended_metadata=values.from_dict({"data": "extra"}),
        ),
    )
    assert corrected.timestamp == datetime(2021, 6, 8, 19, 39, 8, 561000, UTC)
    assert (corrected.phone, corrected.call_direction) == ("8444025347", "Outbound")
    assert (corrected.meta1, corrected.meta2, corrected.meta4) == ("0", None, "true")
    assert corrected.extended_metadata_values.to_dict() == {"data": "extra"}
    item = published.processed("after")
    assert (item.id, item.status, item.locale_id) == (str(id_), "ReadyToSample", 2058)
    assert published.metadata(client_call_id="before") == []


def test_transcriptions_are_read_by_the_generated_client(
    server: Server, published: Published
) -> None:
    good, bad = (
        published.upload(content, FileName=name, ClientCallId=name).parsed.id
        for name, content in (("t.wav", RECORDING.read_bytes()), ("bad.wav", b"no sound at all"))
    )
    item, failed = published.processed("t.wav"), published.processed("bad.wav")
    assert (item.status, failed.status) == ("ReadyToSample", "FailedToProcess")
    (failure,) = failed.process_failures
    assert failure.message
    one = "conversations.get_conversations_transcriptions_conversation_id"
    untold = published.good(one, good)
    assert (untold.conversation_id, untold.transcriptions) == (good, [])
    transcribe(server, published.organization_id, good)
    told = published.good(one, good)
    (found,) = told.transcriptions
    assert (found.language_code, found.transcription) == ("en", ["00:00:01 Agent: Good day."])
    refused = published.call(one, bad)
    assert (refused.status_code, failure.message in refused.content.decode()) == (400, True)
    unknown = uuid4()
    assert published.call(one, unknown).status_code == 404
    batch = published.good(
        "conversations.post_conversations_transcriptions",
        body=published.model(
            "TranscriptionBatchTranscriptionRequest", conversation_ids=[bad, good, unknown, good]
        ),
    )
    assert [each.to_dict() for each in batch.transcriptions] == [told.to_dict()]
    assert [(each.conversation_id, each.status_code) for each in batch.errors] == [
        (bad, 400),
        (unknown, 404),
    ]


def transcribe(server: Server, organization_id: UUID, id_: UUID) -> None:
    """Lays a transcript where the worker would have, were speech recognized in this test."""
    with closing(Parts(server.settled())) as parts:
        parts.store.put(transcript_key(id_), Json().render(TRANSCRIPT))
        facts = {"language": "en", "segment_count": 1, "word_count": 2}
        Books(parts.database, organization_id).change(id_, transcript=facts)


def test_every_operation_of_the_contract_is_gone_through(
    generated: Callable[[str], ModuleType],
) -> None:
    """The tests above call each module that was generated, save the one that is not served."""
    source = inspect.getsource(sys.modules[__name__])
    operations = [
        name.removeprefix(f"{PACKAGE}.api.")
        for _, name, package in pkgutil.walk_packages(
            generated("api").__path__, prefix=f"{PACKAGE}.api."
        )
        if not package
    ]
    left_out = [one for one in operations if f'"{one}"' not in source]
    assert [one.partition(".")[0] for one in left_out] == ["text_media"]

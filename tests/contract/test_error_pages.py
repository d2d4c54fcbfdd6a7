"""The body on each error page is the one that the service sends, to the letter."""

from __future__ import annotations

import dataclasses
import itertools
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from books import Books
from contract.forms import (
    CONTENT_TYPE,
    WAV,
    body,
    file_part,
    form,
    metadata_part,
    part,
)
from contract.serving import Answer, Service, exchange
from earmark import egress
from earmark.access import parse_rate
from earmark.access.seal import Seal
from earmark.chat.faults import fault
from earmark.database import tables
from earmark.fetch import Fetcher, Limits
from earmark.intake import Downloading
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.model import Grant, Quota, Status, StepStatus
from earmark.web.reference.bodies import bodies
from earmark.web.reference.codes import Kind, meanings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from contract.serving import Caller
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")

PROBLEM = "application/problem+json"
AUDIO = {"FileName": "filename.wav", "UploadType": "Audio"}
OTHER_FILE = WAV + b"\xff" * 80
NO_DIGEST = "sha-256=:" + "A" * 43 + "=:"

NOT_PROVOKED = {
    "signed_url_failed": "needs a store that fails; tests/walled compares it",
    "signed_url_too_slow": "needs a store that is slow; tests/walled compares it",
    "signed_url_too_large": "needs a store with a large file; tests/walled compares it",
    "signed_url_interrupted": "needs a service that stops; tests/docs looks its sentence up",
    "http_error": "the server answers broken HTTP before the app; no request brings it about",
}
"""Codes whose body no test here brings about, and why."""


EXPECTED = {
    code: next(one for one in several if one.kind not in {Kind.STEP, Kind.WARNING})
    for code, several in meanings().items()
    if any(one.kind not in {Kind.STEP, Kind.WARNING} for one in several)
}
"""Every code that an answer tells."""


class Provoking:
    """Brings about each refusal as a client would, on services of their own."""

    def __init__(self, make: Callable[..., Service]) -> None:
        self.make = make
        self.numbers = itertools.count()

    def caller(self, grants: Sequence[Grant] = tuple(Grant), **options: Any) -> Caller:
        """A client of an organization without anything."""
        return self.make(**options).caller(f"Organization {next(self.numbers)}", grants)

    def upload(self, *parts: bytes, accept: str, **headers: str) -> Answer:
        return self.caller().upload(body(*parts), accept=accept, **headers)

    def metadata(self, metadata: Any, accept: str, name: str = "filename.wav") -> Answer:
        return self.upload(metadata_part(metadata), file_part(WAV, name), accept=accept)

    def url(self, address: str, accept: str, **options: Any) -> Answer:
        fetcher = Fetcher(egress.Walls(), Limits(1024))
        downloading = Downloading(fetcher, Seal(b"k" * 32, SEAL_PURPOSE), 4, 1.0)
        caller = self.caller(downloading=downloading, **options)
        sent = body(metadata_part(AUDIO), part("signedUrl", address.encode()))
        return caller.upload(sent, accept=accept)

    def failed(self, caller: Caller, **fields: Any) -> tuple[Books, UUID]:
        books = Books(caller.service.database, caller.principal.organization_id)
        return books, books.receive(**fields)

    # Refused uploads

    def file_missing_or_extension_not_allowed(self, accept: str) -> Answer:
        return self.upload(metadata_part(AUDIO), accept=accept)

    def metadata_missing(self, accept: str) -> Answer:
        return self.upload(file_part(), accept=accept)

    def metadata_malformed(self, accept: str) -> Answer:
        return self.metadata(b"[]", accept)

    def upload_type_invalid(self, accept: str) -> Answer:
        return self.metadata({"FileName": "filename.wav"}, accept)

    def metadata_value_invalid(self, accept: str) -> Answer:
        return self.metadata({**AUDIO, "CallDirection": "Sideways"}, accept)

    def file_name_invalid(self, accept: str) -> Answer:
        return self.metadata({**AUDIO, "FileName": "filename.txt"}, accept)

    def file_extension_mismatch(self, accept: str) -> Answer:
        return self.metadata({**AUDIO, "FileName": "filename.mp3"}, accept)

    def file_name_taken(self, accept: str) -> Answer:
        caller = self.caller()
        assert caller.upload(form(AUDIO)).status == 200
        return caller.upload(form(AUDIO), accept=accept)

    def locale_unsupported(self, accept: str) -> Answer:
        return self.metadata({**AUDIO, "LocaleId": 1034}, accept)

    def hierarchy_invalid(self, accept: str) -> Answer:
        return self.metadata({**AUDIO, "HierarchyCode": "Nowhere"}, accept)

    def signed_url_off(self, accept: str) -> Answer:
        url = part("signedUrl", b"https://bucket.s3.amazonaws.com/filename.wav")
        return self.upload(metadata_part(AUDIO), url, accept=accept)

    def signed_url_invalid(self, accept: str) -> Answer:
        return self.url("http://bucket.s3.amazonaws.com/filename.wav", accept)

    def signed_url_expired(self, accept: str) -> Answer:
        query = "X-Amz-Date=20220318T215226Z&X-Amz-Expires=300"
        return self.url(f"https://bucket.s3.amazonaws.com/filename.wav?{query}", accept)

    def signed_url_refused(self, accept: str) -> Answer:
        return self.url("https://127.0.0.1/filename.wav", accept)

    def file_empty(self, accept: str) -> Answer:
        return self.upload(metadata_part(AUDIO), file_part(b""), accept=accept)

    def file_not_media(self, accept: str) -> Answer:
        page = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
        return self.upload(metadata_part(AUDIO), file_part(page), accept=accept)

    def digested(self, digest: str, accept: str) -> Answer:
        headers = [f"Repr-Digest: {digest}"]
        file = part("file", WAV, file_name="filename.wav", headers=headers)
        return self.upload(metadata_part(AUDIO), file, accept=accept)

    def digest_mismatch(self, accept: str) -> Answer:
        return self.digested(NO_DIGEST, accept)

    def digest_malformed(self, accept: str) -> Answer:
        return self.digested("sha-256=:AAAA:", accept)

    def idempotency_key_malformed(self, accept: str) -> Answer:
        return self.caller().upload(form(AUDIO), accept=accept, idempotency_key="a b")

    def form_too_many_parts(self, accept: str) -> Answer:
        parts = [part(f"part{number}", b"") for number in range(31)]
        return self.upload(metadata_part(AUDIO), *parts, file_part(), accept=accept)

    def form_malformed(self, accept: str) -> Answer:
        return self.caller().upload(form(AUDIO)[:-20], accept=accept)

    # Refused requests

    def invalid_value(self, accept: str) -> Answer:
        return self.caller().send("GET", "/Metadata?PageSize=0", accept=accept)

    def processing_failed(self, accept: str) -> Answer:
        caller = self.caller()
        books, id_ = self.failed(caller, status=Status.FAILED)
        books.step(id_, "unpack", StepStatus.FAILED)
        why = fault("archive_damaged").message
        with caller.service.database.write(caller.principal.organization_id) as scope:
            scope.run(sa.update(tables.step).values(error_message=why))
        return caller.send("GET", f"/Conversations/Transcriptions/{id_}", accept=accept)

    def unauthenticated(self, accept: str) -> Answer:
        return self.caller().send("GET", "/Metadata", authorization="Bearer no", accept=accept)

    def insufficient_scope(self, accept: str) -> Answer:
        reader = self.caller(grants=[Grant.READ])
        return reader.upload(form(AUDIO), accept=accept)

    def not_found(self, accept: str) -> Answer:
        return self.caller().send("GET", f"/Agent/{uuid4()}", accept=accept)

    def method_not_allowed(self, accept: str) -> Answer:
        return self.caller().send("GET", "/Media/Upload", accept=accept)

    def idle(self, accept: str) -> Answer:
        caller = self.caller(idle_seconds=0.05)
        whole = form(AUDIO)
        headers = {
            "authorization": f"Bearer {caller.token}",
            "content_type": CONTENT_TYPE,
            "content_length": str(len(whole)),
            "accept": accept,
        }
        service = caller.service
        return service.runner.run(
            exchange(
                service.app,
                "POST",
                "/Media/Upload",
                headers=headers,
                chunks=[whole[:-20]],
                idle=True,
            )
        )

    def not_acceptable(self, _accept: str) -> Answer:
        caller = self.caller()
        _, id_ = self.failed(caller, status=Status.READY)
        path = f"/v1/interactions/{id_}/transcript"
        return caller.send("GET", path, accept="image/png")

    def processing(self, _accept: str) -> Answer:
        caller = self.caller()
        _, id_ = self.failed(caller)
        return caller.send("GET", f"/v1/interactions/{id_}/transcript", accept="text/vtt")

    def nothing_to_retry(self, _accept: str) -> Answer:
        caller = self.caller()
        _, id_ = self.failed(caller, status=Status.READY)
        return caller.ask("POST", f"/v1/interactions/{id_}/retry")

    def idempotency_key_in_use(self, accept: str) -> Answer:
        caller = self.caller()

        async def story() -> Answer:
            async with caller.service.intake.for_(caller.principal).keyed("key"):
                return await caller.uploading(form(AUDIO), idempotency_key="key", accept=accept)

        return caller.service.runner.run(story())

    def deleted(self, accept: str) -> Answer:
        caller = self.caller()
        id_ = caller.upload(form(AUDIO), idempotency_key="key").json["id"]
        assert caller.send("DELETE", f"/v1/interactions/{id_}").status == 204
        return caller.upload(form(AUDIO), idempotency_key="key", accept=accept)

    def too_large(self, accept: str) -> Answer:
        caller = self.caller(max_upload_bytes=5 * 1024**3 // 2)
        return caller.upload(b"", content_length=str(10**10), accept=accept)

    def not_multipart(self, accept: str) -> Answer:
        return self.caller().upload(b"{}", content_type="application/json", accept=accept)

    def range_not_satisfiable(self, _accept: str) -> Answer:
        caller = self.caller()
        id_ = caller.upload(form(AUDIO)).json["id"]
        return caller.send("GET", f"/v1/interactions/{id_}/media", range="bytes=1000000-")

    def idempotency_key_reused(self, accept: str) -> Answer:
        caller = self.caller()
        assert caller.upload(form(AUDIO), idempotency_key="key").status == 200
        return caller.upload(form(AUDIO, OTHER_FILE), idempotency_key="key", accept=accept)

    def rate_limited(self, accept: str) -> Answer:
        caller = self.caller(rate=parse_rate("1/min"))
        assert caller.send("GET", "/v1/interactions").status == 200
        return caller.send("GET", "/Metadata", accept=accept)

    def upload_rate_limited(self, accept: str) -> Answer:
        caller = self.caller(quota=Quota(uploads_per_minute=1))
        assert caller.upload(form(AUDIO)).status == 200
        return caller.upload(form(AUDIO), accept=accept)

    def too_many_uploads(self, accept: str) -> Answer:
        caller = self.caller(quota=Quota(uploads_at_once=1))

        async def story() -> Answer:
            async with await caller.service.intake.for_(caller.principal).admit(None):
                return await caller.uploading(form(AUDIO), accept=accept)

        return caller.service.runner.run(story())

    def internal(self, accept: str) -> Answer:
        caller = self.caller()
        heart = caller.service.app.heart
        caller.service.app.heart = dataclasses.replace(heart, directory=None)  # type: ignore[arg-type]
        return caller.send("GET", "/Agent/All", accept=accept)

    def unavailable(self, accept: str) -> Answer:
        caller = self.caller(reserve_bytes=1 << 60)
        return caller.upload(form(AUDIO), accept=accept)

    def storage_quota_reached(self, accept: str) -> Answer:
        caller = self.caller(quota=Quota(stored_bytes=1))
        return caller.upload(form(AUDIO), accept=accept)

    # Refused tokens

    def token(self, sent: str, *, times: int = 1, **headers: str) -> Answer:
        service = self.make()
        made = service.access.create_client(
            organization="First", create_organization=True, name="Test", grants=[Grant.READ]
        )
        text = sent.format(id=made.client.id, secret=made.secret)
        given = {"content_type": "application/x-www-form-urlencoded", **headers}
        for _ in range(times):
            asked = exchange(
                service.app, "POST", "/connect/token", headers=given, chunks=[text.encode()]
            )
            answer = service.runner.run(asked)
            if answer.status == 429:
                break
        return answer

    def invalid_request(self, _accept: str) -> Answer:
        return self.token("client_id={id}&client_secret={secret}")

    def invalid_client(self, _accept: str) -> Answer:
        return self.token("grant_type=client_credentials&client_id=nobody&client_secret=wrong")

    def unsupported_grant_type(self, _accept: str) -> Answer:
        return self.token("grant_type=password&client_id={id}&client_secret={secret}")

    def invalid_scope(self, _accept: str) -> Answer:
        granted = "grant_type=client_credentials&scope=openid"
        return self.token(granted + "&client_id={id}&client_secret={secret}")

    def too_many_requests(self, _accept: str) -> Answer:
        wrong = "grant_type=client_credentials&client_id=nobody&client_secret=wrong"
        return self.token(wrong, times=1000)


COMPARED = [code for code in EXPECTED if code not in NOT_PROVOKED]


@pytest.fixture
def provoking(database: Database, tmp_path: Path) -> Iterator[Provoking]:
    made: list[Service] = []

    def make(**options: Any) -> Service:
        made.append(Service(database, tmp_path / str(len(made)), **options))
        return made[-1]

    yield Provoking(make)
    for service in made:
        service.close()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("code", COMPARED)
def test_the_body_on_the_page_is_the_one_that_is_sent(provoking: Provoking, code: str) -> None:
    for body_ in bodies(EXPECTED[code]):
        status, *lines = body_.head.split("\n")
        headers = dict(line.split(": ", 1) for line in lines)
        accept = re.sub(r";.*", "", headers["Content-Type"])
        sent = getattr(provoking, code)(accept)
        assert masked(sent.text) == masked(body_.text)
        assert f"{sent.status} {HTTPStatus(sent.status).phrase}" == status
        shown = {name.lower(): masked(value) for name, value in headers.items()}
        assert shown.items() <= {name: masked(v) for name, v in sent.headers.items()}.items()


def masked(text: str) -> str:
    """Without ids, which are the service's own; numbers, times and sizes are compared."""
    return re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID", text)


def test_every_code_is_compared_or_named_with_its_reason() -> None:
    assert set(NOT_PROVOKED) <= set(EXPECTED)
    assert [code for code in COMPARED if not hasattr(Provoking, code)] == []

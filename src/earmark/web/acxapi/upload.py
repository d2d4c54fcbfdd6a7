"""`POST /Media/Upload`: the form is read as it comes, judged as soon as it can be, and kept."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003 - pydantic reads it

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from earmark.access.receipts import HEADER as RECEIPT_HEADER
from earmark.errors import KeyReusedError, RefusedError
from earmark.model import Download, media_named
from earmark.web import digests
from earmark.web.acxapi import documented, wire
from earmark.web.acxapi.body import Wire, document_errors
from earmark.web.errors import Answer, respond
from earmark.web.idempotency import HEADER, MAX_CHARACTERS, key_of
from earmark.web.multipart import Part, boundary_of, malformed, parts
from earmark.web.preference import Preference
from earmark.web.security import Uploader, uploader

if TYPE_CHECKING:
    from earmark.access import Access
    from earmark.access.receipts import Receipts
    from earmark.intake import (
        Comparison,
        Intake,
        KeyedUpload,
        OrganizationIntake,
        Reservation,
        Stage,
    )
    from earmark.model import Accepted, Principal, Submission

PATH = "/Media/Upload"

FORM_GRACE_BYTES = 1024 * 1024
"""What a form may hold beside its file; `Content-Length` counts both."""

SHORT_FORM_BYTES = 1024 * 1024
"""A form of as much is there before a look at the database could keep the rest of it away; so its
file is looked up only when it is committed, by the transaction that keeps it."""

MAX_URL_BYTES = 16 * 1024
"""As many as an address may have; a longer one is judged by what it has beyond that."""

NOT_MULTIPART = Answer(
    415,
    "not_multipart",
    "Send the request as multipart/form-data with a boundary.",
    {"Accept-Post": "multipart/form-data"},
)
_GONE = Response(status_code=499)  # nobody reads it; the number is for the log


class AcceptedAnswer(Wire):
    """An upload that is kept."""

    id: UUID
    file_name: str
    file_size_kb: int


class Uploads:
    """What is done with a request to take something in."""

    def __init__(self, intake: Intake, access: Access) -> None:
        """Keeps its collaborators."""
        self._intake = intake
        self._access = access

    async def answer(self, request: Request) -> Response:
        """As the route: who is calling is found out first."""
        return await self.take(request, await uploader(request))

    async def take(self, request: Request, principal: Principal) -> Response:
        """Reads the form and keeps what it brings."""
        boundary = boundary_of(request.headers.get("content-type", ""))
        if boundary is None:
            return respond(request, NOT_MULTIPART)
        receipts = self._access.receipts
        if not receipts.is_open:
            await run_in_threadpool(receipts.open)  # before anything is promised
        bound = self._intake.for_(principal)
        least, most = _announced(request)
        admitted = await bound.admit(least, most)
        waits = "expect" in request.headers  # then a refusal can come before the first byte
        is_short = most is not None and most <= SHORT_FORM_BYTES and not waits
        async with AsyncExitStack() as outer:
            try:
                async with admitted as reservation, AsyncExitStack() as stack:
                    key = key_of(request.headers.getlist(HEADER))
                    keyed = None
                    if key is not None:
                        keyed = await outer.enter_async_context(bound.keyed(key))
                    upload = _Upload(bound, stack, reservation, keyed=keyed, is_short=is_short)
                    stack.callback(lambda: setattr(request.state, "media", upload.media))
                    await upload.read(request, boundary)
                    if not upload.signed_url:
                        return _ok(await upload.commit(), receipts, principal)
            except ClientDisconnect:
                return _GONE
            # What a file part brought is gone by now; nothing waits on it while the other comes.
            preference = Preference.of(request.headers)
            found = await bound.download(
                upload.submission,
                upload.signed_url,
                promise=preference.respond_async,
                patience_seconds=preference.patience_seconds,
                keyed=keyed,
            )
        if isinstance(found, Download):
            return _accepted_later(found)
        return _ok(found, receipts, principal)


def router(uploads: Uploads) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["Media"])

    @routes.post(
        PATH,
        operation_id="uploadMedia",
        summary="Upload Media",
        response_model=AcceptedAnswer,
        responses={
            200: _ACCEPTED,
            202: _LATER,
            **documented.with_sentences(document_errors(400, 408, 409, 410, 413, 415, 422, 507)),
        },
        openapi_extra=_REQUEST,
    )
    async def upload_media(request: Request, principal: Uploader) -> Response:
        """Takes a recording or a chat archive; 200 means that it is durable and gets processed.

        The answer to a refusal is one sentence; with `Accept: application/problem+json` it has
        every fault found.
        """
        return await uploads.take(request, principal)

    return routes


def _announced(request: Request) -> tuple[int | None, int | None]:
    """The least and the most that the file has, by `Content-Length`; None if nothing is said."""
    length = request.headers.get("content-length")
    return (max(0, int(length) - FORM_GRACE_BYTES), int(length)) if length else (None, None)


def _ok(accepted: Accepted, receipts: Receipts, principal: Principal) -> Response:
    return JSONResponse(
        wire.accepted(accepted),
        headers={
            "Repr-Digest": digests.field(accepted.sha256),
            RECEIPT_HEADER: receipts.sign(accepted, principal.organization_id),
        },
    )


def _accepted_later(download: Download) -> Response:
    headers = {"Location": f"/v1/downloads/{download.id}", "Preference-Applied": "respond-async"}
    return Response(status_code=202, headers=headers)


class _Upload:
    """One upload while its form is read; the parts may come in any order."""

    def __init__(
        self,
        intake: OrganizationIntake,
        stack: AsyncExitStack,
        reservation: Reservation,
        *,
        keyed: KeyedUpload | None,
        is_short: bool,
    ) -> None:
        self._intake = intake
        self._is_short = is_short
        self._stack = stack
        self._reservation = reservation
        self._keyed = keyed
        self._texts: dict[str, bytes] = {}
        self._seen: set[str] = set()
        self._now = ""
        self._partial = bytearray()
        self._file: wire.FilePart | None = None
        self._digest: bytes | None = None
        self._stage: Stage | None = None
        self._comparison: Comparison | None = None
        self._is_told = False
        self._submission: Submission | None = None
        self._looked_up = False

    async def read(self, request: Request, boundary: str) -> None:
        """Reads the whole form; raises as soon as it cannot be accepted any more."""
        limit = self._intake.max_upload_bytes + FORM_GRACE_BYTES
        form = parts(request, boundary, max_bytes=limit)
        async with aclosing(form) as events:
            async for event in events:
                if isinstance(event, Part):
                    await self._begin(event)
                elif event is None:
                    await self._end()
                else:
                    await self._take(event)
                if self._is_told:
                    return
        if self._submission is None or self.signed_url:
            await self._judge()

    @property
    def signed_url(self) -> str:
        """Where to get the file instead; empty if it came itself."""
        return self._texts.get("signedurl", b"").decode(errors="replace").strip()

    @property
    def media(self) -> str:
        """Which kind of media it is to be, by all that is known so far."""
        if self._submission is not None:
            return self._submission.media_type.value
        return media_named(self._file.extension) if self._file else "unknown"

    @property
    def submission(self) -> Submission:
        """What was read of the metadata; it was judged."""
        if self._submission is None:
            raise RuntimeError("an upload that was not judged has no submission")
        return self._submission

    async def commit(self) -> Accepted:
        """Keeps what was read, or tells what is kept already; it was judged, so both are there."""
        first = self._keyed.accepted if self._keyed is not None else None
        if first is not None and self._is_told:
            return first
        if first is not None and self._comparison is not None:
            self._compare(self._comparison)
            return first
        if self._stage is None:
            raise RuntimeError("an upload that was not judged is not committed")
        if self._keyed is None:
            return await self._intake.commit(self._stage, self.submission)
        also = self._keyed.kept_as(self._stage.id, self.submission)
        return await self._intake.commit(self._stage, self.submission, also=also)

    async def _begin(self, part: Part) -> None:
        self._now, self._partial = part.name, bytearray()
        if part.name != "file" and part.name not in _TEXTS:
            return
        if part.name in self._seen:
            raise malformed(f"The part {part.name} comes twice.")
        self._seen.add(part.name)
        if part.name == "file":
            self._file = wire.file_part(part.file_name or "")
            self._digest = digests.sha256_of(part.digests)
            await self._begin_file(self._file)

    async def _begin_file(self, file: wire.FilePart) -> None:
        """Finds a place for the file, and judges what can be judged before its bytes."""
        if self._keyed is not None and self._keyed.accepted is not None:
            self._comparison = self._keyed.comparison(self._keyed.accepted, self._digest)
        elif file.allowed and not self.signed_url:
            self._stage = self._intake.stage(file.extension, self._reservation, self._digest)
        if "metadata" in self._texts:
            await self._judge()
        if self._stage is not None:
            await self._stack.enter_async_context(self._stage)

    async def _take(self, chunk: bytes) -> None:
        if self._now == "file":
            await self._take_file(chunk)
        elif self._now in _TEXTS:
            self._partial += chunk[: _TEXTS[self._now] + 1 - len(self._partial)]

    async def _take_file(self, chunk: bytes) -> None:
        if self._comparison is not None:
            await self._comparison.append(chunk)
            if self._submission is not None and self._comparison.differs:
                raise KeyReusedError
        elif self._stage is not None:
            await self._stage.append(chunk)
            if self._submission is not None and self._stage.fault is not None:
                if not self._looked_up:
                    await self._look_up()
                raise RefusedError([self._stage.fault])  # no need to read it to its end

    async def _end(self) -> None:
        """A part is whole."""
        if self._now == "file" and self._comparison is not None:
            await self._comparison.finish()
        elif self._now == "file" and self._stage is not None:
            await self._stage.finish()
        elif self._now in _TEXTS:
            self._texts[self._now] = bytes(self._partial)
        if self._now == "metadata" and self._file is not None:
            await self._judge()

    async def _judge(self) -> None:
        """Judges all that is known: once metadata and file header are, or the form has ended.

        What the file holds comes after all of it: `commit` refuses that.
        """
        self._submission = wire.read_submission(
            self._texts.get("metadata"), self._file, self.signed_url
        )
        if self.signed_url:  # the download looks it up
            return
        if self._keyed is not None and self._comparison is not None:
            self._keyed.demand_same(self._submission, sha256=self._digest)
            # A digest tells of the bytes, unless they came first and tell themselves.
            self._is_told = self._digest is not None and self._now == "file"
        elif not self._is_short:  # or else `commit` looks it up
            await self._look_up()

    async def _look_up(self) -> None:
        await self._intake.check(self.submission, self._stage)
        self._looked_up = True

    def _compare(self, comparison: Comparison) -> None:
        """Refuses a retry whose file is another one."""
        if comparison.fault is not None:
            raise RefusedError([comparison.fault])
        if comparison.differs:
            raise KeyReusedError


_TEXTS = {"metadata": wire.MAX_METADATA_BYTES, "signedurl": MAX_URL_BYTES}
"""The parts that are read beside the file → how many bytes each may have; one more is kept, so
that a longer one is seen to be so."""

_ACCEPTED: dict[str, Any] = {
    "description": "It is durable. A later upload with the same `Idempotency-Key` gets the same.",
    "headers": {
        "Repr-Digest": {
            "schema": {"type": "string"},
            "description": "The SHA-256 of the file as it is kept (RFC 9530).",
        },
        RECEIPT_HEADER: {
            "schema": {"type": "string"},
            "description": "A signed statement of it: a compact JWS of `application/jwt`.",
        },
    },
    "links": {
        "record": {
            "operationId": "get_interaction",
            "parameters": {"interaction_id": "$response.body#/id"},
            "description": "Read its record",
        }
    },
}

_DIGEST_HEADER: dict[str, Any] = {
    "schema": {"type": "string"},
    "description": "`sha-256` of the file (RFC 9530): another one that comes is refused.",
}

_LATER: dict[str, Any] = {
    "description": "Asked for by `Prefer: respond-async`: the file of `signedUrl` is being "
    "downloaded, and `Location` says how that stands.",
    "headers": {"Location": {"schema": {"type": "string"}}},
}

_REQUEST: dict[str, Any] = {
    "parameters": [
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "With `signedUrl`: `respond-async`, and `wait=` seconds (RFC 7240).",
        },
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": 2 * MAX_CHARACTERS + 2},
            "description": "At most 255 characters, best a new UUID for each upload. The same "
            "upload with the same key gets the first answer again, for 24 hours.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["metadata"],
                    "properties": {
                        "metadata": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": documented.METADATA,
                            "description": "A JSON object about the file, as text.",
                        },
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": documented.FILE,
                        },
                        "signedUrl": {
                            "type": "string",
                            "description": "A signed https address (S3, Azure Blob, GCS or any "
                            "server) from which the file is downloaded, in place of `file`; empty "
                            "means absent.",
                            "examples": list(documented.SIGNED_URLS),
                        },
                    },
                },
                "encoding": {
                    "metadata": {"contentType": "application/json"},
                    "file": {
                        "headers": dict.fromkeys(("Repr-Digest", "Content-Digest"), _DIGEST_HEADER)
                    },
                },
            }
        },
    },
}

"""The token endpoint and discovery on the wire: request bytes in; status, headers, body out."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import httpx
import pytest
import uvicorn
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet

from earmark.access import Access, NewClient
from earmark.web import Heart
from earmark.web.connection import RequestContext
from earmark.web.oauth import MAX_FORM_BYTES, router
from earmark.web.pace import Pace
from earmark.web.routing import CaselessPaths
from shared_app import App

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from earmark.database import Database

ISSUER = "https://earmark.example"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BASIC_CHALLENGE = 'Basic realm="earmark", charset="UTF-8"'

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""The database has no part in what goes over the wire; `test_access` runs on both."""

pytestmark = on_sqlite

seed = pytest.mark.origin("seed")
ours = pytest.mark.origin("ours")


def application(heart: Heart) -> FastAPI:
    app = FastAPI()
    made = router(heart.access)
    app.include_router(made)
    app.add_middleware(CaselessPaths, paths=[route.path for route in made.routes])
    app.add_middleware(RequestContext, pace=Pace(60))
    return app


def app_of(access: Access) -> App:
    absent: Any = None
    return App(Heart(access, absent, absent, absent, dict, 1), application)


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database, secret_key=b"k" * 32, issuer=ISSUER)


@pytest.fixture
def client(access: Access) -> NewClient:
    return access.create_client(organization="Acme", create_organization=True, name="Recorder")


@pytest.fixture
def app(access: Access) -> App:
    return app_of(access)


class Wire:
    """Sends to the application; the answer is read as it stands."""

    def __init__(self, app: App) -> None:
        self.transport = httpx.ASGITransport(app)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def go() -> httpx.Response:
            base = httpx.AsyncClient(transport=self.transport, base_url="http://test")
            async with base as http:
                return await http.request(method, path, **options)

        return asyncio.run(go())

    def token(
        self, body: Any, headers: Mapping[str, str] | None = None, path: str = "/connect/token"
    ) -> httpx.Response:
        content = urlencode(body) if isinstance(body, dict) else body
        return self.send("POST", path, content=content, headers={**FORM, **(headers or {})})


@pytest.fixture
def wire(app: App) -> Wire:
    return Wire(app)


@pytest.fixture
def good(client: NewClient) -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "scope": "acxapi",
        "client_id": client.client.id,
        "client_secret": client.secret,
    }


def without(form: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in form.items() if name not in names}


def basic(client_id: str, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def assert_refused(answer: httpx.Response, status: int, error: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert set(answer.json()) == {"error", "error_description"}
    description = answer.json()["error_description"].encode("ascii")
    assert not {*b'"\\'} & {*description}, "RFC 6749 section 5.2 forbids these characters"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


# 200


@seed
def test_a_client_gets_a_token_by_credentials_in_the_form(
    wire: Wire, good: dict[str, str], access: Access, client: NewClient
) -> None:
    answer = wire.token(good)
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    principal = access.authenticate(body.pop("access_token"))
    assert principal.client_id == client.client.id
    assert body == {"token_type": "Bearer", "expires_in": 3600, "scope": "acxapi"}


@seed
def test_a_client_gets_a_token_by_basic(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    form = without(good, "client_id", "client_secret")
    assert wire.token(form, basic(client.client.id, client.secret)).status_code == 200


@ours
def test_basic_credentials_are_percent_decoded(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    form = without(good, "client_id", "client_secret")
    encoded = "".join(f"%{byte:02x}" for byte in client.secret.encode())
    pair = base64.b64encode(f"{client.client.id}:{encoded}".encode()).decode()
    assert wire.token(form, {"Authorization": f"bAsIc  {pair} "}).status_code == 200


@ours
def test_basic_may_be_joined_by_the_same_client_id_in_the_form(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    form = without(good, "client_secret")
    assert wire.token(form, basic(client.client.id, client.secret)).status_code == 200


@seed
@pytest.mark.parametrize("scope", [None, "", "acxapi"])
def test_the_scope_may_be_left_out(wire: Wire, good: dict[str, str], scope: str | None) -> None:
    form = without(good, "scope") if scope is None else {**good, "scope": scope}
    answer = wire.token(form)
    assert (answer.status_code, answer.json()["scope"]) == (200, "acxapi")


@seed
@pytest.mark.parametrize("path", ["/connect/token", "/Connect/Token", "/CONNECT/TOKEN"])
def test_the_path_matches_without_regard_to_case(
    wire: Wire, good: dict[str, str], path: str
) -> None:
    assert wire.token(good, path=path).status_code == 200


@ours
def test_a_charset_and_unknown_fields_do_no_harm(wire: Wire, good: dict[str, str]) -> None:
    content_type = "Application/X-WWW-Form-URLEncoded; charset=utf-8"
    answer = wire.token({**good, "audience": "é"}, {"Content-Type": content_type})
    assert answer.status_code == 200


@ours
def test_another_authorization_scheme_does_not_hide_credentials_in_the_form(
    wire: Wire, good: dict[str, str]
) -> None:
    assert wire.token(good, {"Authorization": "Bearer stale"}).status_code == 200


# 401


@seed
@pytest.mark.parametrize(
    "change",
    [
        {"client_secret": "wrong"},
        {"client_id": "nobody"},
        {"client_id": "a\x00b"},
        {"client_secret": ""},
        {"client_id": ""},
        {"client_secret": "\x80é"},
    ],
)
def test_wrong_credentials_in_the_form_are_an_invalid_client(
    wire: Wire, good: dict[str, str], change: dict[str, str]
) -> None:
    answer = wire.token({**good, **change})
    assert_refused(answer, 401, "invalid_client")
    assert "www-authenticate" not in answer.headers


@seed
def test_wrong_credentials_by_basic_are_challenged(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    form = without(good, "client_id", "client_secret")
    for headers in (basic(client.client.id, "wrong"), basic("nobody", client.secret)):
        answer = wire.token(form, headers)
        assert_refused(answer, 401, "invalid_client")
        assert answer.headers["www-authenticate"] == BASIC_CHALLENGE


@ours
@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic Og==x",
        "Basic bm9jb2xvbg==",
        "Basic gIA6gIA=",
        "Basic é",
        "Basic " + base64.b64encode(b"%ff:%ff").decode(),
        "Bearer x",
        "Negotiate",
        "",
    ],
)
def test_a_malformed_or_strange_authorization_is_challenged(
    wire: Wire, good: dict[str, str], value: str
) -> None:
    form = without(good, "client_id", "client_secret")
    answer = wire.token(form, {"Authorization": value.encode("latin-1")})
    assert_refused(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"] == BASIC_CHALLENGE


@seed
@pytest.mark.parametrize(
    "change", [{"grant_type": "password"}, {"grant_type": ""}, {"scope": "admin"}]
)
def test_the_client_is_judged_before_the_grant(
    wire: Wire, good: dict[str, str], change: dict[str, str]
) -> None:
    answer = wire.token({**good, **change, "client_secret": "wrong"})
    assert_refused(answer, 401, "invalid_client")


@seed
def test_no_credentials_are_an_invalid_client(wire: Wire, good: dict[str, str]) -> None:
    assert_refused(wire.token(without(good, "client_id")), 401, "invalid_client")
    assert_refused(wire.token(without(good, "client_secret")), 401, "invalid_client")
    assert_refused(wire.token(b""), 401, "invalid_client")


# 400


@seed
def test_credentials_by_form_and_basic_at_once_are_an_invalid_request(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    answer = wire.token(good, basic(client.client.id, client.secret))
    assert_refused(answer, 400, "invalid_request")
    other = without({**good, "client_id": "other"}, "client_secret")
    answer = wire.token(other, basic(client.client.id, client.secret))
    assert_refused(answer, 400, "invalid_request")


@seed
@pytest.mark.parametrize("grant_type", ["password", "authorization_code", "CLIENT_CREDENTIALS"])
def test_another_grant_type_is_unsupported(
    wire: Wire, good: dict[str, str], grant_type: str
) -> None:
    answer = wire.token({**good, "grant_type": grant_type})
    assert_refused(answer, 400, "unsupported_grant_type")


@seed
def test_no_grant_type_is_an_invalid_request(wire: Wire, good: dict[str, str]) -> None:
    assert_refused(wire.token(without(good, "grant_type")), 400, "invalid_request")
    assert_refused(wire.token({**good, "grant_type": ""}), 400, "invalid_request")


@seed
@pytest.mark.parametrize("scope", ["admin", "acxapi admin", "ACXAPI", "\0", "é"])
def test_another_scope_is_invalid(wire: Wire, good: dict[str, str], scope: str) -> None:
    assert_refused(wire.token({**good, "scope": scope}), 400, "invalid_scope")


@ours
@pytest.mark.parametrize("name", ["grant_type", "scope", "client_id", "client_secret", "other"])
def test_a_parameter_that_comes_twice_is_an_invalid_request(
    wire: Wire, good: dict[str, str], name: str
) -> None:
    twice = [*{**good, "other": "x"}.items(), (name, {**good, "other": "x"}[name])]
    assert_refused(wire.token(urlencode(twice)), 400, "invalid_request")


@ours
def test_two_authorization_headers_are_an_invalid_request(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    value = basic(client.client.id, client.secret)["Authorization"]
    headers = [*FORM.items(), ("Authorization", value), ("Authorization", value)]
    form = urlencode(without(good, "client_id", "client_secret"))
    answer = wire.send("POST", "/connect/token", content=form, headers=headers)
    assert_refused(answer, 400, "invalid_request")


@ours
@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "", "x"])
def test_what_is_no_form_is_an_invalid_request(
    wire: Wire, good: dict[str, str], content_type: str
) -> None:
    answer = wire.token(json.dumps(good), {"Content-Type": content_type})
    assert_refused(answer, 400, "invalid_request")
    assert answer.headers["connection"] == "close"


@ours
def test_a_form_of_no_type_is_an_invalid_request(wire: Wire, good: dict[str, str]) -> None:
    answer = wire.send("POST", "/connect/token", content=urlencode(good))
    assert_refused(answer, 400, "invalid_request")


@ours
def test_a_form_that_is_too_long_is_not_read_to_its_end(wire: Wire, good: dict[str, str]) -> None:
    head = urlencode(good) + "&x="
    full = head + "x" * (MAX_FORM_BYTES - len(head))
    assert wire.token(full).status_code == 200
    answer = wire.token(full + "x")
    assert_refused(answer, 400, "invalid_request")
    assert answer.headers["connection"] == "close"


@ours
@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"a=%ff", b"\0", b"&" * 100, b"a&" * 33, b"client_id=%00"]
)
def test_a_body_that_is_no_form_is_refused(wire: Wire, body: bytes) -> None:
    assert wire.token(body).status_code in {400, 401}


@ours
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), authorization=st.binary(max_size=60), content=st.booleans())
def test_no_hostile_request_is_our_fault(
    wire: Wire, body: bytes, authorization: bytes, content: bool
) -> None:
    headers = FORM if content else {"Content-Type": "text/plain"}
    sent = {**headers, "Authorization": b"Basic " + base64.b64encode(authorization)}
    for value in (sent["Authorization"], authorization):
        answer = wire.send(
            "POST", "/connect/token", content=body, headers={**sent, "Authorization": value}
        )
        assert answer.status_code in {400, 401}


@ours
def test_a_client_that_goes_away_is_not_our_fault(app: App) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/connect/token",
        "query_string": b"",
        "headers": [(b"content-type", FORM["Content-Type"].encode())],
    }
    run: Callable[..., Awaitable[None]] = app
    asyncio.run(run(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400


@ours
def test_another_method_is_not_allowed(wire: Wire) -> None:
    answer = wire.send("GET", "/connect/token")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# Discovery


@seed
@pytest.mark.parametrize(
    "path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
)
def test_the_discovery_documents_name_the_token_endpoint_and_the_keys(
    wire: Wire, path: str
) -> None:
    answer = wire.send("GET", path)
    document = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    extra = {"subject_types_supported", "id_token_signing_alg_values_supported"}
    assert {name: value for name, value in document.items() if name not in extra} == {
        "issuer": ISSUER,
        "token_endpoint": f"{ISSUER}/connect/token",
        "jwks_uri": f"{ISSUER}/.well-known/openid-configuration/jwks",
        "scopes_supported": ["acxapi"],
        "response_types_supported": ["none"],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }
    assert extra <= set(document) or path.endswith("server")


@ours
def test_authlib_finds_the_metadata_valid(wire: Wire) -> None:
    document = wire.send("GET", "/.well-known/oauth-authorization-server").json()
    AuthorizationServerMetadata(document).validate()


@seed
def test_the_published_keys_verify_a_token(wire: Wire, good: dict[str, str]) -> None:
    address = wire.send("GET", "/.well-known/openid-configuration").json()["jwks_uri"]
    answer = wire.send("GET", address.removeprefix(ISSUER))
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert all("d" not in key for key in answer.json()["keys"])
    token = wire.token(good).json()["access_token"]
    keys = KeySet.import_key_set(answer.json())
    decoded = jwt.decode(token, keys, algorithms=["ES256"])
    assert decoded.header["typ"] == "at+jwt"
    assert (decoded.claims["iss"], decoded.claims["aud"]) == (ISSUER, ISSUER)


@ours
def test_every_operation_is_documented_with_its_statuses(app: App) -> None:
    operations = {
        operation["operationId"]: (method, path, set(operation["responses"]))
        for path, methods in app.built.openapi()["paths"].items()
        for method, operation in methods.items()
    }
    assert operations == {
        "create_token": ("post", "/connect/token", {"200", "400", "401", "429", "503"}),
        "get_openid_configuration": ("get", "/.well-known/openid-configuration", {"200"}),
        "get_authorization_server_metadata": (
            "get",
            "/.well-known/oauth-authorization-server",
            {"200"},
        ),
        "get_keys": ("get", "/.well-known/openid-configuration/jwks", {"200", "503"}),
    }


# A client library that others wrote


@pytest.fixture
def served(database: Database) -> Iterator[tuple[str, Access]]:
    """A server on 127.0.0.1 with its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        access = Access(database, secret_key=b"k" * 32, issuer=address)
        server = uvicorn.Server(uvicorn.Config(app_of(access), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield address, access
        server.should_exit = True
        thread.join()


@ours
@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_authlib_gets_a_token_through_discovery(
    served: tuple[str, Access], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    address, access = served
    made = access.create_client(organization="Acme", create_organization=True, name="Recorder")
    found = httpx.get(f"{address}/.well-known/openid-configuration").json()
    assert method in found["token_endpoint_auth_methods_supported"]
    with OAuth2Session(
        made.client.id, made.secret, scope="acxapi", token_endpoint_auth_method=method
    ) as session:
        token = session.fetch_token(found["token_endpoint"], grant_type="client_credentials")
    assert token["expires_in"] == 3600
    assert access.authenticate(token["access_token"]).client_id == made.client.id


@ours
def test_basic_credentials_with_a_character_beyond_base64_are_malformed(
    wire: Wire, good: dict[str, str], client: NewClient
) -> None:
    value = basic(client.client.id, client.secret)["Authorization"].replace(" ", " !")
    answer = wire.token(without(good, "client_id", "client_secret"), {"Authorization": value})
    assert_refused(answer, 401, "invalid_client")

"""A receipt says what was kept, and anybody can verify it offline for as long as they like."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from joserfc import jwk, jws

import forging
from contract.forms import WAV, form, meta
from earmark.access import Access
from earmark.access.receipts import ReceiptError, same_file, verify
from earmark.database import receipts as queries
from earmark.database import tables
from earmark.errors import SettingsError, UnauthenticatedError
from earmark.model import Grant

if TYPE_CHECKING:
    from contract.serving import Answer, Caller, Service
    from earmark.database import Database, Scope

KEYS = "/.well-known/openid-configuration/jwks"
ISSUER = "https://earmark.example"

ODD_NAMES = [
    "a b/\u00fc\u4e2d\U0001f600.wav",
    "\u200f\u202eevil.wav",
    'quoted "and" \\ back.wav',
    "x" * 1020 + ".wav",
    '"' * 1020 + ".wav",
    "\u4e2d" * 340 + ".wav",
]


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


def keys(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = caller.send("GET", KEYS).json
    return found


def receipt_of(answer: Answer) -> str:
    return answer.headers["earmark-receipt"]


def part(receipt: str, number: int) -> Any:
    encoded = receipt.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))


def test_an_upload_is_answered_with_its_receipt(caller: Caller) -> None:
    answer = caller.upload(form(meta()))
    record = caller.send("GET", f"/v1/interactions/{answer.json['id']}").json
    found = verify(receipt_of(answer), keys(caller))
    assert (found.issuer, str(found.id)) == (ISSUER, answer.json["id"])
    assert found.organization_id == caller.principal.organization_id
    assert (found.file_name, found.size_bytes) == (record["file_name"], len(WAV))
    assert found.sha256.hex() == record["sha256"] == hashlib.sha256(WAV).hexdigest()
    assert found.received_at.isoformat()[:19] == record["received_at"][:19]
    assert same_file(found, hashlib.sha256(WAV).digest())
    assert not same_file(found, hashlib.sha256(b"").digest())


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # see docs/decisions.md
def test_it_is_a_jws_that_other_libraries_verify(caller: Caller) -> None:
    answer = caller.upload(form(meta()))
    receipt = receipt_of(answer)
    published = jwk.KeySet.import_key_set(keys(caller))  # type: ignore[arg-type]
    read = jws.deserialize_compact(receipt, published, algorithms=["EdDSA"])
    assert read.headers()["typ"] == "earmark-receipt+jwt"
    claims = json.loads(read.payload)
    assert set(claims) == {"iss", "sub", "iat", "org", "file_name", "sha256", "size_bytes"}
    assert claims["sub"] == answer.json["id"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name)[:20])
def test_any_name_survives_the_header(caller: Caller, name: str) -> None:
    receipt = receipt_of(caller.upload(form(meta(FileName=name))))
    assert receipt.isascii()
    assert len(receipt) < 4096
    assert verify(receipt, keys(caller)).file_name == name.replace("\\", "/")


def test_an_interaction_has_the_same_receipt_each_time(caller: Caller) -> None:
    answer = caller.upload(form(meta()))
    path = f"/v1/interactions/{answer.json['id']}/receipt"
    for _ in range(2):
        again = caller.send("GET", path)
        assert again.status == 200
        assert again.text == receipt_of(again) == receipt_of(answer)
        assert again.headers["content-type"] == "application/jwt"
    correction = caller.ask("PATCH", f"/Metadata/{answer.json['id']}", {"phone": "1"})
    assert correction.status == 200
    assert caller.send("GET", path).text == receipt_of(answer)


def test_taking_a_receipt_away_has_an_audit_row(caller: Caller) -> None:
    id_ = caller.upload(form(meta())).json["id"]
    caller.send("GET", f"/v1/interactions/{id_}/receipt")
    with caller.service.database.read(None) as scope:
        told = sa.select(tables.audit).where(tables.audit.c.action == "interaction.read_receipt")
        (row,) = scope.rows(told)
    assert (row.subject, row.actor) == (id_, f"client:{caller.principal.client_id}")


def test_who_may_not_read_or_is_of_another_organization_gets_none(caller: Caller) -> None:
    id_ = caller.upload(form(meta())).json["id"]
    path = f"/v1/interactions/{id_}/receipt"
    service = caller.service
    assert service.caller("Second").send("GET", path).status == 404
    assert service.caller(grants=[Grant.INGEST]).send("GET", path).status == 403


def test_what_was_deleted_has_no_receipt_any_more_but_the_one_that_was_given_holds(
    caller: Caller,
) -> None:
    answer = caller.upload(form(meta()))
    path = f"/v1/interactions/{answer.json['id']}"
    assert caller.send("DELETE", path).status == 204
    assert caller.send("GET", f"{path}/receipt").status == 404
    assert verify(receipt_of(answer), keys(caller)).id.hex


# Its key


def test_it_outlives_every_key_of_tokens(caller: Caller) -> None:
    access, receipt = caller.service.access, receipt_of(caller.upload(form(meta())))
    (before,) = access.receipts.published()
    for _ in range(2):
        for key in access.signing_keys():
            access.revoke_key(key.id)
    assert before in keys(caller)["keys"]
    assert verify(receipt, keys(caller))


def test_all_processes_sign_with_one_key(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [Access(database, secret_key=b"k" * 32, issuer=ISSUER) for _ in range(4)]
    together, looked = threading.Barrier(4), threading.local()
    look = queries.key

    def look_at_once(scope: Scope) -> queries.StoredKey | None:
        found = look(scope)
        if not hasattr(looked, "once"):
            looked.once = together.wait(60)  # all of them have seen that there is none
        return found

    monkeypatch.setattr(queries, "key", look_at_once)

    def open_at_once(access: Access) -> Any:
        return access.receipts.published()[0]

    with ThreadPoolExecutor(4) as pool:
        opened = [*pool.map(open_at_once, others)]
    assert [one["kid"] for one in opened] == [opened[0]["kid"]] * 4
    with database.read(None) as scope:
        (row,) = scope.rows(sa.select(tables.receipt_key))
    assert row.public_jwk == opened[0]
    assert set(row.public_jwk) == {"kty", "crv", "x", "use", "alg", "kid"}


def test_without_the_secret_key_nothing_is_promised_that_could_not_be_signed(
    database: Database, caller: Caller
) -> None:
    caller.upload(form(meta()))
    other = Access(database, secret_key=b"x" * 32, issuer=ISSUER)
    with pytest.raises(SettingsError, match="EARMARK_SECRET_KEY"):
        other.receipts.open()
    assert not other.receipts.is_open
    with pytest.raises(RuntimeError):
        other.receipts.sign(None, caller.principal.organization_id)  # type: ignore[arg-type]


def test_the_private_key_is_not_stored_in_clear(database: Database, caller: Caller) -> None:
    caller.upload(form(meta()))
    with database.read(None) as scope:
        (row,) = scope.rows(sa.select(tables.receipt_key))
    private = caller.service.access.receipts._signer.key  # type: ignore[union-attr]
    raw = private.private_bytes_raw()
    assert raw not in row.wrapped_private_key
    assert base64.urlsafe_b64encode(raw).rstrip(b"=") not in row.wrapped_private_key
    assert "d" not in row.public_jwk


# What is none


def test_a_receipt_is_no_access_token_and_a_token_no_receipt(caller: Caller) -> None:
    service, receipt = caller.service, receipt_of(caller.upload(form(meta())))
    with pytest.raises(UnauthenticatedError):
        service.access.authenticate(receipt)
    with pytest.raises(ReceiptError, match="header"):
        verify(caller.token, keys(caller))
    token = forging.forge(service.access, caller.token, {"file_name": "a.wav"})
    with pytest.raises(ReceiptError, match="header"):
        verify(token, keys(caller))


def altered(receipt: str, number: int, **values: Any) -> str:
    parts = receipt.split(".")
    changed = json.dumps({**part(receipt, number), **values}).encode()
    parts[number] = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    return ".".join(parts)


ALTERED: dict[str, tuple[int, dict[str, Any], str]] = {
    "another size": (1, {"size_bytes": 1}, "signature does not fit"),
    "another service": (1, {"iss": "https://other.example"}, "signature does not fit"),
    "unsigned": (0, {"alg": "none"}, "header"),
    "a shared secret": (0, {"alg": "HS256"}, "header"),
    "a token": (0, {"typ": "at+jwt"}, "header"),
    "a key of its own": (0, {"jwk": {}}, "header"),
    "no key": (0, {"kid": 7}, "header"),
    "another key": (0, {"kid": "other\n"}, r"'other\\n', which is none of those"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_whatever_was_changed_is_noticed(caller: Caller, name: str) -> None:
    number, values, sentence = ALTERED[name]
    receipt = receipt_of(caller.upload(form(meta())))
    assert verify(f" {receipt}\n", keys(caller))
    with pytest.raises(ReceiptError, match=sentence):
        verify(altered(receipt, number, **values), keys(caller))


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (slice(-8), "signature does not fit"),
        (slice(-86), "signature does not fit"),
        (slice(-87), "three parts"),
    ],
    ids=["shorter", "none", "no part"],
)
def test_half_a_signature_is_none(caller: Caller, end: slice, sentence: str) -> None:
    receipt = receipt_of(caller.upload(form(meta())))
    with pytest.raises(ReceiptError, match=sentence):
        verify(receipt[end], keys(caller))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "three parts"),
        ("a.a.a.a", "three parts"),
        ("a." * 10_000, "three parts"),
        ("e.e.e", "base64url"),
        ("\u00fc\u00fc.e.e", "base64url"),
        ("W10.W10.W10", "no JSON object"),
        ("eyJhIjoxLCJhIjoyfQ.W10.W10", "no JSON object"),
        ("W1tb" * 3000 + ".W10.W10", "no JSON object"),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_anything_else_is_told_to_be_no_receipt(text: str, sentence: str) -> None:
    with pytest.raises(ReceiptError, match=sentence):
        verify(text, {"keys": []})


@pytest.mark.parametrize("key_set", [{}, {"keys": None}, {"keys": [7]}, {"keys": []}], ids=str)
def test_without_its_key_nobody_says_that_it_is_genuine(caller: Caller, key_set: Any) -> None:
    receipt = receipt_of(caller.upload(form(meta())))
    with pytest.raises(ReceiptError, match="none of those given"):
        verify(receipt, key_set)


def test_a_malformed_key_is_told(caller: Caller) -> None:
    receipt = receipt_of(caller.upload(form(meta())))
    (key,) = caller.service.access.receipts.published()
    with pytest.raises(ReceiptError, match="malformed"):
        verify(receipt, {"keys": [{**key, "x": "AAAA"}]})


@pytest.mark.parametrize(
    "claims",
    [{}, {"sub": None}, {"sub": 7}, {"sub": "x"}, {"iat": 1 << 80}, {"sha256": "x"}],
    ids=str,
)
def test_a_receipt_without_its_values_is_told(caller: Caller, claims: dict[str, Any]) -> None:
    receipt = receipt_of(caller.upload(form(meta())))
    said = {**part(receipt, 1), **claims} if claims else {}
    signer = caller.service.access.receipts._signer
    assert signer is not None
    payload = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    signature = signer.key.sign(f"{signer.head}.{payload}".encode())
    encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    with pytest.raises(ReceiptError, match="another version"):
        verify(f"{signer.head}.{payload}.{encoded}", keys(caller))

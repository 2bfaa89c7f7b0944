"""SCRAM against the RFC's own conversation, and against servers that do not keep to it."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from appliance.credentials.saslprep import prepared
from appliance.credentials.scram import Derivation, ScramClient, salted_password, verifier
from appliance.errors import PeerError

# RFC 7677 section 3.
NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def started(binding: bytes | None = None) -> ScramClient:
    client = ScramClient(NONCE, binding, "user")
    client.first()
    return client


def proven(server_first: bytes = SERVER_FIRST) -> ScramClient:
    client = started()
    client.final(salted_password(b"pencil", client.derivation(server_first)))
    return client


def test_the_conversation_of_rfc_7677() -> None:
    client = ScramClient(NONCE, None, "user")
    assert client.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    derivation = client.derivation(SERVER_FIRST)
    assert client.final(salted_password(b"pencil", derivation)) == CLIENT_FINAL
    client.verify(SERVER_FINAL)


def test_plus_carries_the_binding_in_both_messages() -> None:
    client = ScramClient(NONCE, b"\x01\x02", "user")
    assert client.first().startswith(b"p=tls-server-end-point,,n=user,")
    final = client.final(salted_password(b"pencil", client.derivation(SERVER_FIRST)))
    # base64 of "p=tls-server-end-point,," and 01 02
    assert final.startswith(b"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQI=,r=")


@pytest.mark.parametrize(
    "server_first",
    [
        b"r=anotherNonce,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO\x01,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4095",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=" + b"9" * 5000,
        b"m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        b"r=rOprNGfwEbeRWgbNEkqOx",
        b"",
    ],
)
def test_a_server_first_message_that_breaks_the_rules_is_refused(server_first: bytes) -> None:
    with pytest.raises(PeerError):
        started().derivation(server_first)


@pytest.mark.parametrize("server_final", [b"v=" + b"A" * 43 + b"=", b"e=invalid-proof", b"v=?", b"", b"x=1"])
def test_a_server_that_cannot_prove_the_password_is_refused(server_final: bytes) -> None:
    with pytest.raises(PeerError):
        proven().verify(server_final)


def test_steps_have_one_order() -> None:
    client = ScramClient(NONCE, None)
    with pytest.raises(PeerError):
        client.derivation(SERVER_FIRST)
    with pytest.raises(PeerError):
        client.final(b"x" * 32)
    client.first()
    with pytest.raises(PeerError):
        client.first()
    with pytest.raises(PeerError):
        client.final(b"x" * 32)
    with pytest.raises(PeerError):
        client.verify(SERVER_FINAL)
    done = proven()
    done.verify(SERVER_FINAL)
    with pytest.raises(PeerError):
        done.verify(SERVER_FINAL)


def test_a_verifier_proves_the_conversation_of_the_rfc() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    head, keys = verifier(b"pencil", Derivation(salt, 4096)).rsplit("$", 1)
    assert head == "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    stored_key, server_key = (base64.b64decode(part) for part in keys.split(":"))
    bare, unproven = b"n=user,r=" + NONCE.encode(), CLIENT_FINAL.rsplit(b",p=", 1)[0]
    message = b",".join((bare, SERVER_FIRST, unproven))
    assert b"v=" + base64.b64encode(hmac.digest(server_key, message, "sha256")) == SERVER_FINAL
    proof = base64.b64decode(CLIENT_FINAL.rsplit(b",p=", 1)[1])
    signature = hmac.digest(stored_key, message, "sha256")
    client_key = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


@pytest.mark.parametrize(
    ("password", "result"),
    [
        ("pencil", b"pencil"),
        ("I\u00adX", b"IX"),  # RFC 4013 section 3: mapped to nothing
        ("\u2168", b"IX"),  # NFKC
        ("\u00aa", b"a"),
        ("a\u00a0b", b"a b"),  # non-ASCII space
        ("\u0627\u0031", "\u0627\u0031".encode()),  # bidirectional rule broken: raw
        ("\u0007", b"\x07"),  # plain ASCII stays as it is, as at PostgreSQL
        ("é\u0007", "é\u0007".encode()),  # prohibited: raw, not normalised
        ("e\u0301", "é".encode()),
    ],
)
def test_saslprep_as_postgresql_applies_it(password: str, result: bytes) -> None:
    assert prepared(password.encode()) == result


def test_what_is_not_utf_8_stays_as_it_is() -> None:
    assert prepared(b"caf\xe9") == b"caf\xe9"


def test_no_error_and_no_repr_shows_a_secret() -> None:
    client = proven()
    salted = salted_password(b"pencil", Derivation(b"salt", 4096))
    assert "pencil" not in repr(client)
    assert salted.hex() not in repr(client)
    assert "signature" not in repr(client)

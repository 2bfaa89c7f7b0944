"""The server's side of SCRAM: the RFC's own exchange, and every way to get it wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerError
from appliance.protocols.postgres.scram import PLAIN, PLUS, ScramServer, Verifier

# RFC 7677, section 3: user "user", password "pencil".
SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

BINDING = bytes(range(32))


def salted() -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(SALT), 4096)


def verifier() -> Verifier:
    stored = hashlib.sha256(hmac.digest(salted(), b"Client Key", "sha256")).digest()
    server = hmac.digest(salted(), b"Server Key", "sha256")
    return Verifier.read(
        f"SCRAM-SHA-256$4096:{SALT}${base64.b64encode(stored).decode()}:{base64.b64encode(server).decode()}"
    )


def final(header: bytes, server_first: bytes, binding: bytes = b"", bare: bytes = b"n=,r=abc") -> bytes:
    """A client's proof for the right password."""
    client_key = hmac.digest(salted(), b"Client Key", "sha256")
    unproven = b"c=" + base64.b64encode(header + binding) + b"," + server_first.split(b",")[0]
    exchange = bare + b"," + server_first + b"," + unproven
    signature = hmac.digest(hashlib.sha256(client_key).digest(), exchange, "sha256")
    return unproven + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))


def test_the_exchange_of_rfc_7677_is_answered_to_the_byte() -> None:
    server = ScramServer(verifier(), None, SERVER_NONCE)
    assert server.mechanisms == (PLAIN,)
    assert server.first(PLAIN, CLIENT_FIRST) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL


def test_a_bound_exchange_is_answered() -> None:
    server = ScramServer(verifier(), BINDING, "server")
    assert server.mechanisms == (PLUS, PLAIN)
    header = b"p=tls-server-end-point,,"
    first = server.first(PLUS, header + b"n=,r=abc")
    assert server.final(final(header, first, BINDING)) is not None


def test_another_certificate_than_ours_is_noticed() -> None:
    server = ScramServer(verifier(), BINDING, "server")
    header = b"p=tls-server-end-point,,"
    first = server.first(PLUS, header + b"n=,r=abc")
    with pytest.raises(PeerError, match="channel binding"):
        server.final(final(header, first, b"\xff" * 32))


def test_a_wrong_proof_is_answered_with_nothing() -> None:
    server = ScramServer(verifier(), None, SERVER_NONCE)
    server.first(PLAIN, CLIENT_FIRST)
    assert server.final(CLIENT_FINAL.replace(b"p=dH", b"p=dG")) is None


def test_a_cut_offer_is_a_downgrade_and_refused() -> None:
    with pytest.raises(PeerError, match="tampered"):
        ScramServer(verifier(), BINDING, "server").first(PLAIN, b"y,,n=,r=abc")


def test_without_tls_a_client_that_could_bind_is_let_through() -> None:
    server = ScramServer(verifier(), None, "server")
    first = server.first(PLAIN, b"y,,n=,r=abc")
    assert server.final(final(b"y,,", first)) is not None


def test_a_header_cannot_be_changed_between_the_two_messages() -> None:
    server = ScramServer(verifier(), None, "server")
    first = server.first(PLAIN, b"y,,n=,r=abc")
    with pytest.raises(PeerError):
        server.final(final(b"n,,", first))


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        (PLUS, b"n,,n=,r=abc"),
        (PLUS, b"y,,n=,r=abc"),
        (PLUS, b"p=tls-unique,,n=,r=abc"),
        (PLAIN, b"p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-1", b"n,,n=,r=abc"),
        (PLAIN, b""),
        (PLAIN, b"n"),
        (PLAIN, b"n,n=,r=abc"),
        (PLAIN, b"n,a=admin,n=,r=abc"),
        (PLAIN, b"n,,m=x,n=,r=abc"),
        (PLAIN, b"n,,n=,r="),
        (PLAIN, b"n,,n=,r=a\x07b"),
        (PLAIN, b"n,,n=,r=\xc3\xa4"),
        (PLAIN, b"n,,r=abc"),
        (PLAIN, b"n,,n=,r=" + b"a" * 5000),
    ],
)
def test_a_first_message_against_the_rules_is_a_peer_error(mechanism: str, message: bytes) -> None:
    with pytest.raises(PeerError):
        ScramServer(verifier(), BINDING, "server").first(mechanism, message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"r=rOpr", b"r=xOpr"),
        (b"c=biws", b"c=eSws"),
        (b"c=biws,", b""),
        (b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b""),
        (b"p=dHzb", b"p=!Hzb"),
        (b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"p=AAAA"),
        (b"7AndVQ=", b"7AndVQ=,x=y"),
    ],
)
def test_a_final_message_against_the_rules_is_a_peer_error(old: bytes, new: bytes) -> None:
    server = ScramServer(verifier(), None, SERVER_NONCE)
    server.first(PLAIN, CLIENT_FIRST)
    assert old in CLIENT_FINAL
    with pytest.raises(PeerError):
        server.final(CLIENT_FINAL.replace(old, new))


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_a_peer_error(first: bytes, last: bytes) -> None:
    server = ScramServer(verifier(), None, SERVER_NONCE)
    for step in (lambda: server.first(PLAIN, first), lambda: server.final(last)):
        try:
            step()
        except PeerError:
            continue


@pytest.mark.parametrize("text", ["", "md5abc", "SCRAM-SHA-256$4096:aaaa$bbbb:cccc", "SCRAM-SHA-256$0:W22Z$A=:B="])
def test_what_is_no_verifier_is_refused_and_a_verifier_shows_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="verifier"):
        Verifier.read(text)
    assert "key" not in repr(verifier())

"""The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), for clients that insist on it.

It proves nothing about who the client is (its origin says that); it lets a client that demands channel binding or a
SCRAM server convince itself. What a client may send is as src/backend/libpq/auth-scram.c has it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from appliance.errors import PeerError

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
NONCE_BYTES: Final = 18  # of randomness in our part of the nonce (SCRAM_RAW_NONCE_LEN)
TOKEN_SIZE_MAX: Final = 4096  # bytes of a client's message; libpq's have under 300
_HASH_SIZE: Final = 32

_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")
_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")  # printable without the comma
_FIRST_BARE: Final = re.compile(rb"n=([^,\0]*),r=([^,]*)(?:,[A-Za-z]=[^,\0]*)*")
_FINAL: Final = re.compile(rb"(c=([^,]*),r=([^,]*)(?:,[A-Za-z]=[^,\0]*)*?),p=([^,]*)")


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps of a password: enough to check a proof, not enough to make one."""

    iterations: int
    salt: str
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Verifier:
        """A verifier as PostgreSQL stores it, SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. Raises ValueError."""
        match = _VERIFIER.fullmatch(text)
        if match is None:
            raise ValueError("not a SCRAM-SHA-256 verifier")
        iterations, salt, stored, server = match.groups()
        keys = []
        for part in (salt, stored, server):
            try:
                keys.append(base64.b64decode(part, validate=True))
            except binascii.Error:
                raise ValueError("not a SCRAM-SHA-256 verifier: a part of it is no base64") from None
        if len(keys[1]) != _HASH_SIZE or len(keys[2]) != _HASH_SIZE:
            raise ValueError("not a SCRAM-SHA-256 verifier: its keys have another size")
        return cls(int(iterations), salt, keys[1], keys[2])


class ScramServer:
    """One exchange. `binding` is the tls-server-end-point data of the client's leg, or None where it has no TLS; PLUS is
    offered exactly where there is one. `nonce` is our random part, printable and without commas."""

    __slots__ = ("_binding", "_channel", "_first_bare", "_nonce", "_server_first", "_verifier")

    def __init__(self, verifier: Verifier, binding: bytes | None, nonce: str) -> None:
        self._verifier = verifier
        self._binding = binding
        self._nonce = nonce.encode("ascii")
        self._channel = b""
        self._first_bare = b""
        self._server_first = b""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What to offer, the stronger first."""
        return (PLAIN,) if self._binding is None else (PLUS, PLAIN)

    def first(self, mechanism: str, message: bytes) -> bytes:
        """The answer to the client-first-message. Raises PeerError."""
        if mechanism not in self.mechanisms:
            raise PeerError("a SASL mechanism that was not offered")
        if len(message) > TOKEN_SIZE_MAX:
            raise PeerError("a SCRAM message that is too long")
        flag, comma, rest = message.partition(b",")
        authority, second_comma, bare = rest.partition(b",")
        if not comma or not second_comma:
            raise PeerError("a SCRAM message without its header")
        if mechanism == PLUS:
            if flag[:2] != b"p=":
                raise PeerError("SCRAM with channel binding chosen, and no binding in its header")
            if flag != b"p=tls-server-end-point" or self._binding is None:
                raise PeerError("a SCRAM channel binding of a type other than tls-server-end-point")
            self._channel = flag + b",," + self._binding
        elif flag == b"y" and self._binding is not None:
            # The client could bind and thinks that we could not: somebody between us has cut PLUS out of the offer.
            raise PeerError("a SCRAM channel binding negotiation that somebody has tampered with")
        elif flag in (b"n", b"y"):
            self._channel = flag + b",,"
        else:
            raise PeerError("a SCRAM header that asks for a channel binding the mechanism does not have")
        if authority:
            raise PeerError("a SCRAM message for another authorization identity, which is not supported")
        match = _FIRST_BARE.fullmatch(bare)
        if match is None:
            raise PeerError("a malformed SCRAM message")  # a mandatory extension (m=) is one too
        client_nonce = match.group(2)
        if not _NONCE.fullmatch(client_nonce):
            raise PeerError("a SCRAM nonce with characters that are not printable")
        self._first_bare = bare
        self._nonce = client_nonce + self._nonce
        verifier = self._verifier
        self._server_first = b"r=%s,s=%s,i=%d" % (self._nonce, verifier.salt.encode("ascii"), verifier.iterations)
        return self._server_first

    def final(self, message: bytes) -> bytes | None:
        """The answer to the client-final-message, or None where its proof is wrong. Raises PeerError."""
        if len(message) > TOKEN_SIZE_MAX:
            raise PeerError("a SCRAM message that is too long")
        match = _FINAL.fullmatch(message)
        if match is None:
            raise PeerError("a malformed SCRAM message")
        unproven, channel, nonce, proof_text = match.groups()
        if not hmac.compare_digest(channel, base64.b64encode(self._channel)):
            raise PeerError("a SCRAM channel binding that is not the one of this connection")
        if not hmac.compare_digest(nonce, self._nonce):
            raise PeerError("a SCRAM nonce that is not the one of this exchange")
        try:
            proof = base64.b64decode(proof_text, validate=True)
        except binascii.Error:
            raise PeerError("a SCRAM proof that is no base64") from None
        if len(proof) != _HASH_SIZE:
            raise PeerError("a SCRAM proof of another size")
        exchange = self._first_bare + b"," + self._server_first + b"," + unproven
        signature = hmac.digest(self._verifier.stored_key, exchange, "sha256")
        client_key = bytes(left ^ right for left, right in zip(proof, signature, strict=True))
        is_proven = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        answer = b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, exchange, "sha256"))
        return answer if is_proven else None

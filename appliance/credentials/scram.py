"""The client's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), and the verifiers servers keep.

Pure: nonces and salts are arguments, and the slow derivation of the salted password is the caller's step, so that it can
be done elsewhere. Nothing here shows a password or anything derived from one in an error or a repr.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from enum import Enum

from appliance.credentials.saslprep import prepared
from appliance.errors import PeerError

ITERATIONS_MIN = 4096
"""RFC 7677 section 4: less makes a stolen proof cheap to guess from."""

ITERATIONS_MAX = 1_000_000
"""Half a second of one core; more is a way to keep us busy."""

MESSAGE_BYTES_MAX = 4096
"""No server's message is a tenth of it."""

SALT_BYTES_MAX = 1024

_END_POINT = b"p=tls-server-end-point,,"  # RFC 5929 section 4
_PLAIN = b"n,,"


class _State(Enum):
    FIRST = "first"  # nothing sent yet
    FINAL = "final"  # our first message is out
    VERIFY = "verify"  # our proof is out
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Derivation:
    """What the server wants the salted password to be derived with."""

    salt: bytes
    iterations: int


@dataclass(slots=True)
class ScramClient:
    """One login. `binding` is the tls-server-end-point data for PLUS, or None for plain SCRAM.
    `user` is a saslname; empty for PostgreSQL, which takes the name from the startup packet.

    The order is first, derivation, final, verify; anything else, and anything the server says that the RFC does not
    allow, raises PeerError.
    """

    nonce: str
    binding: bytes | None
    user: str = ""
    _state: _State = _State.FIRST
    _server_first: bytes = field(default=b"", repr=False)
    _combined: bytes = field(default=b"", repr=False)
    _server_signature: bytes = field(default=b"", repr=False)

    def first(self) -> bytes:
        """The client-first-message."""
        self._expect(_State.FIRST, _State.FINAL)
        return self._gs2() + self._bare()

    def derivation(self, server_first: bytes) -> Derivation:
        """Read the server-first-message."""
        if self._state is not _State.FINAL:
            raise PeerError("a SCRAM message out of its order")
        values = _attributes(server_first, b"rsi")
        nonce, salt_text, iterations_text = values
        if not nonce.startswith(self.nonce.encode()) or len(nonce) == len(self.nonce):
            raise PeerError("a SCRAM nonce that does not continue ours")
        if any(byte < 0x21 or byte > 0x7E for byte in nonce):
            raise PeerError("a SCRAM nonce with characters that are not printable")
        salt = _decoded(salt_text)
        if not 0 < len(salt) <= SALT_BYTES_MAX:
            raise PeerError("a SCRAM salt of no sensible length")
        if not iterations_text.isdigit() or len(iterations_text) > 9:
            raise PeerError("a SCRAM iteration count that is no number")
        iterations = int(iterations_text)
        if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
            raise PeerError(f"a SCRAM iteration count outside {ITERATIONS_MIN} to {ITERATIONS_MAX}")
        self._combined = nonce
        self._server_first = server_first
        return Derivation(salt, iterations)

    def final(self, salted: bytes) -> bytes:
        """The client-final-message with its proof, from the salted password."""
        if not self._combined:
            raise PeerError("a SCRAM message out of its order")
        self._expect(_State.FINAL, _State.VERIFY)
        client_key = _hmac(salted, b"Client Key")
        stored_key = hashlib.sha256(client_key).digest()
        channel = base64.b64encode(self._gs2() + (self.binding or b""))
        unproven = b"c=" + channel + b",r=" + self._combined
        message = self._bare() + b"," + self._server_first + b"," + unproven
        signature = _hmac(stored_key, message)
        proof = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), message)
        return unproven + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """Check that the server knows the password too. Raises PeerError where it does not."""
        self._expect(_State.VERIFY, _State.OVER)
        if server_final.startswith(b"e="):
            raise PeerError("a refused SCRAM proof")
        (signature,) = _attributes(server_final, b"v")
        if not hmac.compare_digest(_decoded(signature), self._server_signature):
            raise PeerError("a SCRAM server signature that is wrong: the target does not know the password")

    def _expect(self, state: _State, following: _State) -> None:
        if self._state is not state:
            raise PeerError("a SCRAM message out of its order")
        self._state = following

    def _gs2(self) -> bytes:
        # "y,," would say that we could bind and saw no offer. Only the mechanism is known here, so never that.
        return _PLAIN if self.binding is None else _END_POINT

    def _bare(self) -> bytes:
        return f"n={self.user},r={self.nonce}".encode()


def salted_password(password: bytes, derivation: Derivation) -> bytes:
    """Hi() of RFC 5802: 1 ms for each 2,000 iterations or so."""
    return hashlib.pbkdf2_hmac("sha256", prepared(password), derivation.salt, derivation.iterations)


def verifier(password: bytes, derivation: Derivation) -> str:
    """What a server keeps of a password, in the form PostgreSQL stores: SCRAM-SHA-256$i:salt$StoredKey:ServerKey."""
    salted = salted_password(password, derivation)
    stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    server_key = _hmac(salted, b"Server Key")
    salt, stored, server = (base64.b64encode(part).decode() for part in (derivation.salt, stored_key, server_key))
    return f"SCRAM-SHA-256${derivation.iterations}:{salt}${stored}:{server}"


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _attributes(message: bytes, names: bytes) -> list[bytes]:
    """The values of exactly these attributes in this order; extensions may follow (RFC 5802 section 7), an unknown
    mandatory one ("m=") may not."""
    if len(message) > MESSAGE_BYTES_MAX:
        raise PeerError("a SCRAM message that is too long")
    parts = message.split(b",")
    if len(parts) < len(names):
        raise PeerError("a SCRAM message that lacks an attribute")
    values = []
    for name, part in zip(names, parts, strict=False):
        if part[:2] != bytes([name]) + b"=":
            raise PeerError("a SCRAM message with an attribute that is not expected there")
        values.append(part[2:])
    return values


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise PeerError("a SCRAM attribute that is no base64") from None

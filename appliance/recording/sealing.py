"""How exact texts are encrypted: a random key per journal, wrapped for the control process alone.

The journal's key encrypts with ChaCha20-Poly1305 (RFC 8439) under a counter nonce; it never encrypts in two journals, so
no nonce comes twice. The key itself is wrapped to control's X25519 public key (an ephemeral X25519 exchange, HKDF-SHA256,
ChaCha20-Poly1305; the construction of ECIES). A worker forgets its key when it ends; from then on only control can read.
"""

from __future__ import annotations

import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.errors import RecordingError

KEY_BYTES = 32
_COUNTER_BYTES = 8
_NONCE_LEAD = bytes(4)  # RFC 8439 section 2.3: 96 bits of nonce; 32 fixed ones and our 64-bit counter
_WRAP_NONCE = bytes(12)  # the wrapping key is used for one message only
_WRAP_PURPOSE = b"sluicegate journal key 1"


class Wrapped(msgspec.Struct, frozen=True):
    """A journal's key as only control can open it: the ephemeral X25519 public key and the encrypted key."""

    ephemeral: bytes
    key: bytes


class Envelope:
    """Encrypts texts under one random key; `wrapped` is that key for control. `context` binds both to their journal."""

    def __init__(self, seal_key: bytes, context: bytes) -> None:
        """`seal_key` is control's X25519 public key, 32 raw bytes."""
        key = os.urandom(KEY_BYTES)
        self._cipher = ChaCha20Poly1305(key)
        self._context = context
        self._counter = 0
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        wrapping = _wrapping_key(ephemeral, seal_key, public + seal_key)
        self.wrapped = Wrapped(public, ChaCha20Poly1305(wrapping).encrypt(_WRAP_NONCE, key, context))

    def seal(self, text: str) -> bytes:
        """The text encrypted: an 8-byte counter, then ciphertext and tag."""
        counter = self._counter.to_bytes(_COUNTER_BYTES, "big")
        self._counter += 1
        # surrogatepass: a text that was decoded with replacements for broken bytes is kept as it is
        return counter + self._cipher.encrypt(_NONCE_LEAD + counter, text.encode("utf-8", "surrogatepass"), self._context)


class Opener:
    """Reads what an Envelope sealed; needs control's private key."""

    def __init__(self, private_key: X25519PrivateKey, wrapped: Wrapped, context: bytes) -> None:
        """Raises RecordingError where the key was not wrapped for us or was changed."""
        own = private_key.public_key().public_bytes_raw()
        try:
            wrapping = _wrapping_key(private_key, wrapped.ephemeral, wrapped.ephemeral + own)
            key = ChaCha20Poly1305(wrapping).decrypt(_WRAP_NONCE, wrapped.key, context)
        except (InvalidTag, ValueError) as error:
            raise RecordingError("a journal's key was not sealed for this key, or was changed") from error
        self._cipher = ChaCha20Poly1305(key)
        self._context = context

    def open(self, sealed: bytes) -> str:
        """The exact text. Raises RecordingError where it was changed or belongs to another journal."""
        counter, body = sealed[:_COUNTER_BYTES], sealed[_COUNTER_BYTES:]
        try:
            return self._cipher.decrypt(_NONCE_LEAD + counter, body, self._context).decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError) as error:
            raise RecordingError("a sealed text was changed, or belongs to another journal") from error


def _wrapping_key(private: X25519PrivateKey, public: bytes, exchange: bytes) -> bytes:
    # Both public keys go into the derivation: without them a second ephemeral key could yield the same wrapping key.
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=_WRAP_PURPOSE + exchange).derive(shared)

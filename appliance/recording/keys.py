"""Where control's recording keys are kept, and what makes a key file fit to be used.

Two keys, PEM (PKCS #8), mode 0600: `signing.key` (Ed25519, RFC 8032) signs heads and seals, `sealing.key` (X25519) opens
exact texts. Workers get the public half of the second one only.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from appliance.errors import RecordingError
from appliance.recording.places import Places

_KEY_FILE_BYTES_MAX = 4096  # a PEM of either key has about 120


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies: an Ed25519 public key and its id (BLAKE2b-64 of the raw key, hex), which statements carry."""

    key: Ed25519PublicKey
    id: str

    def has_signed(self, statement: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over exactly that statement."""
        try:
            self.key.verify(signature, statement)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Keys:
    """Control's private keys. `repr` shows neither, because neither may reach a log."""

    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey

    def __repr__(self) -> str:
        return f"Keys({self.public.id})"

    @property
    def public(self) -> PublicKey:
        """The public half of the signing key."""
        return _identified(self.signing.public_key())

    @property
    def seal_key(self) -> bytes:
        """The public half of the sealing key, 32 raw bytes, for workers' journals."""
        return self.sealing.public_key().public_bytes_raw()


def make_or_load(places: Places) -> Keys:
    """Control's keys; made where there is no recording yet. Raises RecordingError where a key is missing although there is
    a recording, is readable by others, or does not belong to the published one: a new key would hide what happened to the
    old one."""
    signing_file, sealing_file = places.keys / "signing.key", places.keys / "sealing.key"
    if places.public_key.exists():
        keys = load(places.keys)
        if load_public(places.public_key).id != keys.public.id:
            raise RecordingError(f"{places.public_key} is not the public half of {signing_file}")
        return keys
    # Not yet published, so nothing was signed: a key that a crash left alone is taken up as it is.
    if not signing_file.exists():
        made = Ed25519PrivateKey.generate()
        _write_new(signing_file, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    if not sealing_file.exists():
        opened = X25519PrivateKey.generate()
        _write_new(sealing_file, opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    keys = load(places.keys)
    public = keys.signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(places.public_key, public, 0o644)
    return keys


def load(folder: Path) -> Keys:
    """The keys in that folder. Raises RecordingError."""
    signing, sealing = _load_private(folder / "signing.key"), _load_private(folder / "sealing.key")
    if not isinstance(signing, Ed25519PrivateKey):
        raise RecordingError(f"{folder / 'signing.key'} holds no Ed25519 key")
    if not isinstance(sealing, X25519PrivateKey):
        raise RecordingError(f"{folder / 'sealing.key'} holds no X25519 key")
    return Keys(signing, sealing)


def load_public(file: Path) -> PublicKey:
    """A public key for verification. Raises RecordingError."""
    try:
        key = load_pem_public_key(_read(file))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RecordingError(f"{file} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RecordingError(f"{file} holds no Ed25519 public key")
    return _identified(key)


def _identified(key: Ed25519PublicKey) -> PublicKey:
    return PublicKey(key, blake2b(key.public_bytes_raw(), digest_size=8).hexdigest())


def _load_private(file: Path) -> object:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise RecordingError(f"{file} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise RecordingError(f"{file} may be read by others (mode {stat.S_IMODE(mode):04o}); expected 0600")
    try:
        return load_pem_private_key(_read(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RecordingError(f"{file} holds no private key in PEM") from error


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise RecordingError(f"{file} cannot be read: {error.strerror}") from error


def _write_new(file: Path, content: bytes, mode: int) -> None:
    """Writes a file whole or not at all: half a key after a crash would lock the recording for good."""
    unnamed = file.with_suffix(".new")
    try:
        unnamed.unlink(missing_ok=True)
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(descriptor, mode)
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        unnamed.rename(file)
    except OSError as error:
        raise RecordingError(f"{file} cannot be written: {error.strerror}") from error

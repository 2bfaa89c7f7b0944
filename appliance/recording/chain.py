"""The hash chain: how a record's hash follows from the one before it.

hash(n) = BLAKE2b-256(hash(n-1) || payload(n)), starting from 32 zero bytes. The hash before has a fixed size, so the two
parts cannot be told apart in two ways. A chain proves order and completeness only towards a hash that is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

HASH_BYTES = 32
GENESIS = bytes(HASH_BYTES)


def next_hash(previous: bytes, payload: bytes) -> bytes:
    """The hash of the record that follows `previous`."""
    return blake2b(previous + payload, digest_size=HASH_BYTES).digest()


def verify(links: Iterable[tuple[bytes, bytes]], previous: bytes = GENESIS) -> int | None:
    """The index of the first (payload, hash) that does not follow from the ones before it, or None where all do."""
    for index, (payload, claimed) in enumerate(links):
        previous = next_hash(previous, payload)
        if previous != claimed:
            return index
    return None

"""TLS on one leg of a flow, over bytes instead of a socket, so that bytes already read can belong to the handshake."""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.errors import PeerError
from appliance.protocols.inspector import TlsFacts

# One TLS record carries at most 16 KiB; reading in steps of four of them keeps the copies few and the buffer small.
_READ_BYTES = 65536


class TlsLayer:
    """One leg's TLS. Ciphertext goes in by `receive` and comes out of `take_outgoing`; plaintext the other way.

    `certificate` is the DER of what we show, needed on the server side for channel binding only.
    """

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None, certificate: bytes | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name)
        self._certificate = certificate
        self._unsent: list[bytes] = []
        self.is_established = False
        self.has_ended = False

    def handshake(self) -> bool:
        """Go on with the handshake; True in the call in which it is done. Raises PeerError when it fails."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise PeerError(f"the peer's certificate is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise PeerError(f"the TLS handshake failed: {error.reason or error}") from error
        self.is_established = True
        for data in self._unsent:
            self._object.write(data)
        self._unsent.clear()
        return True

    def feed(self, data: bytes) -> None:
        """Take ciphertext from the peer."""
        self._incoming.write(data)

    def feed_end(self) -> None:
        """The peer's transport has ended."""
        self._incoming.write_eof()

    def read(self) -> bytes:
        """All plaintext there is; sets `has_ended` at the peer's close_notify. Raises PeerError on a broken record."""
        if not self.is_established:
            return b""
        parts: list[bytes] = []
        while True:
            try:
                part = self._object.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self.has_ended = True
                break
            except ssl.SSLError as error:
                raise PeerError(f"a TLS record is broken: {error.reason or error}") from error
            if not part:
                self.has_ended = True
                break
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt plaintext; before the handshake is done it waits."""
        if self.is_established:
            self._object.write(data)
        else:
            self._unsent.append(bytes(data))

    def take_outgoing(self) -> bytes:
        """Ciphertext for the peer, possibly empty."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Say close_notify; the peer's own is not waited for."""
        try:
            self._object.unwrap()
        except ssl.SSLError:
            return

    def facts(self) -> TlsFacts:
        """What the handshake settled."""
        shown = self._certificate if self._certificate is not None else self._object.getpeercert(True)
        return TlsFacts(
            end_point=end_point_binding(shown) if shown else b"",
            alpn=self._object.selected_alpn_protocol(),
            server_name=None,
        )


def end_point_binding(certificate: bytes) -> bytes:
    """The tls-server-end-point channel binding of a DER certificate (RFC 5929, section 4.1): its hash by the hash of its own
    signature, with SHA-256 in place of MD5 and SHA-1, and where the signature has none of its own (Ed25519)."""
    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    if algorithm is None or isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return digest.finalize()

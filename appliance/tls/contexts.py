"""TLS contexts for the two sides of a flow, from a resource's settings."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.settings import TargetTls, TlsSettings


@dataclass(frozen=True, slots=True)
class Identity:
    """What we show to clients: a context with certificate and key loaded, and the certificate's DER."""

    context: ssl.SSLContext
    certificate: bytes


def client_identity(chain: bytes, key: bytes, alpn: tuple[str, ...]) -> Identity:
    """The server side of a client's leg. `chain` and `key` are PEM. Raises ValueError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    # The ssl module reads keys from files only; a memory file never touches a disk and is gone with its descriptor.
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return Identity(context, x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER))


def target_context(tls: TlsSettings, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """The client side of the target's leg, verifying as the resource says. Raises OSError or ssl.SSLError where the file of
    authorities cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.target is TargetTls.VERIFY_FULL
    if tls.target in (TargetTls.VERIFY_CA, TargetTls.VERIFY_FULL):
        context.verify_mode = ssl.CERT_REQUIRED
        if tls.authorities is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(tls.authorities)
    else:
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context

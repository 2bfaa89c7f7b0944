"""TLS over bytes: two layers that talk to each other as the two ends of a leg would."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.errors import PeerError
from appliance.settings import TargetTls, TlsSettings
from appliance.tls.authority import open_authority
from appliance.tls.contexts import client_identity, target_context
from appliance.tls.layer import TlsLayer, end_point_binding


class Pair:
    """A client and a server, and the wire between them."""

    def __init__(self, folder: Path, tls: TlsSettings, name: str = "shop.example", step: int = 1 << 20) -> None:
        authority = open_authority(folder, lambda: datetime.datetime.now(datetime.UTC))
        leaf = authority.leaf(("shop.example",))
        (folder / "ca.pem").write_bytes(authority.certificate_pem)
        identity = client_identity(leaf.chain, leaf.key, ("postgresql",))
        self.server = TlsLayer(identity.context, server_side=True, certificate=identity.certificate)
        self.client = TlsLayer(target_context(tls, ("postgresql",)), server_side=False, server_name=name)
        self.step = step
        self.certificate = x509.load_pem_x509_certificates(leaf.chain)[0].public_bytes(Encoding.DER)

    def shake(self) -> None:
        """Handshakes until both stand, passing `step` bytes at a time. Raises PeerError as the layers do."""
        while not (self.client.is_established and self.server.is_established):
            for layer in (self.client, self.server):
                if not layer.is_established:
                    layer.handshake()
            self.pass_on()

    def pass_on(self) -> None:
        for source, sink in ((self.client, self.server), (self.server, self.client)):
            data = source.take_outgoing()
            for start in range(0, len(data), self.step):
                sink.feed(data[start : start + self.step])
                if not sink.is_established:
                    sink.handshake()


def verified(folder: Path) -> TlsSettings:
    return TlsSettings(target=TargetTls.VERIFY_FULL, authorities=str(folder / "ca.pem"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_authority(tmp_path, lambda: datetime.datetime.now(datetime.UTC))
    (tmp_path / "ca.pem").write_bytes(open_authority(tmp_path, lambda: datetime.datetime.now(datetime.UTC)).certificate_pem)
    return tmp_path


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_bytes_pass_both_ways_however_the_wire_cuts_them(folder: Path, step: int) -> None:
    pair = Pair(folder, verified(folder), step=step)
    pair.shake()
    pair.client.write(b"select 1")
    pair.server.write(b"x" * 100_000)
    pair.pass_on()
    assert pair.server.read() == b"select 1"
    assert pair.client.read() == b"x" * 100_000


def test_what_is_written_before_the_handshake_goes_after_it(folder: Path) -> None:
    pair = Pair(folder, verified(folder))
    pair.client.write(b"early")
    pair.shake()
    pair.pass_on()
    assert pair.server.read() == b"early"


def test_both_ends_name_the_same_channel_binding_and_protocol(folder: Path) -> None:
    pair = Pair(folder, verified(folder))
    pair.shake()
    assert pair.client.facts().end_point == pair.server.facts().end_point == hashlib.sha256(pair.certificate).digest()
    assert pair.client.facts().alpn == pair.server.facts().alpn == "postgresql"
    assert end_point_binding(pair.certificate) == hashlib.sha256(pair.certificate).digest()


def test_verify_full_refuses_another_name(folder: Path) -> None:
    with pytest.raises(PeerError, match="certificate"):
        Pair(folder, verified(folder), name="other.example").shake()


def test_verify_ca_takes_another_name_but_no_other_authority(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    Pair(folder, TlsSettings(target=TargetTls.VERIFY_CA, authorities=str(folder / "ca.pem")), name="other.example").shake()
    strange = tmp_path_factory.mktemp("strange")
    open_authority(strange, lambda: datetime.datetime.now(datetime.UTC))
    with pytest.raises(PeerError):
        Pair(strange, TlsSettings(target=TargetTls.VERIFY_CA, authorities=str(folder / "ca.pem"))).shake()


def test_require_encrypts_without_proof(folder: Path) -> None:
    pair = Pair(folder, TlsSettings(target=TargetTls.REQUIRE), name="any.example")
    pair.shake()
    assert pair.client.is_established


def test_the_end_of_the_stream_is_told(folder: Path) -> None:
    pair = Pair(folder, verified(folder))
    pair.shake()
    pair.client.close()
    pair.pass_on()
    assert pair.server.read() == b""
    assert pair.server.has_ended


def test_garbage_in_place_of_a_handshake_is_the_peers_error(folder: Path) -> None:
    pair = Pair(folder, verified(folder))
    pair.server.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(PeerError):
        pair.server.handshake()


def test_a_broken_record_is_the_peers_error(folder: Path) -> None:
    pair = Pair(folder, verified(folder))
    pair.shake()
    pair.client.write(b"select 1")
    data = bytearray(pair.client.take_outgoing())
    data[-1] ^= 1
    pair.server.feed(bytes(data))
    with pytest.raises(PeerError):
        pair.server.read()


def test_old_versions_are_not_spoken() -> None:
    assert target_context(TlsSettings(), ()).minimum_version is ssl.TLSVersion.TLSv1_2

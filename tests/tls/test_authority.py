"""The authority's leaves, shown by a real TLS server to a client that verifies."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from appliance.errors import SettingError
from appliance.ipc.messages import Leaf
from appliance.parties import Endpoint
from appliance.settings import ResourceSettings, TlsSettings
from appliance.tls.authority import LEAVES_MAX, Authority, Leaves, open_authority, read_certificate

NOW = datetime.datetime.now(datetime.UTC)


def authority(folder: Path, now: datetime.datetime = NOW) -> Authority:
    return open_authority(folder, lambda: now)


def handshake(folder: Path, leaf: Leaf, trusted: bytes, name: str) -> None:
    """A client that trusts `trusted` and expects `name` meets a server that shows `leaf`."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(leaf.chain)
    key.write_bytes(leaf.key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain, key)
    calling = ssl.create_default_context(cadata=trusted.decode())
    calling.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(ours, server_side=True).close()
        except ssl.SSLError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        calling.wrap_socket(theirs, server_hostname=name).close()
    finally:
        theirs.close()
        thread.join(10)


@pytest.mark.parametrize("name", ["db.internal", "10.1.2.3", "fd00::7"])
def test_a_leaf_satisfies_a_client_that_verifies_names_and_addresses(name: str, tmp_path: Path) -> None:
    made = authority(tmp_path / "a")
    leaf = made.leaf(("db.internal", "10.1.2.3", "fd00::7"))
    handshake(tmp_path, leaf, made.certificate_pem, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, leaf, made.certificate_pem, "other.internal")


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    leaf = authority(tmp_path / "a").leaf(("db",))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, leaf, authority(tmp_path / "b").certificate_pem, "db")


def test_the_key_is_private_and_the_authority_outlives_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    first = authority(folder).certificate_pem
    assert stat.S_IMODE((folder / "authority.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert authority(folder).certificate_pem == first == read_certificate(folder)


def test_a_start_that_was_cut_off_is_made_good(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    authority(folder)
    (folder / "authority.pem").unlink()
    handshake(tmp_path, authority(folder).leaf(("db",)), read_certificate(folder), "db")


def test_leaves_are_short_lived_backdated_and_renewed(tmp_path: Path) -> None:
    now = [NOW]
    made = open_authority(tmp_path / "a", lambda: now[0])
    leaf = made.leaf(("db",))
    certificate = x509.load_pem_x509_certificates(leaf.chain)[0]
    assert certificate.not_valid_before_utc <= NOW
    assert certificate.not_valid_after_utc - NOW <= datetime.timedelta(days=7)
    assert made.leaf(("db",)) is leaf
    now[0] += datetime.timedelta(days=5)
    renewed = made.leaf(("db",))
    assert renewed is not leaf
    assert x509.load_pem_x509_certificates(renewed.chain)[0].not_valid_after_utc > certificate.not_valid_after_utc


def test_the_cache_of_leaves_is_bounded(tmp_path: Path) -> None:
    made = authority(tmp_path / "a")
    first = made.leaf(("first",))
    for one in range(LEAVES_MAX):
        made.leaf((f"n{one}",))
    assert made.leaf(("first",)) is not first


@pytest.mark.parametrize("names", [(), ("a b",), ("-",), ("x" * 254,), tuple(f"n{one}" for one in range(101))])
def test_what_is_no_name_gets_no_leaf(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name"):
        authority(tmp_path / "a").leaf(names)


def test_an_authority_with_another_key_is_unfit(tmp_path: Path) -> None:
    authority(tmp_path / "a")
    authority(tmp_path / "b")
    (tmp_path / "a" / "authority.key").write_bytes((tmp_path / "b" / "authority.key").read_bytes())
    with pytest.raises(SettingError, match="another key"):
        authority(tmp_path / "a")


def test_an_authority_past_its_time_is_unfit(tmp_path: Path) -> None:
    authority(tmp_path / "a")
    with pytest.raises(SettingError, match="validity"):
        authority(tmp_path / "a", NOW + datetime.timedelta(days=4000))


def names_of(leaf: Leaf) -> set[str]:
    certificate = x509.load_pem_x509_certificates(leaf.chain)[0]
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def resource(tls: TlsSettings) -> ResourceSettings:
    return ResourceSettings("shop", "postgres", (Endpoint("10.0.0.1", 5432), Endpoint("fd00::1", 5432)), None, tls)


def test_the_configured_names_stand_whatever_the_client_asks_for(tmp_path: Path) -> None:
    leaves = Leaves(authority(tmp_path / "a"))
    configured = leaves.leaf_of(resource(TlsSettings(server_names=("db.internal",))), "bank.example", "10.0.0.1")
    assert names_of(configured) == {"db.internal", "10.0.0.1", "fd00::1"}
    free = leaves.leaf_of(resource(TlsSettings()), "DB.example", "10.0.0.1")
    assert names_of(free) == {"db.example", "10.0.0.1", "fd00::1"}
    assert names_of(leaves.leaf_of(resource(TlsSettings()), "bad name\0", "10.0.0.1")) == {"10.0.0.1", "fd00::1"}


def test_an_imported_certificate_is_shown_instead_and_must_fit_its_key(tmp_path: Path) -> None:
    own = authority(tmp_path / "target")
    leaf = own.leaf(("db.internal",))
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    chain.write_bytes(leaf.chain)
    key.write_bytes(leaf.key)
    leaves = Leaves(authority(tmp_path / "a"))
    tls = TlsSettings(certificate=str(chain), key=str(key))
    handshake(tmp_path, leaves.leaf_of(resource(tls), None, "10.0.0.1"), own.certificate_pem, "db.internal")
    key.write_bytes(own.leaf(("other",)).key)
    with pytest.raises(SettingError, match="another key"):
        leaves.leaf_of(resource(tls), None, "10.0.0.1")

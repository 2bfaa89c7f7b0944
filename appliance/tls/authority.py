"""Our own certificate authority: its key, and the leaf certificates that clients are shown in a target's place.

One P-256 key made at first start signs short-lived leaves, each with a key of its own. The folder belongs to the control
process; workers get a leaf and its key, never the authority's.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import SettingError
from appliance.ipc.messages import Leaf
from appliance.settings import DashboardSettings, ResourceSettings

AUTHORITY_DAYS = 3650
LEAF_DAYS = 7
RENEW_DAYS = 3
"""A leaf with less left than this is minted anew, so that a long-lived worker never shows one about to end."""

BACKDATED = datetime.timedelta(minutes=5)
"""Executors' clocks may be a little slow."""

LEAVES_MAX = 1000
NAMES_MAX = 100

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")

Clock = Callable[[], datetime.datetime]


class Authority:
    """The authority kept in a folder. `clock` gives the time of day in UTC."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._leaves: OrderedDict[tuple[str, ...], tuple[datetime.datetime, Leaf]] = OrderedDict()

    @property
    def certificate_pem(self) -> bytes:
        """What executors are to trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def leaf(self, names: tuple[str, ...]) -> Leaf:
        """A chain and key for these host names and addresses (the first is the common name). Cached, renewed in time.
        Raises ValueError for none, for more than NAMES_MAX, and for what is no name."""
        if not 0 < len(names) <= NAMES_MAX:
            raise ValueError(f"a leaf has 1 to {NAMES_MAX} names")
        now = self._clock()
        cached = self._leaves.get(names)
        if cached is not None and now < cached[0]:
            self._leaves.move_to_end(names)
            return cached[1]
        leaf = self._mint(names, now)
        self._leaves[names] = (now + datetime.timedelta(days=LEAF_DAYS - RENEW_DAYS), leaf)
        self._leaves.move_to_end(names)
        while len(self._leaves) > LEAVES_MAX:
            self._leaves.popitem(last=False)
        return leaf

    def _mint(self, names: tuple[str, ...], now: datetime.datetime) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + datetime.timedelta(days=LEAF_DAYS), self._certificate.not_valid_after_utc)
        # The subject's common name holds 64 characters at most (RFC 5280 upper bound); clients read the SANs.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATED, self._certificate.not_valid_before_utc))
            .not_valid_after(ends)
            .add_extension(x509.SubjectAlternativeName([_alternative_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.certificate_pem
        return Leaf(chain, _key_pem(key))


@dataclass(frozen=True, slots=True)
class Leaves:
    """What the clients of each resource are shown: the target's own certificate where it was imported, else a leaf."""

    authority: Authority

    def leaf_of(self, resource: ResourceSettings, server_name: str | None, address: str) -> Leaf:
        """`server_name` is what the client asked for (SNI), `address` where it connected. Raises SettingError where an
        imported file is unfit."""
        if resource.tls.certificate is not None and resource.tls.key is not None:
            return imported(resource.tls.certificate, resource.tls.key)
        names = list(resource.tls.server_names)
        # Where the operator named no names, the client's own word is as good as any: it only makes its own check pass.
        if not names and server_name is not None and _NAME.match(server_name.lower()):
            names.append(server_name.lower())
        names += [endpoint.address for endpoint in resource.addresses]
        names.append(address)
        return self.authority.leaf(tuple(dict.fromkeys(names))[:NAMES_MAX])

    def leaf_of_dashboard(self, dashboard: DashboardSettings) -> Leaf:
        """What people's browsers are shown. Raises SettingError where an imported file is unfit."""
        if dashboard.certificate is not None and dashboard.key is not None:
            return imported(dashboard.certificate, dashboard.key)
        names = list(dashboard.names)
        if dashboard.listen is not None:
            names.append(dashboard.listen.address)
        # It may be reached through a tunnel or a port that this machine gives on.
        names += ["localhost", "127.0.0.1", "::1"]
        return self.authority.leaf(tuple(dict.fromkeys(names))[:NAMES_MAX])


def open_authority(folder: Path, clock: Clock) -> Authority:
    """The authority in `folder`, made there at first (folder 0700, key 0600). Raises SettingError where it is unfit."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file, certificate_file = folder / "authority.key", folder / "authority.pem"
    # A key alone is what a start that was cut off left behind: nobody has seen it yet.
    if not certificate_file.exists():
        _make_authority(key_file, certificate_file, clock())
    certificate, key = _pair(certificate_file, key_file)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingError(str(key_file), 0, "a key of another kind", "a P-256 key made by this product")
    if not certificate.not_valid_before_utc <= clock() < certificate.not_valid_after_utc:
        raise SettingError(str(certificate_file), 0, "a certificate outside its validity", "one that is valid now")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        raise SettingError(str(certificate_file), 0, "no self-signed certificate", "our own authority's") from None
    return Authority(certificate, key, clock)


def read_certificate(folder: Path) -> bytes:
    """The authority's certificate in PEM, for people. Raises SettingError where there is none yet."""
    file = folder / "authority.pem"
    try:
        return file.read_bytes()
    except OSError as error:
        expected = "the authority's certificate, which the first start makes"
        raise SettingError(str(file), 0, error.strerror or "an unreadable file", expected) from None


def imported(certificate_file: str, key_file: str) -> Leaf:
    """A target's own certificate chain and key, as the operator imported them. Raises SettingError where they are unfit."""
    _pair(Path(certificate_file), Path(key_file))
    return Leaf(Path(certificate_file).read_bytes(), Path(key_file).read_bytes())


def _pair(certificate_file: Path, key_file: Path) -> tuple[x509.Certificate, object]:
    try:
        certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    except OSError as error:
        raise SettingError(str(certificate_file), 0, error.strerror or "an unreadable file", "a PEM file") from None
    except ValueError:
        raise SettingError(str(certificate_file), 0, "no certificate", "a certificate chain in PEM") from None
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except OSError as error:
        raise SettingError(str(key_file), 0, error.strerror or "an unreadable file", "a PEM file") from None
    except (ValueError, TypeError):
        raise SettingError(str(key_file), 0, "no usable key", "an unencrypted private key in PEM") from None
    if key.public_key() != certificate.public_key():
        raise SettingError(str(key_file), 0, "another key", f"the key of {certificate_file}")
    return certificate, key


def _make_authority(key_file: Path, certificate_file: Path, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sluicegate"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Sluicegate authority {x509.random_serial_number():x}"[:40]),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _key_pem(key), 0o600)
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and on disk: half a key at a power cut would stop every later start."""
    beside = file.with_name(file.name + ".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
    beside.rename(file)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _NAME.match(name.lower().removeprefix("*.")):
        raise ValueError("neither a host name nor an address")
    return x509.DNSName(name.lower())


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

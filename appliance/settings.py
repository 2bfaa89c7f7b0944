"""Every setting, typed and read once: the configuration file's meaning, not its syntax."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from appliance.parties import Endpoint, Phase


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """How a phase of an agent is recognised: by the source addresses of its connections."""

    phase: Phase
    sources: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """An agent. `placeholder` is a SCRAM-SHA-256 verifier (as PostgreSQL stores it) for clients that insist on proving
    a password or on channel binding; None: the client is let in without one, because its origin already names it."""

    name: str
    owner: str
    vendor: str | None
    groups: frozenset[str]
    phases: tuple[PhaseSettings, ...]
    placeholder: str | None = None


class ClientTls(StrEnum):
    """Whether clients of a resource may, must or must not speak TLS to us."""

    OFFER = "offer"
    REQUIRE = "require"
    REFUSE = "refuse"


class TargetTls(StrEnum):
    """How the target's leg is protected; the words are libpq's sslmode."""

    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS of a resource. `certificate` and `key` are the target's own, where the operator imported them (PEM files);
    without them clients see a leaf of our own authority for `server_names` (or the addresses)."""

    client: ClientTls = ClientTls.OFFER
    target: TargetTls = TargetTls.REQUIRE
    authorities: str | None = None
    server_names: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """A registered target, its protocol, and the account to use there (None: the client logs in nowhere)."""

    name: str
    protocol: str
    addresses: tuple[Endpoint, ...]
    credential: str | None
    tls: TlsSettings = field(default_factory=TlsSettings)


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """An account at a target. The password is in the file `password_file` (its first line), read by control alone."""

    name: str
    user: str
    password_file: str | None


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Where executors come in: the interfaces whose traffic is caught, and the port of our transparent listener."""

    interfaces: tuple[str, ...]
    port: int = 15001


@dataclass(frozen=True, slots=True)
class ApproverSettings:
    """Who may answer holds on this machine: an operating system user and the approver groups that user stands for."""

    user: str
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """The pages for people. `listen` None: there are none. `names` are the host names people may call it by, besides the
    address it listens on. `certificate` and `key` are PEM files that control reads; without them it shows a leaf of our own
    authority. `is_plain`: HTTP without TLS, for a proxy on this machine that ends TLS in front of it."""

    listen: Endpoint | None = field(default_factory=lambda: Endpoint("127.0.0.1", 8443))
    names: tuple[str, ...] = ()
    certificate: str | None = None
    key: str | None = None
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Where the dashboard's process lets metrics be read, over plain HTTP and by anybody: they hold nothing secret. None:
    nowhere."""

    listen: Endpoint | None = field(default_factory=lambda: Endpoint("127.0.0.1", 9464))


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `policies` are files or folders, absolute. `state` is the folder for recordings and the
    ledger, `run` the one for sockets. `workers` 0 stands for one per core. `hold_seconds` is how long a hold waits where its
    rule does not say. `log` is one of log.Form. `worker_uid`, `control_uid`, `dashboard_uid`: numeric users of the kinds of
    process."""

    agents: tuple[AgentSettings, ...]
    resources: tuple[ResourceSettings, ...]
    credentials: tuple[CredentialSettings, ...]
    networks: NetworkSettings
    policies: tuple[str, ...]
    approvers: tuple[ApproverSettings, ...] = ()
    state: str = "/var/lib/sluicegate"
    run: str = "/run/sluicegate"
    workers: int = 0
    hold_seconds: float = 300.0
    worker_uid: int = 61001
    control_uid: int = 61002
    dashboard_uid: int = 61003
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    log: str = "auto"

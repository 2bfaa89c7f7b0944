"""Who stands behind a flow, where it came from, and what it wants to reach."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Side(Enum):
    """The two sides of a flow, called the same everywhere."""

    CLIENT = "client"
    TARGET = "target"

    @property
    def other(self) -> Side:
        return Side.TARGET if self is Side.CLIENT else Side.CLIENT


class Phase(StrEnum):
    """What an agent is at: making a plan, or carrying one out. Each has its own rules."""

    PLAN = "plan"
    EXECUTE = "execute"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address in its canonical text form (no IPv4-mapped IPv6, no scope) and a TCP port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the kernel knows of a caught connection. `pid`, `uid` and `cgroup` are known in host mode only."""

    source: Endpoint
    destination: Endpoint
    pid: int | None = None
    uid: int | None = None
    cgroup: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever stands behind a flow.

    `person` is whom the agent acts for, where that is known. `established` says how we know ("source address",
    "token"). `until` is the end of that knowledge in seconds of the Unix clock, or None where it ends with the
    configuration.
    """

    agent: str
    phase: Phase
    groups: frozenset[str]
    established: str
    person: str | None = None
    until: float | None = None

    def __str__(self) -> str:
        person = f" for {self.person}" if self.person else ""
        return f"{self.agent}/{self.phase}{person}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a command would run: the registered resource, its protocol, and what the protocol calls a database."""

    resource: str
    protocol: str
    database: str | None = None

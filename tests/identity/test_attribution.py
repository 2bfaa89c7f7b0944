"""Source addresses to principals, destinations to resources."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from appliance.identity.attribution import Attribution
from appliance.parties import Endpoint, Origin, Phase
from appliance.settings import AgentSettings, NetworkSettings, PhaseSettings, ResourceSettings, Settings


def agent(name: str, plan: tuple[str, ...], execute: tuple[str, ...]) -> AgentSettings:
    phases = ((Phase.PLAN, plan), (Phase.EXECUTE, execute))
    settings = tuple(PhaseSettings(phase, tuple(map(ip_network, sources))) for phase, sources in phases)
    return AgentSettings(name, "owner", None, frozenset({"crew"}), settings, f"verifier of {name}")


SHOP = ResourceSettings("shop", "postgres", (Endpoint("10.9.0.1", 5432), Endpoint("fd00::9", 5432)), None)
ATTRIBUTION = Attribution(
    Settings(
        agents=(
            agent("migrator", ("10.1.0.5/32",), ("10.1.0.6/32", "fd00:1::6/128")),
            agent("wide", ("10.0.0.0/8", "fd00::/16"), ("10.1.0.0/24", "fd00:1::/32")),
        ),
        resources=(SHOP,),
        credentials=(),
        networks=NetworkSettings(("eth0",)),
        policies=(),
    )
)


@pytest.mark.parametrize(
    ("source", "principal"),
    [
        ("10.1.0.5", "migrator/plan"),
        ("10.1.0.6", "migrator/execute"),
        ("fd00:1::6", "migrator/execute"),
        ("10.1.0.7", "wide/execute"),
        ("10.1.1.7", "wide/plan"),
        ("fd00:1::7", "wide/execute"),
        ("fd00:2::7", "wide/plan"),
        ("11.0.0.1", None),
        ("::ffff:a01:5", None),
        ("nonsense", None),
    ],
)
def test_the_longest_prefix_names_the_caller(source: str, principal: str | None) -> None:
    found = ATTRIBUTION.principal_of(Origin(Endpoint(source, 40000), Endpoint("10.9.0.1", 5432)))
    assert (str(found) if found else None) == principal


def test_a_principal_says_how_it_is_known_and_carries_the_agents_groups() -> None:
    found = ATTRIBUTION.principal_of(Origin(Endpoint("10.1.0.5", 1), Endpoint("10.9.0.1", 5432)))
    assert found is not None
    assert (found.established, found.groups, found.until) == ("source address", frozenset({"crew"}), None)
    assert ATTRIBUTION.placeholder_of(found) == "verifier of migrator"


@pytest.mark.parametrize(
    ("address", "port", "name"),
    [("10.9.0.1", 5432, "shop"), ("fd00::9", 5432, "shop"), ("10.9.0.1", 5433, None), ("10.9.0.2", 5432, None)],
)
def test_only_a_registered_address_and_port_is_a_resource(address: str, port: int, name: str | None) -> None:
    found = ATTRIBUTION.resource_of(Endpoint(address, port))
    assert (found.name if found else None) == name

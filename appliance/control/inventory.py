"""What is configured, as people look at it: agents with their flows, and resources with what is known of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from appliance.ipc.messages import FlowSeen
from appliance.settings import Settings


def list_agents(settings: Settings, flows: Iterable[FlowSeen]) -> list[dict[str, Any]]:
    """Every agent, by name, and how many of its flows are live."""
    counts = Counter(flow.principal.agent for flow in flows if flow.principal is not None)
    return [
        {
            "name": agent.name,
            "owner": agent.owner,
            "vendor": agent.vendor,
            "groups": sorted(agent.groups),
            "phases": [
                {"phase": phase.phase.value, "sources": [str(source) for source in phase.sources]} for phase in agent.phases
            ],
            "flows": counts[agent.name],
        }
        for agent in sorted(settings.agents, key=lambda agent: agent.name)
    ]


def list_resources(settings: Settings, catalogues: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every resource, by name. `reachable` is what our own connections to it show; None: there are none."""
    found = []
    for resource in sorted(settings.resources, key=lambda resource: resource.name):
        states = [state for state in catalogues if state["resource"] == resource.name]
        reachable: bool | None = None
        if any(state["connected"] for state in states):
            reachable = True
        elif any(state["fault"] for state in states):
            reachable = False
        found.append(
            {
                "name": resource.name,
                "protocol": resource.protocol,
                "addresses": [str(address) for address in resource.addresses],
                "tls": {
                    "client": resource.tls.client.value,
                    "target": resource.tls.target.value,
                    "server_names": list(resource.tls.server_names),
                    "imported": resource.tls.certificate is not None,
                },
                "credential": resource.credential,
                "reachable": reachable,
                "faults": sorted({str(state["fault"]) for state in states if state["fault"]}),
            }
        )
    return found

"""Who is calling and what is called: from the two ends of a connection to a Principal and a resource.

In gateway mode a source address is the whole proof, so it counts exactly as configured: the longest prefix wins, and an
address that the configuration does not name belongs to nobody.
"""

from __future__ import annotations

from ipaddress import ip_address

from appliance.parties import Endpoint, Origin, Principal
from appliance.settings import ResourceSettings, Settings

ESTABLISHED = "source address"


class Attribution:
    """The agents and resources of one configuration, ready to be looked up for every connection."""

    def __init__(self, settings: Settings) -> None:
        self._hosts: dict[str, Principal] = {}
        # By IP version: (host bits to drop, principals by what is left), longest prefix first.
        self._networks: dict[int, list[tuple[int, dict[int, Principal]]]] = {4: [], 6: []}
        self._placeholders = {agent.name: agent.placeholder for agent in settings.agents}
        self._resources = {endpoint: resource for resource in settings.resources for endpoint in resource.addresses}
        by_prefix: dict[tuple[int, int], dict[int, Principal]] = {}
        for agent in settings.agents:
            for phase in agent.phases:
                principal = Principal(agent.name, phase.phase, agent.groups, ESTABLISHED)
                for network in phase.sources:
                    bits = network.max_prefixlen - network.prefixlen
                    if bits == 0:
                        self._hosts[str(network.network_address)] = principal
                    else:
                        known = by_prefix.setdefault((network.version, bits), {})
                        known[int(network.network_address) >> bits] = principal
        for (version, bits), known in sorted(by_prefix.items()):
            self._networks[version].append((bits, known))

    def principal_of(self, origin: Origin) -> Principal | None:
        """Whoever calls from there; None: nobody we know. A source's port says nothing."""
        found = self._hosts.get(origin.source.address)
        if found is not None:
            return found
        try:
            address = ip_address(origin.source.address)
        except ValueError:
            return None
        number = int(address)
        for bits, known in self._networks[address.version]:
            if (principal := known.get(number >> bits)) is not None:
                return principal
        return None

    def resource_of(self, destination: Endpoint) -> ResourceSettings | None:
        """The registered target at that address and port; None: it is not registered."""
        return self._resources.get(destination)

    def placeholder_of(self, principal: Principal) -> str | None:
        """The verifier of the agent's placeholder password, where it has one."""
        return self._placeholders.get(principal.agent)

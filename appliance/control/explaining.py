"""Why a command of an agent would get its verdict now: the policy in force, the configured agents, the live catalogue."""

from __future__ import annotations

from appliance.approvals.desk import Refusal
from appliance.parties import Phase, Principal, Scope
from appliance.policy.cases import command_effects
from appliance.policy.explanation import Explanation, explain
from appliance.policy.rules import Policy
from appliance.settings import Settings
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue

COMMAND_CHARACTERS_MAX = 1 << 20


def explain_command(
    policy: Policy,
    settings: Settings,
    agent: str,
    phase: str,
    resource: str,
    database: str,
    command: str,
    catalogue: Catalogue,
) -> Explanation:
    """As for a session that has just begun. Raises Refusal where agent, phase or resource are not configured."""
    known = next((one for one in settings.agents if one.name == agent), None)
    if known is None or phase not in [one.phase.value for one in known.phases]:
        raise Refusal(f"no agent {agent} with a phase {phase} is configured")
    target = next((one for one in settings.resources if one.name == resource), None)
    if target is None:
        raise Refusal(f"no resource {resource} is configured")
    if len(command) > COMMAND_CHARACTERS_MAX:
        raise Refusal(f"a command to explain has at most {COMMAND_CHARACTERS_MAX} characters")
    principal = Principal(agent, Phase(phase), known.groups, "source address")
    return explain(policy, principal, Scope(resource, target.protocol, database), command_effects(command, catalogue, read))

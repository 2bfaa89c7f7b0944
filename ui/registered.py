"""Who and what the configuration names: agents, resources, and the authority that clients meet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ui.completion import complete_agent, complete_resource
from ui.conversation import NoAnswer, ask_control
from ui.terminal import console, print_json, printable, say, table
from ui.wiring import Given

if TYPE_CHECKING:
    from appliance.settings import AgentSettings, ResourceSettings, Settings

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def agents() -> None:
    """Which agents are configured, and what their clients need."""


@agents.command("list")
@_json
@click.pass_obj
def list_agents(given: Given, as_json: bool) -> None:
    """List agents with their sources and open flows.

    Without a running appliance the configuration is read, and flows are not known.

    \b
    Example:
      sluicegate agents list
    """
    found = _agents(given)
    if as_json:
        print_json(found)
        return
    told = table("agent", "owner", "groups", "phases", "flows")
    for one in found:
        phases = "; ".join(f"{phase['phase']}: {', '.join(phase['sources'])}" for phase in one["phases"])
        flows = "?" if one["flows"] is None else str(one["flows"])
        told.add_row(*map(printable, (one["name"], one["owner"], ", ".join(one["groups"]), phases, flows)))
    console().print(told)


@agents.command("show")
@click.argument("agent", shell_complete=complete_agent)
@_json
@click.pass_obj
def show_agent(given: Given, agent: str, as_json: bool) -> None:
    """Show one agent.

    \b
    Example:
      sluicegate agents show shop-bot
    """
    _show(_one(_agents(given), agent, "agent"), as_json)


@agents.command()
@_json
@click.pass_obj
def placeholder(given: Given, as_json: bool) -> None:
    """Make a password for clients that insist on proving one, with its verifier for the configuration.

    The password opens nothing but the agent's own connections to the appliance.

    \b
    Example:
      sluicegate agents placeholder
    """
    password, proof = given.programs.placeholder()
    if as_json:
        print_json({"password": password, "placeholder": proof})
    else:
        click.echo(f"password (for the client):         {password}")
        click.echo(f"placeholder (for the agent's entry): {proof}")


@click.group()
def resources() -> None:
    """Which targets are registered, and whether they are in reach."""


@resources.command("list")
@_json
@click.pass_obj
def list_resources(given: Given, as_json: bool) -> None:
    """List registered targets.

    Without a running appliance the configuration is read.

    \b
    Example:
      sluicegate resources list
    """
    found = _resources(given)
    if as_json:
        print_json(found)
        return
    told = table("resource", "protocol", "addresses", "tls", "account", "in reach")
    for one in found:
        reachable = {True: "yes", False: "no", None: "?"}[one["reachable"]]
        words = (one["name"], one["protocol"], ", ".join(one["addresses"]), _words(one["tls"]), one["credential"] or "none")
        told.add_row(*map(printable, words), reachable)
    console().print(told)


@resources.command("show")
@click.argument("resource", shell_complete=complete_resource)
@_json
@click.pass_obj
def show_resource(given: Given, resource: str, as_json: bool) -> None:
    """Show one registered target.

    \b
    Example:
      sluicegate resources show shop
    """
    _show(_one(_resources(given), resource, "resource"), as_json)


@resources.command("test")
@click.argument("resource", required=False, shell_complete=complete_resource)
@_json
@click.pass_obj
@click.pass_context
def test_resource(context: click.Context, given: Given, resource: str | None, as_json: bool) -> None:
    """Try a target (or all) from here: reach it, check its TLS as configured, log in with its account.

    As root, on the appliance. Nothing is run there. Ends with 1 where something is bad.

    \b
    Example:
      sluicegate resources test shop
    """
    # Here alone: TLS and the client of a database take a quarter of a second to import.
    from kernel.doctor import State
    from ui.targets import try_targets

    settings = _settings(given)
    if resource is not None:
        _one([{"name": one.name} for one in settings.resources], resource, "resource")
    found = []
    for one in try_targets(settings, None if resource is None else frozenset({resource})):
        found.append(one)
        if not as_json:
            say(
                f"{one.state.value:<10} {one.sentence}" + (f" → {one.advice}" if one.advice else ""),
                _STYLES[one.state.value],
            )
    if as_json:
        print_json(
            [{"name": one.name, "state": one.state.value, "sentence": one.sentence, "advice": one.advice} for one in found]
        )
    if any(one.state is State.BAD for one in found):
        context.exit(1)


_STYLES = {"good": "green", "bad": "red", "unknown": "yellow", "not needed": "dim"}


@click.group()
def authority() -> None:
    """The certificate authority that clients of this appliance meet."""


@authority.command("show")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/sluicegate"),
    help="The folder for recordings (`state` in the configuration).",
)
def authority_show(state: Path) -> None:
    """Print the authority's certificate (PEM), for executors and browsers that verify what they are shown.

    \b
    Example:
      sluicegate authority show > sluicegate.pem
    """
    from appliance.errors import SettingError
    from appliance.tls.authority import read_certificate

    try:
        click.echo(read_certificate(state / "control" / "authority").decode(), nl=False)
    except SettingError as error:
        raise click.ClickException(printable(str(error))) from None


def _agents(given: Given) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = ask_control(given.run, "agents.list")
    except NoAnswer:
        return [_agent_data(one) for one in _settings(given).agents]
    return found


def _agent_data(one: AgentSettings) -> dict[str, Any]:
    return {
        "name": one.name,
        "owner": one.owner,
        "vendor": one.vendor,
        "groups": sorted(one.groups),
        "phases": [
            {"phase": phase.phase.value, "sources": [str(source) for source in phase.sources]} for phase in one.phases
        ],
        "flows": None,
    }


def _resources(given: Given) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = ask_control(given.run, "resources.list")
    except NoAnswer:
        return [_resource_data(one) for one in _settings(given).resources]
    return found


def _resource_data(one: ResourceSettings) -> dict[str, Any]:
    return {
        "name": one.name,
        "protocol": one.protocol,
        "addresses": [str(address) for address in one.addresses],
        "tls": {"client": one.tls.client.value, "target": one.tls.target.value},
        "credential": one.credential,
        "reachable": None,
    }


def _settings(given: Given) -> Settings:
    from appliance.configuration import reread_configuration
    from appliance.errors import SettingErrors

    try:
        # Without a look at the files it names: whoever lists names need not be able to read secrets.
        return reread_configuration(str(given.configuration), given.programs.protocols)
    except SettingErrors as errors:
        raise click.ClickException(printable(str(errors))) from None


def _one(found: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    for one in found:
        if one["name"] == name:
            return one
    from appliance.documents import join_words, suggest

    names = [one["name"] for one in found]
    raise click.ClickException(
        printable(
            f"found the {what} {name!r}, expected one of {join_words(names) if names else 'none'}{suggest(name, names)}"
        )
    )


def _show(one: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    told = table()
    for name, value in one.items():
        told.add_row(name, printable(_words(value)))
    console().print(told)


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_words(inner) for inner in value) or "none"
    return str(value)

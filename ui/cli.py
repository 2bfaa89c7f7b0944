"""The command `sluicegate`: its commands, and how they are given what they need of the rest.

Exit codes: 0 done; 1 a negative result (refused, unfit, a failed test or verification); 2 wrong usage; 3 the appliance does
not answer.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class
from rich.console import Console
from rich.table import Table

from appliance.configuration import read_configuration, read_text
from appliance.documents import read_document
from appliance.errors import SettingError, SettingErrors, SluicegateError
from appliance.settings import NetworkSettings, Settings
from appliance.tls.authority import read_certificate
from ui.approvals import approvals
from ui.conversation import ask_control
from ui.policies import policy
from ui.recordings import export, flows, printable, replay, verify

CONFIGURATION = "/etc/sluicegate/sluicegate.yaml"
VARIABLE = "SLUICEGATE_CONFIGURATION"

Up = Callable[[Path, int | None], int]
Control = Callable[[Path, int], int]
Worker = Callable[[Path, int, tuple[int, ...], int], int]
Placeholder = Callable[[], tuple[str, str]]

# A command's own option goes before the group's, and that before the variable.
_configuration = click.option(
    "--configuration", type=click.Path(path_type=Path, dir_okay=False), default=CONFIGURATION, help="The configuration file."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def build_cli(up: Up, control: Control, worker: Worker, protocols: frozenset[str], placeholder: Placeholder) -> click.Group:
    """The command line. `up`, `control` and `worker` run the processes and answer their exit code; `placeholder` makes a
    password and its verifier; `protocols` are the names that resources may have."""

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.option(
        "--configuration",
        type=click.Path(path_type=Path, dir_okay=False),
        default=CONFIGURATION,
        show_default=True,
        envvar=VARIABLE,
        help=f"The configuration file ({VARIABLE}).",
    )
    @click.version_option(_version(), prog_name="sluicegate")
    @click.pass_context
    def sluicegate(context: click.Context, configuration: Path) -> None:
        """An appliance on the egress path of AI agents: understands, decides, holds, masks and records what they do.

        Ends with 0 when done, 1 for a negative result, 2 for wrong usage, 3 when the appliance does not answer.
        """
        state, run = _places(configuration)
        context.obj = run
        context.default_map = {name: {"state": state} for name in ("flows", "replay", "verify", "export")}
        context.default_map |= {name: {"configuration": str(configuration)} for name in ("up", "control", "worker", "check")}
        context.default_map["authority"] = {"show": {"state": state}}

    @sluicegate.command("up")
    @_configuration
    @click.option("--ready-fd", "ready", type=int, help="A descriptor that is told when everything serves.")
    @click.pass_context
    def up_(context: click.Context, configuration: Path, ready: int | None) -> None:
        """Run the appliance, as root: catch connections, then supervise control and workers until ended."""
        context.exit(_run(lambda: up(configuration, ready)))

    @sluicegate.command("control", hidden=True)
    @_configuration
    @click.option("--ready-fd", "ready", type=int, required=True)
    @click.pass_context
    def control_(context: click.Context, configuration: Path, ready: int) -> None:
        """One process of the appliance; `up` starts it."""
        context.exit(_run(lambda: control(configuration, ready)))

    @sluicegate.command("worker", hidden=True)
    @_configuration
    @click.option("--index", type=int, required=True)
    @click.option("--sockets", required=True, help="Descriptors, with commas between.")
    @click.option("--ready-fd", "ready", type=int, required=True)
    @click.pass_context
    def worker_(context: click.Context, configuration: Path, index: int, sockets: str, ready: int) -> None:
        """One process of the appliance; `up` starts it."""
        descriptors = tuple(int(one) for one in sockets.split(","))
        context.exit(_run(lambda: worker(configuration, index, descriptors, ready)))

    @sluicegate.command("check")
    @_configuration
    def check_(configuration: Path) -> None:
        """Read the configuration and say everything that is wrong with it."""
        try:
            settings = read_configuration(str(configuration), protocols)
        except SettingErrors as errors:
            raise click.ClickException(printable(str(errors))) from None
        click.echo(f"{configuration} is sound: {len(settings.agents)} agents, {len(settings.resources)} resources")

    @sluicegate.group("agents")
    def agents_() -> None:
        """What agents need."""

    @agents_.command("placeholder")
    @_json
    def placeholder_(as_json: bool) -> None:
        """Make a password for clients that insist on proving one, with its verifier for the configuration.

        The password opens nothing but the agent's own connections to the appliance.
        """
        password, proof = placeholder()
        if as_json:
            _print_json({"password": password, "placeholder": proof})
        else:
            click.echo(f"password (for the client):         {password}")
            click.echo(f"placeholder (for the agent's entry): {proof}")

    for command in (approvals, policy, flows, replay, verify, export, live, status, drain, authority, release, completion):
        sluicegate.add_command(command)
    return sluicegate


@click.command()
@_json
@click.pass_obj
def live(run: str, as_json: bool) -> None:
    """List the flows that are open now."""
    found = ask_control(run, "flows.live")
    if as_json:
        _print_json(found)
        return
    table = _table("flow", "who", "resource", "from", "to", "since")
    for flow in found:
        since = datetime.datetime.fromtimestamp(flow["time"] / 1e9).astimezone().isoformat(" ", "seconds")
        row = (
            flow["flow"],
            flow["principal"] or "nobody",
            flow["resource"] or "none",
            flow["source"],
            flow["destination"],
            since,
        )
        table.add_row(*map(printable, row))
    _console().print(table)


@click.command()
@_json
@click.pass_obj
@click.pass_context
def status(context: click.Context, run: str, as_json: bool) -> None:
    """Say how the appliance is. Ends with 1 where something needs a person: an unfit policy, a recording that stopped."""
    found: dict[str, Any] = ask_control(run, "status")
    recording, in_force = found["recording"], found["policy"]
    if as_json:
        _print_json(found)
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        since = datetime.datetime.fromtimestamp(found["started"]).astimezone().isoformat(" ", "seconds")
        table.add_row("control", f"process {found['process']}, since {since}")
        for worker in found["workers"]:
            table.add_row(f"worker {worker['index']}", f"process {worker['process']}, {worker['flows']} flows")
        table.add_row("policy", f"{in_force['version']}: {in_force['rules']} rules in {len(in_force['files'])} files")
        table.add_row("approvals", f"{found['approvals']} waiting")
        table.add_row("recording", f"{recording['records']} records taken in since the start")
        for one in found["catalogues"]:
            how = one["fault"] or f"{one['relations']} relations"
            table.add_row("catalogue", printable(f"{one['resource']}/{one['database']}: {how}"))
        _console().print(table)
        if not found["workers"]:
            click.secho("NO WORKER SERVES: executors are refused", fg="red")
        if in_force["fault"]:
            click.secho(printable(f"POLICY UNFIT, the old one stays in force:\n{in_force['fault']}"), fg="red")
        if recording["fault"]:
            click.secho(printable(f"RECORDING STOPPED: {recording['fault']}"), fg="red")
        for alarm in recording["alarms"]:
            click.secho(printable(f"RECORDING ALARM: {alarm}"), fg="red")
    if in_force["fault"] or recording["fault"] or recording["alarms"] or not found["workers"]:
        context.exit(1)


@click.command()
@_json
@click.pass_obj
def drain(run: str, as_json: bool) -> None:
    """Take everything that is recorded so far out of the journals into the recording."""
    found = ask_control(run, "drain")
    if as_json:
        _print_json(found)
    else:
        click.echo(f"{found['records']} records taken in")


@click.group()
def authority() -> None:
    """The certificate authority that clients of this appliance meet."""


@authority.command("show")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), default=Settings((), (), (), NetworkSettings(()), ()).state
)
def authority_show(state: Path) -> None:
    """Print the authority's certificate (PEM), for executors that verify what they are shown."""
    try:
        click.echo(read_certificate(state / "control" / "authority").decode(), nl=False)
    except SettingError as error:
        raise click.ClickException(printable(str(error))) from None


@click.command()
def release() -> None:
    """Take the kernel's rules back, as root: nothing is caught any more, and executors reach nothing through here.

    For after `up` has ended: while it runs, it puts them back.
    """
    _run(_release)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script, for example: eval "$(sluicegate completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "sluicegate", "_SLUICEGATE_COMPLETE").source())


def _release() -> int:
    # Only here: what reaches into the kernel takes longer to import than most commands to run.
    from kernel.gateway import release as release_caught

    release_caught()
    return 0


def _run(work: Callable[[], int]) -> int:
    try:
        return work()
    except SluicegateError as error:
        raise click.ClickException(printable(str(error))) from None


def _places(configuration: Path) -> tuple[str, str]:
    """The folders of state and of sockets. What people ask must not fail because a file of the appliance's is unfit or not
    theirs to read, so then the defaults stand, and the socket says whether they are right."""
    defaults = Settings((), (), (), NetworkSettings(()), ())
    try:
        data = read_document(str(configuration), read_text(str(configuration))).data
    except (SettingError, SettingErrors):
        return defaults.state, defaults.run
    section = data.get("appliance") if isinstance(data, dict) else None
    named = section if isinstance(section, dict) else {}
    folder = configuration.absolute().parent

    def place(name: str, default: str) -> str:
        value = named.get(name)
        return str(folder / value) if isinstance(value, str) else default

    return place("state", defaults.state), place("run", defaults.run)


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "unreleased"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _console() -> Console:
    return Console(markup=False, emoji=False, highlight=False)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=True))

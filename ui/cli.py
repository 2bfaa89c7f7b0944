"""The command `sluicegate`: the table of its commands, which are imported only when they are used.

Exit codes: 0 done; 1 a negative result (refused, unfit, a failed test or verification); 2 wrong usage; 3 the appliance does
not answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from ui.wiring import CONFIGURATION, VARIABLE, Control, Given, Placeholder, Programs, Up, Web, Worker, folders

# In the order people meet them: name, module, and the first line of its help, which a test holds to the command's own.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "init": ("ui.first_configuration", "Write a first configuration and policy, from questions or options."),
    "doctor": ("ui.doctor", "Look at every precondition of the appliance and say what to do."),
    "check": ("ui.processes", "Read the configuration and say everything that is wrong with it."),
    "up": ("ui.processes", "Run the appliance, as root."),
    "status": ("ui.standing", "Say how the appliance is."),
    "watch": ("ui.watching", "Show what waits, what was decided, open flows and alarms, live."),
    "approvals": ("ui.approvals", "See held commands and answer them."),
    "policy": ("ui.policies", "Check, test and explain policies, and put a changed one in force."),
    "flows": ("ui.recordings", "List recorded flows, the last active first."),
    "replay": ("ui.recordings", "Tell what happened in FLOW (its id, or the beginning of it) in order."),
    "verify": ("ui.recordings", "Prove that nothing was changed, removed, added or moved."),
    "export": ("ui.exports", "Give out the records of FLOW (or --all), each with its receipt."),
    "agents": ("ui.registered", "Which agents are configured, and what their clients need."),
    "resources": ("ui.registered", "Which targets are registered, and whether they are in reach."),
    "people": ("ui.accounts", "Who may sign in at the dashboard."),
    "dashboard": ("ui.accounts", "Print the dashboard's address and a link that signs in once."),
    "metrics": ("ui.standing", "Print what is counted and measured, in the form that Prometheus reads."),
    "authority": ("ui.registered", "The certificate authority that clients of this appliance meet."),
    "drain": ("ui.standing", "Take everything that is recorded so far out of the journals into the recording."),
    "release": ("ui.processes", "Take the kernel's rules back, as root."),
    "completion": ("ui.completion", "Print a shell's completion script."),
}
# `up` starts these; they are nobody else's.
_HIDDEN: Final[dict[str, str]] = {"control": "ui.processes", "worker": "ui.processes", "web": "ui.processes"}


class _Commands(click.Group):
    """The commands of the table. Listing and completing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = COMMANDS[cmd_name][0] if cmd_name in COMMANDS else _HIDDEN.get(cmd_name)
        if module is None:
            return None
        found = getattr(import_module(module), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def build_cli(
    up: Up, control: Control, worker: Worker, web: Web, protocols: frozenset[str], placeholder: Placeholder
) -> click.Group:
    """The command line, over these programs; see Programs."""
    programs = Programs(up, control, worker, web, protocols, placeholder)

    @click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option(
        "--configuration",
        type=click.Path(path_type=Path, dir_okay=False),
        default=CONFIGURATION,
        show_default=True,
        envvar=VARIABLE,
        help=f"The configuration file ({VARIABLE}).",
    )
    @click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
    )
    @click.pass_context
    def sluicegate(context: click.Context, configuration: Path) -> None:
        """An appliance on the egress path of AI agents: understands, decides, holds, masks and records what they do.

        Ends with 0 when done, 1 for a negative result, 2 for wrong usage, 3 when the appliance does not answer.
        """
        context.obj = given(configuration, programs)
        context.default_map = dict(_defaults(context.obj))

    return sluicegate


def given(configuration: Path, programs: Programs) -> Given:
    """What commands get for this configuration file."""
    state, run = folders(configuration)
    return Given(configuration, state, run, programs)


def _defaults(one: Given) -> Iterator[tuple[str, dict[str, Any]]]:
    """A command's own option goes before the group's, and that before the variable."""
    for name in ("flows", "replay", "verify", "export"):
        yield name, {"state": one.state}
    for name in ("up", "control", "worker", "web", "check"):
        yield name, {"configuration": str(one.configuration)}
    yield "authority", {"show": {"state": one.state}}


def _print_version(context: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("sluicegate")
    except PackageNotFoundError:
        found = "unreleased"
    click.echo(f"sluicegate, version {found}")
    context.exit()

"""How the appliance's processes are started from the command line, and what is done before and after: `check`, `release`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from appliance.errors import SettingErrors, SluicegateError
from appliance.log import FORM_VARIABLE
from ui.terminal import print_json, printable, say
from ui.wiring import CONFIGURATION, Given

_configuration = click.option(
    "--configuration", type=click.Path(path_type=Path, dir_okay=False), default=CONFIGURATION, help="The configuration file."
)
_ready = click.option("--ready-fd", "ready", type=int, required=True)


def _choose_log(_context: click.Context, _option: click.Parameter, form: str | None) -> None:
    if form is not None:
        # The processes that are started take it from there, too.
        os.environ[FORM_VARIABLE] = form


@click.command()
@_configuration
@click.option("--ready-fd", "ready", type=int, help="A descriptor that is told when everything serves.")
@click.option(
    "--log",
    type=click.Choice(["auto", "json", "text"]),
    expose_value=False,
    callback=_choose_log,
    help="How processes say on standard error what happens; instead of the setting.",
)
@click.option("--dashboard-fd", "dashboard", type=int, help="A listening socket for the dashboard, in place of its setting.")
@click.pass_obj
@click.pass_context
def up(context: click.Context, given: Given, configuration: Path, ready: int | None, dashboard: int | None) -> None:
    """Run the appliance, as root.

    Catches connections, then supervises control and workers until it is ended. The kernel's rules stay when it ends:
    executors are refused then (`release` takes them back).

    \b
    Example:
      sluicegate --configuration /etc/sluicegate/sluicegate.yaml up
    """
    context.exit(_run(lambda: given.programs.up(configuration, ready, dashboard)))


@click.command(hidden=True)
@_configuration
@_ready
@click.pass_obj
@click.pass_context
def control(context: click.Context, given: Given, configuration: Path, ready: int) -> None:
    """One process of the appliance; `up` starts it."""
    context.exit(_run(lambda: given.programs.control(configuration, ready)))


@click.command(hidden=True)
@_configuration
@click.option("--index", type=int, required=True)
@click.option("--sockets", required=True, help="Descriptors, with commas between.")
@_ready
@click.pass_obj
@click.pass_context
def worker(context: click.Context, given: Given, configuration: Path, index: int, sockets: str, ready: int) -> None:
    """One process of the appliance; `up` starts it."""
    descriptors = tuple(int(one) for one in sockets.split(","))
    context.exit(_run(lambda: given.programs.worker(configuration, index, descriptors, ready)))


@click.command(hidden=True)
@_configuration
@click.option("--socket", "listening", type=int, required=True, help="The descriptor it listens on.")
@click.option("--metrics-socket", "metrics", type=int, help="The descriptor at which metrics are read.")
@_ready
@click.pass_obj
@click.pass_context
def web(context: click.Context, given: Given, configuration: Path, listening: int, metrics: int | None, ready: int) -> None:
    """One process of the appliance; `up` starts it."""
    context.exit(_run(lambda: given.programs.web(configuration, listening, metrics, ready)))


@click.command()
@_configuration
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(given: Given, configuration: Path, as_json: bool) -> None:
    """Read the configuration and say everything that is wrong with it.

    It is read as the appliance reads it, so run it as root. Files with secrets are looked at from outside only.

    \b
    Example:
      sluicegate check
    """
    from appliance.configuration import read_configuration

    try:
        settings = read_configuration(str(configuration), given.programs.protocols)
    except SettingErrors as errors:
        if as_json:
            faults = [
                {"file": one.file, "line": one.line, "found": one.found, "expected": one.expected} for one in errors.errors
            ]
            print_json({"sound": False, "errors": faults})
            raise click.exceptions.Exit(1) from None
        raise click.ClickException(printable(str(errors))) from None
    if as_json:
        print_json({"sound": True, "agents": len(settings.agents), "resources": len(settings.resources)})
    else:
        say(f"{configuration} is sound: {len(settings.agents)} agents, {len(settings.resources)} resources")


@click.command()
def release() -> None:
    """Take the kernel's rules back, as root.

    Nothing is caught any more, and executors reach nothing through here. For after `up` has ended: while it runs, it puts
    them back.

    \b
    Example:
      sluicegate release
    """
    _run(_release)


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

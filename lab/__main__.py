"""The lab's command line: up, down, status, and a shell in one of its machines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from lab import machines
from lab.database import OWNER, SHOP
from lab.laboratory import Lab
from lab.machines import EXECUTOR, GATEWAY, PLANNER, TARGET, TARGET_SIDE, LabError, Place

_name = click.option("--name", default=None, help="Which lab; else SLUICEGATE_LAB, else “lab”.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An executor, the appliance and a target with a real PostgreSQL, as network namespaces of this machine."""


@main.command()
@_name
def up(name: str | None) -> None:
    """Build the lab anew."""
    lab = Lab(name)
    lab.up()
    click.echo(f"lab {lab.name} is up; its files are in {lab.folder}")
    _tell(lab)


@main.command()
@_name
def down(name: str | None) -> None:
    """Remove everything of the lab, however much of it is there."""
    lab = Lab(name)
    lab.down()
    click.echo(f"lab {lab.name} is down")


@main.command()
@_name
def status(name: str | None) -> None:
    """Say what is there. Exit code 1 if the lab is not up."""
    lab = Lab(name)
    for place in Place:
        there = "there" if machines.exists(lab.name, place) else "missing"
        click.echo(f"{place:<10} {machines.namespace(lab.name, place)} {there}")
    if not lab.is_up:
        click.echo(f"lab {lab.name} is not up; ./run lab up")
        sys.exit(1)
    _tell(lab)


@main.command()
@click.argument("place", type=click.Choice([place.value for place in Place]))
@click.argument("command", nargs=-1)
@click.option(
    "--as", "as_", type=click.Choice(["planner", "executor"]), help="Whose address connections come from (executor's)."
)
@_name
def shell(place: str, command: tuple[str, ...], as_: str | None, name: str | None) -> NoReturn:
    """A shell, or COMMAND, in the machine PLACE. Without --as it is root's."""
    lab = Lab(name)
    if not machines.exists(lab.name, Place(place)):
        raise LabError(f"lab {lab.name} is not up; ./run lab up")
    words = lab.command(place, command or ("bash", "--norc"), as_)
    own = lab.appliance_shell() if place == Place.APPLIANCE else {}
    os.chdir("/")
    os.execvpe(words[0], words, {**lab.environment(as_), "PS1": f"{as_ or 'root'}@{place} # ", **own})


@main.command()
@click.option("--policies", default=None, help="Policy files or a folder of them (policies/example).")
@_name
def appliance(policies: str | None, name: str | None) -> NoReturn:
    """Run the appliance in its machine until Ctrl-C."""
    lab = Lab(name)
    if not lab.is_up:
        raise LabError(f"lab {lab.name} is not up; ./run lab up")
    listening = lab.open_dashboard()
    served = {"listen": "{}:{}".format(*listening.getsockname())}
    if policies is not None:
        lab.configure(Path(policies).resolve(), dashboard=served)
    elif not lab.configuration.exists():
        lab.configure(dashboard=served)
    listening.set_inheritable(True)
    words = lab.command(Place.APPLIANCE, ("sluicegate", "up", "--dashboard-fd", str(listening.fileno())))
    own = lab.appliance_shell()
    click.echo(f"the dashboard will be at https://{served['listen']} of this machine; a one-time link to sign in:")
    click.echo(f"  ./run lab shell appliance --name {lab.name} sluicegate dashboard")
    click.echo(
        f"in another terminal: ./run lab shell executor --name {lab.name}   and: ./run lab shell appliance --name {lab.name}"
    )
    os.chdir("/")
    os.execvpe(words[0], words, {**lab.environment(), **own})


def _tell(lab: Lab) -> None:
    click.echo(f"executor   {EXECUTOR.ipv4} {EXECUTOR.ipv6}   as planner: {PLANNER.ipv4} {PLANNER.ipv6}")
    click.echo(f"appliance  {GATEWAY.ipv4} {GATEWAY.ipv6}   towards the target: {TARGET_SIDE.ipv4} {TARGET_SIDE.ipv6}")
    click.echo(f"target     {TARGET.ipv4} {TARGET.ipv6}   PostgreSQL, database {SHOP}, owner {OWNER}")
    click.echo(
        f"next: ./run lab appliance --name {lab.name}   then, elsewhere: ./run lab shell executor --name {lab.name} psql"
    )


if __name__ == "__main__":
    try:
        main(prog_name="./run lab")
    except LabError as error:
        click.echo(f"lab: {error}", err=True)
        sys.exit(1)

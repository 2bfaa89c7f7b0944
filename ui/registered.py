"""Who and what the configuration names: agents, resources, and the authority that clients meet."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.errors import SettingError
from ui.terminal import print_json, printable
from ui.wiring import Given

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def agents() -> None:
    """What agents need."""


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
def authority() -> None:
    """The certificate authority that clients of this appliance meet."""


@authority.command("show")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), default=Path("/var/lib/sluicegate"))
def authority_show(state: Path) -> None:
    """Print the authority's certificate (PEM), for executors that verify what they are shown.

    \b
    Example:
      sluicegate authority show > sluicegate.pem
    """
    from appliance.tls.authority import read_certificate

    try:
        click.echo(read_certificate(state / "control" / "authority").decode(), nl=False)
    except SettingError as error:
        raise click.ClickException(printable(str(error))) from None

"""People who may sign in at the dashboard, as root sees to them: `people`, and the way in: `dashboard`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from ui.completion import complete_person
from ui.conversation import ask_control
from ui.terminal import console, print_json, printable, say, table
from ui.wiring import Given

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_name = click.argument("name", shell_complete=complete_person)
_role = click.Choice(["viewer", "approver", "administrator"])
_groups = click.option("--group", "groups", multiple=True, help="An approver group; may be given several times.")


@click.group()
def people() -> None:
    """Who may sign in at the dashboard. For root and administrators."""


@people.command("list")
@_json
@click.pass_obj
def list_(given: Given, as_json: bool) -> None:
    """List accounts.

    \b
    Example:
      sluicegate people list
    """
    found: list[dict[str, Any]] = ask_control(given.run, "people.list")
    if as_json:
        print_json(found)
        return
    told = table("name", "role", "groups", "last seen", "")
    for one in found:
        words = (one["name"], one["role"], ", ".join(one["groups"]), _moment(one["last_seen"]))
        told.add_row(*map(printable, words), "one-time password" if one["must_change"] else "")
    console().print(told)


@people.command()
@_name
@click.option("--role", type=_role, default="approver", show_default=True, help="What the person may do.")
@_groups
@_json
@click.pass_obj
def add(given: Given, name: str, role: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Make an account and print its one-time password, which the person changes at the first sign-in.

    \b
    Example:
      sluicegate people add dana --role approver --group dba
    """
    _tell_password(ask_control(given.run, "people.add", name=name, role=role, groups=list(groups)), name, as_json)


@people.command()
@_name
@click.option("--role", type=_role, help="What the person may do from now on.")
@_groups
@click.option("--no-groups", is_flag=True, help="In no group any more.")
@_json
@click.pass_obj
def change(given: Given, name: str, role: str | None, groups: tuple[str, ...], no_groups: bool, as_json: bool) -> None:
    """Give an account another role or other groups. Its sessions end.

    \b
    Example:
      sluicegate people change dana --role administrator
    """
    if no_groups and groups:
        raise click.UsageError("give --group or --no-groups, not both")
    words: dict[str, object] = {}
    if role is not None:
        words["role"] = role
    if groups or no_groups:
        words["groups"] = list(groups)
    if not words:
        raise click.UsageError("say what to change: --role, --group or --no-groups")
    changed = ask_control(given.run, "people.change", name=name, **words)
    if as_json:
        print_json(changed)
    else:
        say(f"{name} is {changed['role']}, groups: {', '.join(changed['groups']) or 'none'}")


@people.command()
@_name
@_json
@click.pass_obj
def reset(given: Given, name: str, as_json: bool) -> None:
    """Give an account a new one-time password. Its sessions end.

    \b
    Example:
      sluicegate people reset dana
    """
    _tell_password(ask_control(given.run, "people.reset", name=name), name, as_json)


@people.command()
@_name
@_json
@click.pass_obj
def remove(given: Given, name: str, as_json: bool) -> None:
    """Take an account away. Its sessions end; what the person decided stays recorded.

    \b
    Example:
      sluicegate people remove dana
    """
    ask_control(given.run, "people.remove", name=name)
    if as_json:
        print_json({"removed": name})
    else:
        say(f"{name} is removed")


@click.command()
@click.option("--name", default="", help="Whose account the link opens.  [default: an administrator's]")
@_json
@click.pass_obj
def dashboard(given: Given, name: str, as_json: bool) -> None:
    """Print the dashboard's address and a link that signs in once.

    For root alone. The link holds for ten minutes and for one sign-in, so send it on a way that others do not read.

    \b
    Example:
      sluicegate dashboard
    """
    from appliance.configuration import reread_configuration
    from appliance.errors import SettingErrors

    try:
        settings = reread_configuration(str(given.configuration), given.programs.protocols).dashboard
    except SettingErrors as errors:
        raise click.ClickException(printable(str(errors))) from None
    if settings.listen is None:
        raise click.ClickException("the dashboard is switched off (dashboard.listen in the configuration)")
    ticket = ask_control(given.run, "session.ticket", name=name)
    place = f"{settings.names[0]}:{settings.listen.port}" if settings.names else str(settings.listen)
    address = f"{'http' if settings.is_plain else 'https'}://{place}/"
    link = f"{address}enter?ticket={ticket['ticket']}"
    if as_json:
        print_json({"address": address, "link": link, "name": ticket["name"], "expires": ticket["expires"]})
        return
    say(f"address:  {address}")
    say(f"sign in:  {link}")
    say(f"          once, as {ticket['name']}, until {_moment(ticket['expires'])}")
    if not settings.is_plain and settings.certificate is None:
        say(
            "Its certificate is signed by our own authority: `sluicegate authority show` prints what browsers are to trust.",
            "dim",
        )


def _tell_password(answer: dict[str, Any], name: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, **answer})
    else:
        say(f"{name} signs in with the one-time password: {answer['password']}")


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")

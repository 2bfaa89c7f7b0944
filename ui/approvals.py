"""How people see held commands and answer them: `sluicegate approvals …`.

What is answered is what was shown: an answer carries the hash of the command as it was when this person (or `--if`) saw it,
and control refuses it where something else is held by then.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ui.completion import complete_approval
from ui.conversation import ask_control
from ui.terminal import console, keep_whole, one_line, print_json, printable, table
from ui.wiring import Given

if TYPE_CHECKING:
    from rich.console import Group

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_if = click.option("--if", "seen", metavar="HASH", help="Answer only if this is what is held (`bound` in show --json).")


@click.group()
def approvals() -> None:
    """See held commands and answer them."""


@approvals.command("list")
@click.option("--settled", type=click.IntRange(0, 1000), default=0, help="Show so many of the newest settled ones as well.")
@_json
@click.pass_obj
def list_(given: Given, settled: int, as_json: bool) -> None:
    """List what waits for a person, oldest first.

    \b
    Example:
      sluicegate approvals list --settled 5
    """
    answer = ask_control(given.run, "approvals.list", settled=settled)
    found = answer["approvals"] + answer["settled"]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("nothing waits")
        return
    told = table("approval", "left", "who", "where", "command", "rule", "for")
    keep_whole(told, [one["id"] for one in found])
    told.columns[1].no_wrap = True
    for one in found:
        told.add_row(
            one["id"],
            left(one),
            printable(one["principal"]),
            printable(place(one)),
            one_line(one["shown"]),
            printable(one["rule"]),
            ", ".join(one["approvers"]) or "any approver",
        )
    console().print(told)


@approvals.command()
@click.argument("approval", shell_complete=complete_approval)
@click.option("--exact", is_flag=True, help="Show the exact text, sensitive values too; that is kept in the ledger.")
@_json
@click.pass_obj
def show(given: Given, approval: str, exact: bool, as_json: bool) -> None:
    """Show one approval: the command, what it would do, why it is held, and its history.

    \b
    Example:
      sluicegate approvals show a-7f3k2
    """
    found = ask_control(given.run, "approvals.show", approval=approval, exact=exact)
    if as_json:
        print_json(found)
        return
    console().print(_told(found))


@approvals.command()
@click.argument("approval", shell_complete=complete_approval)
@click.option("--reason", default="", help="Kept with the decision.")
@_if
@_json
@click.pass_obj
def approve(given: Given, approval: str, reason: str, seen: str | None, as_json: bool) -> None:
    """Let exactly what is held run.

    \b
    Example:
      sluicegate approvals approve a-7f3k2 --reason "month end"
    """
    _answer(given, "approve", approval, seen, as_json, reason=reason)


@approvals.command()
@click.argument("approval", shell_complete=complete_approval)
@click.option("--reason", required=True, help="The agent is told it.")
@_if
@_json
@click.pass_obj
def reject(given: Given, approval: str, reason: str, seen: str | None, as_json: bool) -> None:
    """Refuse what is held.

    \b
    Example:
      sluicegate approvals reject a-7f3k2 --reason "not on a Friday"
    """
    _answer(given, "reject", approval, seen, as_json, reason=reason)


@approvals.command()
@click.argument("approval", shell_complete=complete_approval)
@click.option("--text", help="The command to run instead.")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A file with the command.")
@click.option("--reason", default="", help="Kept with the decision.")
@_if
@_json
@click.pass_obj
def edit(
    given: Given, approval: str, text: str | None, file: Path | None, reason: str, seen: str | None, as_json: bool
) -> None:
    """Change what is held and let that run, if the policy lets it: it is judged like any other command.

    Without --text and --file the command opens in your editor, exact text and all.

    \b
    Example:
      sluicegate approvals edit a-7f3k2 --text "delete from orders where id = 12"
    """
    if text is not None and file is not None:
        raise click.UsageError("give --text or --file, not both")
    if file is not None:
        text = file.read_text(encoding="utf-8")
    if text is None:
        found = ask_control(given.run, "approvals.show", approval=approval, exact=True)
        seen = seen or found["bound"]
        text = click.edit(found["exact"], extension=".sql", editor=os.environ.get("EDITOR"))
        if text is None:
            raise click.ClickException("nothing was saved; the command is held as before")
        if not found["exact"].endswith("\n"):
            # Editors end the last line whether one wants it or not.
            text = text.removesuffix("\n")
    _answer(given, "edit", approval, seen, as_json, reason=reason, text=text)


def _answer(given: Given, how: str, approval: str, seen: str | None, as_json: bool, **words: str) -> None:
    if seen is None:
        seen = ask_control(given.run, "approvals.show", approval=approval)["bound"]
    settled = ask_control(given.run, f"approvals.{how}", approval=approval, seen=seen, **words)
    if as_json:
        print_json(settled)
        return
    click.echo(f"{settled['id']} {settled['outcome']} by {printable(settled['by'])}")


def _told(one: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.syntax import Syntax
    from rich.text import Text

    told = table()
    told.add_column(style="bold", no_wrap=True)
    told.add_column(overflow="fold")

    def add(title: str, text: str) -> None:
        if text:
            told.add_row(title, printable(text))

    state = f"{one['outcome']} by {one['by']}" if one["by"] else one["outcome"] or one["state"]
    add("approval", f"{one['id']} — {state}")
    add("left", left(one))
    add("who", f"{one['principal']}, known by {one['established']}; groups: {', '.join(one['groups']) or 'none'}")
    add("where", f"{place(one)} ({one['protocol']})" + (", inside a transaction" if one["in_transaction"] else ""))
    add("rule", one["rule"])
    add("because", one["asked_because"])
    add("for", ", ".join(one["approvers"]) or "any approver")
    add("reason", one["reason"])
    add("last change", f"refused: {one['why']}" if one["why"] else "")
    for number, value in enumerate(one["parameters"], 1):
        add(f"${number}", "NULL" if value is None else value)
    for effect in one["effects"]:
        add("does", effect)
    if one["blast"] is None:
        add("would touch", "not worked out yet; look again in a moment")
    for figure in one["blast"] or ():
        mark = "! " if figure["state"] == "warning" else "? " if figure["state"] == "unknown" else ""
        detail = f" ({figure['detail']})" if figure["detail"] else ""
        add("would touch", f"{mark}{figure['label']}: {figure['value']}{detail}")
    for earlier in one["before"]:
        add("after", earlier)
    add("hash", one["bound"])
    for happening in one["history"]:
        when = datetime.datetime.fromtimestamp(happening["time"]).astimezone().isoformat(" ", "seconds")
        by = f" by {happening['by']}" if happening["by"] else ""
        add(when, f"{happening['what']}{by}" + (f": {happening['detail']}" if happening["detail"] else ""))
    text = printable(one.get("exact") or one["shown"])
    lexer = "postgresql" if one["protocol"] == "postgres" else "text"
    return Group(told, Text(), Syntax(text, lexer, background_color="default", word_wrap=True))


def left(one: dict[str, Any]) -> str:
    """How long a held command still waits, or how that ended."""
    return f"{one['remaining']:.0f} s" if one["state"] != "settled" else one["outcome"]


def place(one: dict[str, Any]) -> str:
    """Resource and database."""
    return one["resource"] if one["database"] is None else f"{one['resource']}/{one['database']}"

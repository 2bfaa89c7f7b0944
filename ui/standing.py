"""How the appliance is, as it says itself: `status`, `metrics`, `drain`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from ui.conversation import ask_control
from ui.terminal import console, print_json, printable, say, table
from ui.wiring import Given

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@_json
@click.pass_obj
@click.pass_context
def status(context: click.Context, given: Given, as_json: bool) -> None:
    """Say how the appliance is.

    Ends with 1 where something needs a person: an unfit policy, a recording that stopped, no worker, rules of the kernel's
    that are gone. `doctor` says more.

    \b
    Example:
      sluicegate status
    """
    found: dict[str, Any] = ask_control(given.run, "status")
    found["health"] = ask_control(given.run, "health.show")["checks"]
    # Of these the lines below say more.
    told_below = ("workers", "policy", "recording")
    bad = [one for one in found["health"] if one["state"] == "bad" and one["name"] not in told_below]
    recording, in_force = found["recording"], found["policy"]
    if as_json:
        print_json(found)
    else:
        told = table()
        since = datetime.fromtimestamp(found["started"]).astimezone().isoformat(" ", "seconds")
        told.add_row("control", f"process {found['process']}, since {since}")
        for worker in found["workers"]:
            told.add_row(f"worker {worker['index']}", f"process {worker['process']}, {worker['flows']} flows")
        told.add_row("policy", f"{in_force['version']}: {in_force['rules']} rules in {len(in_force['files'])} files")
        told.add_row("approvals", f"{found['approvals']} waiting")
        told.add_row("recording", f"{recording['records']} records taken in since the start")
        for one in found["catalogues"]:
            how = one["fault"] or f"{one['relations']} relations"
            told.add_row("catalogue", printable(f"{one['resource']}/{one['database']}: {how}"))
        console().print(told)
        if not found["workers"]:
            say("NO WORKER SERVES: executors are refused", "red")
        if in_force["fault"]:
            say(f"POLICY UNFIT, the old one stays in force:\n{in_force['fault']}", "red")
        if recording["fault"]:
            say(f"RECORDING STOPPED: {recording['fault']}", "red")
        for alarm in recording["alarms"]:
            say(f"RECORDING ALARM: {alarm}", "red")
        for one in bad:
            say(f"{one['name'].upper()}: {one['sentence']}" + (f" → {one['advice']}" if one["advice"] else ""), "red")
    if bad or in_force["fault"] or recording["fault"] or recording["alarms"] or not found["workers"]:
        context.exit(1)


@click.command()
@_json
@click.pass_obj
def metrics(given: Given, as_json: bool) -> None:
    """Print what is counted and measured, in the form that Prometheus reads.

    \b
    Example:
      sluicegate metrics | grep held
    """
    found = ask_control(given.run, "metrics.show")
    if as_json:
        print_json(found)
    else:
        click.echo(printable(found["text"]), nl=False)


@click.command()
@_json
@click.pass_obj
def drain(given: Given, as_json: bool) -> None:
    """Take everything that is recorded so far out of the journals into the recording.

    \b
    Example:
      sluicegate drain
    """
    found = ask_control(given.run, "drain")
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['records']} records taken in")

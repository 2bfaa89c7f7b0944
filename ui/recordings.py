"""How recordings are read from the command line: `flows`, `replay`, `verify`.

Recorded texts come from agents and targets that may be hostile, so nothing of them reaches a terminal before its control
characters are made visible.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from re import compile as pattern
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from appliance.errors import RecordingError
from ui.completion import complete_agent, complete_flow, complete_resource
from ui.conversation import NoAnswer, ask_control
from ui.terminal import console, duration, keep_whole, one_line, print_json, printable, short_time, table

# What reads a recording is imported by the commands that do: a shell that completes a flow's id must not wait for it.
if TYPE_CHECKING:
    from appliance.recording.places import Places
    from appliance.recording.segments import FlowSummary

_CAUGHT_UP_SECONDS = 1.0  # control takes journals in many times a second; after that they are read without the rest
_FLOWS_AT_ONCE = 200  # the most that control gives at once
_FLOWS_READ_MAX = 100_000  # of the files, where a filter leaves some of them out
_AGO = pattern(r"(\d{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_state = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/sluicegate"),
    show_default=True,
    help="The folder for recordings (`state` in the configuration).",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@_state
@click.option("--agent", help="Only flows of this agent.", shell_complete=complete_agent)
@click.option("--resource", help="Only flows to this resource.", shell_complete=complete_resource)
@click.option("--denied", is_flag=True, help="Only flows of which something was refused.")
@click.option("--held", is_flag=True, help="Only flows of which something was held for a person.")
@click.option("--live", is_flag=True, help="Only flows that are open now, with their last command.")
@click.option("--since", default=None, help="Only flows active since: 30s, 15m, 2h, 7d, or a date and time (ISO 8601).")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many at most.")
@_json
@click.pass_context
def flows(
    context: click.Context,
    state: Path,
    agent: str | None,
    resource: str | None,
    denied: bool,
    held: bool,
    live: bool,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List recorded flows, the last active first.

    The appliance is asked; where it does not answer, or --state is given, the recording itself is read.

    \b
    Example:
      sluicegate flows --denied --since 1d
      sluicegate flows --live
    """
    wanted = _Wanted(agent, resource, denied, held, _moment(since), limit)
    # A recording named on the command line is what is meant, whatever runs here.
    is_named = context.get_parameter_source("state") is ParameterSource.COMMANDLINE
    run = None if is_named or context.obj is None else context.obj.run
    if live:
        if run is None:
            raise click.UsageError("--live asks the appliance, so it does not go with --state")
        _tell_live([one for one in ask_control(run, "flows.live") if wanted.is_of(one)][:limit], as_json)
        return
    try:
        found = _asked_flows(run, wanted) if run is not None else None
    except NoAnswer:
        found = None
    if found is None:
        found = _recorded_flows(state, wanted)
    if as_json:
        for flow in found:
            print_json(flow)
        return
    from rich.text import Text

    # It fits a terminal of 80 columns; the rest of a flow is in `replay` and in --json.
    told = table("flow", "opened", "lasted", "who", "resource", "commands", "refused", "held")
    keep_whole(told, [flow["flow"] for flow in found])
    for column in told.columns[-3:]:
        column.justify = "right"
    for flow in found:
        started, ended = flow["started"], flow["ended"]
        told.add_row(
            printable(flow["flow"]),
            "?" if started is None else short_time(round(started * 1e9)),
            "open" if ended is None else duration(round((ended - (started or ended)) * 1e9)),
            printable(flow["principal"] or f"nobody known, from {flow['source']}"),
            printable(flow["resource"] or "–"),
            str(flow["commands"]),
            Text(str(flow["denied"]), "red" if flow["denied"] else ""),
            Text(str(flow["held"]), "yellow" if flow["held"] else ""),
        )
    console().print(told)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which flows are asked for; `since` in nanoseconds."""

    agent: str | None
    resource: str | None
    denied: bool
    held: bool
    since: int
    limit: int

    def is_of(self, flow: dict[str, Any]) -> bool:
        """Whether an open flow, as flows.live has it, is one of them."""
        agent = (flow["principal"] or "").partition("/")[0]
        return self.agent in (None, agent) and self.resource in (None, flow["resource"])


def _asked_flows(run: str, wanted: _Wanted) -> list[dict[str, Any]]:
    """What control knows, in pages, newest first."""
    words: dict[str, Any] = {"since": wanted.since / 1e9}
    if wanted.agent is not None:
        words["agent"] = wanted.agent
    if wanted.resource is not None:
        words["resource"] = wanted.resource
    if wanted.denied or wanted.held:
        words["outcome"] = "denied" if wanted.denied else "held"
    found: list[dict[str, Any]] = []
    before: Any = None
    while len(found) < wanted.limit:
        page = ask_control(run, "flows.list", before=before, limit=min(_FLOWS_AT_ONCE, wanted.limit), **words)
        found += [one for one in page["flows"] if (not wanted.denied or one["denied"]) and (not wanted.held or one["held"])]
        before = page["next"]
        if before is None:
            break
    return found[: wanted.limit]


def _recorded_flows(state: Path, wanted: _Wanted) -> list[dict[str, Any]]:
    """What the recording's files hold, in the same form."""
    from appliance.recording import reader

    with told_plainly():
        places = caught_up(state)
        # What is left out below must not count towards the limit.
        limit = _FLOWS_READ_MAX if wanted.denied or wanted.held else wanted.limit
        found = reader.list_flows(places, agent=wanted.agent, resource=wanted.resource, since=wanted.since, limit=limit)
    kept = [one for one in found if (not wanted.denied or one.refused) and (not wanted.held or one.held)]
    return [flow_fields(one) for one in kept[: wanted.limit]]


def flow_fields(flow: FlowSummary) -> dict[str, Any]:
    """A recorded flow as control's flows.list has it. Times in seconds."""
    return {
        "flow": flow.flow,
        "principal": flow.principal,
        "agent": flow.agent,
        "phase": flow.phase,
        "resource": flow.resource,
        "database": None,
        "source": flow.source,
        "started": None if flow.opened is None else flow.opened / 1e9,
        "ended": None if flow.closed is None else flow.closed / 1e9,
        "commands": flow.commands,
        "denied": flow.refused,
        "held": flow.held,
    }


def _tell_live(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for flow in found:
            print_json(flow)
        return
    from rich.text import Text

    told = table("flow", "since", "who", "where", "from", "last command")
    keep_whole(told, [flow["flow"] for flow in found])
    for flow in found:
        where = flow["resource"] or "none"
        words = (
            flow["flow"],
            short_time(flow["time"]),
            flow["principal"] or "nobody known",
            where if flow["database"] is None else f"{where}/{flow['database']}",
            flow["source"],
        )
        last = one_line(flow.get("last") or "")
        told.add_row(*map(printable, words), Text(f"HELD {last}", "yellow") if flow.get("held") else last)
    console().print(told)


@click.command()
@click.argument("flow", shell_complete=complete_flow)
@_state
@_json
def replay(flow: str, state: Path, as_json: bool) -> None:
    """Tell what happened in FLOW (its id, or the beginning of it) in order.

    \b
    Example:
      sluicegate replay f3a9
    """
    import msgspec

    from appliance.recording import reader
    from appliance.recording.replay import replay as moments_of
    from ui.moments import told_moment

    with told_plainly():
        places = caught_up(state)
        moments = moments_of(reader.read_flow(places, reader.find_flow(places, flow)))
        if as_json:
            for moment in moments:
                print_json(_without_sealed(msgspec.to_builtins(moment)))
            return
        terminal = console()
        for moment in moments:
            terminal.print(told_moment(moment))


@click.command()
@_state
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key to trust. Default: the one beside the recording, which proves less.",
)
@click.option(
    "--head",
    "witnesses",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="A copy of head.json that was kept elsewhere; may be given several times.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Verify what `export --format proof` wrote, instead of a state folder.",
)
@_json
def verify(state: Path, public_key: Path | None, witnesses: tuple[Path, ...], bundle: Path | None, as_json: bool) -> None:
    """Prove that nothing was changed, removed, added or moved.

    Needs no running appliance. Ends with 1 where something was.

    \b
    Example:
      sluicegate verify --public-key /mnt/elsewhere/recording.pub --head /mnt/elsewhere/head.json
    """
    import msgspec

    from appliance.recording.bundle import open_bundle
    from appliance.recording.verify import verify as verify_recording
    from ui.moments import told_report

    with told_plainly(), open_bundle(bundle) if bundle is not None else nullcontext(state) as place, _patience(as_json):
        report = verify_recording(place, public_key, witnesses)
    if as_json:
        print_json({"sound": report.is_sound, **msgspec.to_builtins(report)})
    else:
        console().print(told_report(report, public_key is not None, bool(witnesses)))
    if not report.is_sound:
        sys.exit(1)


def _patience(as_json: bool) -> AbstractContextManager[object]:
    """A sign of life for people: a large recording takes minutes."""
    return nullcontext() if as_json or not sys.stderr.isatty() else console(to_errors=True).status("verifying …")


def caught_up(state: Path) -> Places:
    """The recording, once what was in the journals just now is taken in, if that is soon."""
    from appliance.recording import reader
    from appliance.recording.places import Places

    places = Places(state)
    if not places.recording.is_dir():
        raise RecordingError(f"there is no recording in {state}")
    until = time.monotonic() + _CAUGHT_UP_SECONDS
    left = reader.undrained(places)
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left = reader.undrained(places)
    if left:
        click.echo(f"note: {left} bytes in journals are not taken in yet and not shown", err=True)
    return places


@contextmanager
def told_plainly() -> Iterator[None]:
    """What is wrong with a recording, as people are told it."""
    try:
        yield
    except RecordingError as error:
        raise click.ClickException(printable(str(error))) from error
    except PermissionError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}; recordings are for root and control") from error


def _without_sealed(value: Any) -> Any:
    value["record"].pop("sealed", None)
    return value


def _moment(since: str | None) -> int:
    if since is None:
        return 0
    ago = _AGO.fullmatch(since)
    if ago is not None:
        return time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * 1_000_000_000
    try:
        return int(datetime.fromisoformat(since).timestamp() * 1e9)
    except ValueError as error:
        raise click.BadParameter(
            "expected 30s, 15m, 2h, 7d, or a date and time in ISO 8601", param_hint="--since"
        ) from error

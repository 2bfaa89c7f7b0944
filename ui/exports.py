"""`sluicegate export`: a recording for other programs and for other people, whole or not at all.

What goes to a file is written beside it under another name and gets its own only when it is complete and on disk.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ui.completion import complete_flow
from ui.recordings import caught_up, flow_fields, told_plainly
from ui.terminal import clock_time, console, print_json, printable, say

# What reads a recording is imported by those who do: a shell that completes a flow's id must not wait for it.
if TYPE_CHECKING:
    from appliance.recording import keys
    from appliance.recording.places import Places
    from appliance.recording.reader import Kept

_EXPORTED_AT_ONCE: Final = 1_000
_FLOWS_MAX: Final = 10_000_000
_COLUMNS: Final = (
    "flow",
    "principal",
    "agent",
    "phase",
    "resource",
    "source",
    "started",
    "ended",
    "commands",
    "denied",
    "held",
)
# Spreadsheets take a cell that begins like this for a formula, and run it.
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")

Tell = Callable[[int, int], None]


@click.command()
@click.argument("flow", required=False, shell_complete=complete_flow)
@click.option("--all", "everything", is_flag=True, help="Every record, control's own notes and journals' headers included.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "csv", "sqlite", "proof"]),
    default="lines",
    show_default=True,
    help="JSON lines of records; CSV of flows; a database of records; or a bundle that `verify --bundle` proves offline.",
)
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="A new file, instead of the output.")
@click.option("--exact", is_flag=True, help="Add exact texts to records; needs control's private key.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/sluicegate"),
    show_default=True,
    help="The folder for recordings (`state` in the configuration).",
)
def export(flow: str | None, everything: bool, form: str, target: Path | None, exact: bool, state: Path) -> None:
    """Give out the records of FLOW (or --all), each with its receipt.

    Exact texts stay sealed without --exact. A file gets its name only when it is complete; one that exists is not touched.

    \b
    Example:
      sluicegate export f3a9 --exact
      sluicegate export --all --format proof --to recording.tar
    """
    if (flow is None) != everything:
        raise click.UsageError("name a flow, or say --all")
    if form in ("sqlite", "proof") and target is None:
        raise click.UsageError(f"--format {form} goes into a file: --to FILE")
    if form == "proof" and not everything:
        raise click.UsageError("a proof covers the whole recording: say --all")
    if exact and form in ("csv", "proof"):
        raise click.UsageError("--exact goes with records: --format lines or sqlite")
    if target is not None and target.exists():
        raise click.UsageError(f"{target} exists")
    from appliance.recording import reader
    from appliance.recording.bundle import write_bundle

    with told_plainly():
        places = caught_up(state)
        found = None if flow is None else reader.find_flow(places, flow)
        if target is None:
            _print(places, found, form, exact)
            return
        with _progress() as tell, _complete(target) as unfinished:
            match form:
                case "proof":
                    write_bundle(places, unfinished, tell)
                case "sqlite":
                    _into_database(unfinished, _lines(places, found, exact, tell))
                case "csv":
                    with unfinished.open("w", encoding="utf-8", newline="") as file:
                        file.writelines(_rows(places, found))
                case _:
                    with unfinished.open("w", encoding="ascii") as file:
                        for line in _lines(places, found, exact, tell):
                            file.write(json.dumps(line, ensure_ascii=True) + "\n")
    say(f"wrote {target}", to_errors=True)


def _print(places: Places, flow: str | None, form: str, exact: bool) -> None:
    if form == "csv":
        for row in _rows(places, flow):
            click.echo(row, nl=False)
        return
    for line in _lines(places, flow, exact, lambda _done, _total: None):
        print_json(line)


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """A file beside the target that becomes it at the end, and is gone if there is no good end."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        # For its owner alone: records tell of production.
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        try:
            # Not a rename: somebody may have made the target in the meantime, and nothing is overwritten.
            os.link(unfinished, target)
        except OSError as error:
            # File systems of sticks and some networks have no links.
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            unfinished.rename(target)
    except FileExistsError:
        raise click.UsageError(f"{target} exists") from None
    except OSError as error:
        raise click.ClickException(printable(f"{target} was not written: {error.strerror or error}")) from None
    finally:
        for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
            with suppress(FileNotFoundError):
                left.unlink()


@contextmanager
def _progress() -> Iterator[Tell]:
    """How far it is, for people at a terminal; for nobody else."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("exporting"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console(to_errors=True),
        transient=True,
    ) as progress:
        task = progress.add_task("exporting", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(places: Places, flow: str | None, exact: bool, tell: Tell) -> Iterator[dict[str, Any]]:
    from appliance.recording import keys, reader

    opened = keys.load(places.keys) if exact else None
    kept = reader.read_all(places) if flow is None else reader.read_flow(places, flow)
    last = max((number for number, _ in places.segments()), default=1)
    for count, one in enumerate(kept):
        if count % _EXPORTED_AT_ONCE == 0:
            # By segments: counting records beforehand would take as long as reading them.
            tell(one.segment - 1, last)
        yield _exported(places, one, opened)
    tell(last, last)


def _exported(places: Places, kept: Kept, opened: keys.Keys | None) -> dict[str, Any]:
    import msgspec

    from appliance.recording import reader
    from appliance.recording.journal import Header

    fields: dict[str, Any] = msgspec.to_builtins(kept.record)
    is_sealed = fields.pop("sealed", None) is not None
    if isinstance(kept.record, Header):
        fields.pop("sealing", None)
    line = {
        "receipt": {
            "number": kept.number,
            "segment": kept.segment,
            "chain": kept.chain,
            "sequence": kept.sequence,
            "hash": kept.hash.hex(),
        },
        **fields,
    }
    if is_sealed:
        line["sealed"] = True
        if opened is not None:
            line["exact"] = reader.open_exact(places, opened.sealing, kept)
    return line


def _into_database(database: Path, lines: Iterator[dict[str, Any]]) -> None:
    # Imported here because it takes a tenth of a second, which every other command would wait for.
    from sqlite_utils import Database

    made = Database(sqlite3.connect(database))
    # A command has a number of its own; the receipt's columns say whose they are.
    flattened = ({**{f"receipt_{name}": value for name, value in line.pop("receipt").items()}, **line} for line in lines)
    made.table("records").insert_all(flattened, pk="receipt_number", alter=True, batch_size=_EXPORTED_AT_ONCE)


def _rows(places: Places, flow: str | None) -> Iterator[str]:
    """CSV of flows with a header, line by line, by RFC 4180."""
    from appliance.recording import reader

    line = StringIO()
    writer = csv.writer(line)
    writer.writerow(_COLUMNS)
    for one in reader.list_flows(places, limit=_FLOWS_MAX):
        if flow is not None and one.flow != flow:
            continue
        fields = flow_fields(one)
        for name in ("started", "ended"):
            fields[name] = "" if fields[name] is None else clock_time(round(fields[name] * 1e9))
        writer.writerow([_cell(fields[name]) for name in _COLUMNS])
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()


def _cell(value: Any) -> str:
    text = "" if value is None else printable(str(value))
    return f"'{text}" if text.startswith(_FORMULAS) else text

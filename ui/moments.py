"""How recorded moments and a verification read for people: lines with labels, times and colours, harmless on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened, Passed
from appliance.recording.replay import Moment
from appliance.recording.verify import Report
from ui.terminal import clock_time, duration, printable

_COLOURS = {"forward": "green", "refuse": "red", "hold": "yellow", "own": "dim"}
_DECIDED_COLOURS = {"approved": "green", "modified": "cyan", "rejected": "red"}


def told_moment(moment: Moment) -> Group:
    """A moment as lines: when, what, and below it what belongs to it."""
    head = Text(f"{moment.after / 1e9:>10.3f}  ", "dim")
    below: list[Text | Table] = []

    def add(label: str, text: str, style: str = "") -> None:
        if text:
            below.append(Text.assemble((f"{label} " if label else "", "dim"), (printable(text), style)))

    match moment.record:
        case FlowOpened():
            _tell_opened(moment.record, head, add)
        case Commanded():
            _tell_command(moment.record, head, add)
        case Decided():
            _tell_decision(moment.record, moment.took, head, add)
        case Answered():
            _tell_answer(moment.record, moment.took, head, add)
            if moment.record.sample:
                below.append(_sample(moment.record))
        case Passed():
            head.append(f"passed on: {printable(moment.record.note)}", "dim")
        case FlowClosed():
            head.append("closed", "bold")
            head.append(f"  {printable(moment.record.reason)}")
            head.append(
                f"  ({moment.record.client_bytes} bytes from the client, {moment.record.target_bytes} from the target)",
                "dim",
            )
            add("fault:", moment.record.trace or "", "red")
    return Group(head, *(Padding(line, (0, 0, 0, 12)) for line in below))


_Add = Callable[..., None]


def _tell_opened(record: FlowOpened, head: Text, add: _Add) -> None:
    head.append("opened", "bold")
    head.append(f"  {clock_time(record.time)}  flow {printable(record.flow)}")
    who = record.principal or "nobody we know"
    add("by:", who + (f", established by {record.established}" if record.established else ""))
    add("groups:", ", ".join(record.groups))
    where = f"{record.resource} ({record.protocol})" if record.resource else "no registered resource"
    add("to:", f"{where} at {record.destination}, from {record.source}")


def _tell_command(record: Commanded, head: Text, add: _Add) -> None:
    style = _COLOURS.get(record.outcome, "")
    if record.outcome == "own":
        head.append(f"own words: {printable(record.sort)} {printable(record.shown)}".rstrip(), "dim")
        return
    head.append(f"#{record.number} ", "bold")
    head.append(f"{printable(record.sort)}  ")
    head.append(printable(record.outcome).upper(), f"bold {style}".strip())
    if record.rule:
        head.append(f"  by rule {printable(record.rule)}")
    if record.changed_from is not None:
        head.append(f"  in place of #{record.changed_from}", "cyan")
    add("", record.shown)
    for position, parameter in enumerate(record.parameters, 1):
        add(f"${position} =", "NULL" if parameter is None else repr(parameter))
    add("reason:", record.reason, style)
    for text in record.effects:
        add("effect:", text)
    for text in record.masks:
        add("mask:", text, "magenta")
    if record.approval:
        add("approval:", record.approval + (f" by {record.approver}" if record.approver else ""))
    if record.durable:
        add("kept:", "on disk before it went")
    if record.sealed is not None:
        add("sealed:", "the exact text differs from what is shown, or is longer")


def _tell_decision(record: Decided, took: int | None, head: Text, add: _Add) -> None:
    head.append(f"#{record.number} ", "bold")
    head.append(printable(record.outcome).upper(), f"bold {_DECIDED_COLOURS.get(record.outcome, 'yellow')}")
    if record.by:
        head.append(f"  by {printable(record.by)}")
    if took is not None:
        head.append(f"  after {duration(took)}")
    add("approval:", record.approval)
    add("reason:", record.reason)
    add("instead:", record.shown, "cyan")


def _tell_answer(record: Answered, took: int | None, head: Text, add: _Add) -> None:
    head.append(f"#{record.number} ", "bold")
    head.append(f"answered {printable(record.status)}", "red" if record.failed else "")
    if record.columns:
        head.append(f"  {record.rows} rows, {record.size} bytes", "dim")
    if took is not None:
        head.append(f"  in {duration(took)}", "dim")
    add("masked:", ", ".join(record.masked), "magenta")
    add("digest:", record.digest, "dim")


def _sample(record: Answered) -> Table:
    table = Table(box=None, pad_edge=False, header_style="underline")
    masked = set(record.masked)
    # A row may be wider than its header where a target breaks its protocol; it is shown all the same.
    width = max([len(record.columns), *(len(row) for row in record.sample)])
    for position in range(width):
        name = record.columns[position] if position < len(record.columns) else "?"
        is_masked = name in masked
        table.add_column(Text(printable(name) + (" (masked)" if is_masked else "")), style="magenta" if is_masked else "")
    for row in record.sample:
        table.add_row(*(Text("NULL", "dim") if value is None else Text(printable(value)) for value in row))
    if record.rows > len(record.sample):
        table.add_row(Text(f"… {record.rows - len(record.sample)} more", "dim"))
    return table


def told_report(report: Report, has_own_key: bool, has_witness: bool) -> Group:
    """What a verification saw, ending with one word. `has_own_key`, `has_witness`: people brought a key, a head."""
    lines = [
        Text(f"{report.records} records in {report.segments} segments, {report.heads} signed heads, key {report.key}"),
    ]
    for finding in report.findings:
        place = ", ".join(
            f"{name} {value}"
            for name, value in (("segment", finding.segment), ("record", finding.record), ("chain", finding.chain))
            if value is not None
        )
        text = f"{finding.sort}: {finding.text}" + (f" [{place}]" if place else "")
        lines.append(Text(printable(text), "red"))
    for note in report.notes:
        said = f"note of {clock_time(note.time)}: {note.sort}: {note.text}" + (f" [{note.journal}]" if note.journal else "")
        lines.append(Text(printable(said), "yellow"))
    if report.waiting:
        lines.append(Text(f"{report.waiting} bytes in journals are not taken in yet, so nothing is said of them"))
    if not has_own_key:
        lines.append(Text("The key is the one beside the recording; give --public-key to trust a copy of your own.", "dim"))
    if not has_witness:
        lines.append(Text("Without --head, a recording rewritten whole by the key's holder is not found.", "dim"))
    lines.append(Text("sound", "bold green") if report.is_sound else Text("NOT SOUND", "bold red"))
    return Group(*lines)

"""What may reach a terminal: texts of others made harmless, tables, times, and JSON that is plain ASCII.

Recorded and held texts come from agents and targets that may be hostile, so nothing of them is printed before everything a
terminal would act on is made visible. Colours are left out where NO_COLOR is set or the output is no terminal.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_CHARACTERS_MAX: Final = 100
WIDE: Final = 160
"""Columns where the output is no terminal and COLUMNS is not set: a program reads it then, and folded cells help none."""

# Ours are shorter; a longer one must not push everything else off the screen.
_ID_CHARACTERS_MAX: Final = 24
_ACTED_ON: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """A text with everything visible that a terminal would act on: control characters, escape sequences, and the marks that
    change the direction of writing. Line ends and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in _ACTED_ON else ascii(character)[1:-1]
        for character in text
    )


def one_line(text: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    """The same on one line, cut with an ellipsis."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= characters_max else line[: characters_max - 1] + "…"


def console(*, to_errors: bool = False) -> Console:
    """Where people read. Nothing that is printed acts as markup, emoji or a link."""
    from rich.console import Console

    stream = sys.stderr if to_errors else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else WIDE
    return Console(markup=False, emoji=False, highlight=False, stderr=to_errors, width=width)


def table(*titles: str) -> Table:
    """A table with these columns, no borders, cells folded where the terminal is narrow."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(titles))
    for title in titles:
        made.add_column(title, overflow="fold")
    return made


def keep_whole(told: Table, ids: Iterable[str]) -> None:
    """Let a table's first column show these ids whole, however narrow the terminal is: people copy them."""
    told.columns[0].no_wrap = True
    told.columns[0].min_width = min(max(map(len, ids), default=0), _ID_CHARACTERS_MAX)


def say(text: str, style: str = "", *, to_errors: bool = False) -> None:
    """A text of possibly hostile origin as lines of their own, not broken at the terminal's width."""
    from rich.text import Text

    console(to_errors=to_errors).print(Text(printable(text), style), soft_wrap=True)


def print_json(value: object) -> None:
    """One line of JSON, ASCII alone: it stays harmless when somebody looks at it in a terminal."""
    click.echo(json.dumps(value, ensure_ascii=True))


def clock_time(nanoseconds: int) -> str:
    """A moment with date and zone, as clocks here show it."""
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def short_time(nanoseconds: int) -> str:
    """The time of day in UTC, with the date where it is another day's."""
    then = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return then.strftime("%H:%M:%S" if then.date() == datetime.now(UTC).date() else "%m-%d %H:%M")


def duration(nanoseconds: int) -> str:
    """How long something took, with one unit, or two."""
    seconds = nanoseconds / 1e9
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

"""How every process says what happens to it: one line an event on standard error, as JSON or for a person to read.

A line carries who says it, what happened and the facts of it, never a text of a command, a parameter or a secret. Whatever
a peer may have had a hand in is escaped and cut, and no event can be repeated fast enough to fill a disk.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType

FORM_VARIABLE = "SLUICEGATE_LOG"
"""The environment's variable that says which form all processes use: the supervisor's children are given it."""

VALUE_CHARACTERS_MAX = 2_000
"""Of one fact; enough for a trace of some twenty calls."""

LINES_PER_SECOND_MAX = 20
"""Of one event of one process: peers cause some events (a refused connection), as fast as they like. What is left out is
counted, and the next line of that event says how many; the metrics count all."""


class Form(StrEnum):
    """How lines look. `AUTO` is text on a terminal and JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class Level(StrEnum):
    """How much it matters: nothing to do, somebody may want to look, somebody has to."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Log:
    """What one process says. `process` is its name: supervisor, control, worker 0, dashboard."""

    def __init__(self, process: str) -> None:
        self._process = process
        # For each event the second that is counted, the lines in it, and those left out since the last line.
        self._counted: dict[str, tuple[int, int, int]] = {}

    def __call__(self, event: str, *, level: Level = Level.INFO, **facts: object) -> None:
        """Say it. Numbers and yes or no stay what they are, everything else is said as text.

        A standard error that nobody reads any more loses the line and stops nothing: what must not be lost is recorded.
        """
        missing = self._left_out(event)
        if missing is None:
            return
        if missing:
            facts["left_out"] = missing
        line = self._text(event, level, facts) if _is_text() else self._json(event, level, facts)
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def take_over(self) -> None:
        """Say in our form what Python and libraries would print in theirs. For a process of its own, at start."""
        sys.excepthook = self._fall
        threading.excepthook = lambda fault: self._fault("fault in a thread", fault.exc_value)
        logging.basicConfig(handlers=[_Libraries(self)], level=logging.WARNING, force=True)

    def _left_out(self, event: str) -> int | None:
        """How many lines of that event were left out before this one, or None: this one is left out, too."""
        second = int(time.monotonic())
        counted, lines, missing = self._counted.get(event, (second, 0, 0))
        if counted != second:
            lines = 0
        if lines >= LINES_PER_SECOND_MAX:
            self._counted[event] = (second, lines, missing + 1)
            return None
        self._counted[event] = (second, lines + 1, 0)
        return missing

    def _json(self, event: str, level: Level, facts: dict[str, object]) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        head = {"time": now, "process": self._process, "level": level.value, "event": event}
        # The head last once more, so that no fact can stand in its place.
        return json.dumps({**head, **{name: _plain(value) for name, value in facts.items()}, **head})

    def _text(self, event: str, level: Level, facts: dict[str, object]) -> str:
        words = " ".join(f"{name}={_plain(value)!a}" for name, value in facts.items())
        loud = "" if level is Level.INFO else f"{level.value.upper()} "
        said = f"{loud}{self._process} {event}"
        return f"{said}: {words}" if words else said

    def _fall(self, kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:  # noqa: ARG002
        self._fault("fault", fault)

    def _fault(self, event: str, fault: BaseException | None) -> None:
        if not isinstance(fault, KeyboardInterrupt | SystemExit):
            self(event, level=Level.ERROR, trace=trace_of(fault))


class _Libraries(logging.Handler):
    """Passes on what libraries log: the first line, and where it happened."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = Level.ERROR if record.levelno >= logging.ERROR else Level.WARNING
        # The rest of what asyncio says holds representations of objects, with whatever is in them.
        said = record.getMessage().partition("\n")[0]
        trace = trace_of(record.exc_info[1]) if record.exc_info else ""
        self._log("library", level=level, library=record.name, said=said, trace=trace)


def trace_of(fault: BaseException | None) -> str:
    """Where it happened and what sort of error it is. Not what it says: that may quote a peer's payload."""
    if fault is None:
        return ""
    return "".join(traceback.format_tb(fault.__traceback__)) + type(fault).__name__


def _is_text() -> bool:
    wanted = os.environ.get(FORM_VARIABLE, Form.AUTO)
    return wanted == Form.TEXT or (wanted != Form.JSON and sys.stderr.isatty())


def _plain(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    # The end of a trace says most, the beginning of everything else.
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:100]}…{text[-VALUE_CHARACTERS_MAX + 101 :]}"

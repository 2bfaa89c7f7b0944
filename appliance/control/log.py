"""How the control process says what happens to it: one line a time on stderr, which the supervisor's log collects."""

from __future__ import annotations

import sys


def log(event: str, **facts: object) -> None:
    """`facts` carry no secret and no text of a command."""
    words = " ".join(f"{name}={str(value)!r}" for name, value in facts.items())
    print(f"control {event}: {words}" if words else f"control {event}", file=sys.stderr, flush=True)

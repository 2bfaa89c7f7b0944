"""How a client is run twice, directly at the target and through the appliance, and what each run left to be compared."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.laboratory import Lab
from lab.machines import Place

HERE = Path(__file__).parent
APPLICATION = (HERE / "application.sql").read_text("utf-8")
OBJECTS = APPLICATION + (HERE / "objects.sql").read_text("utf-8")

Outcome = tuple[str, str, int]


def through(
    lab: Lab, words: Sequence[str], *, database: str, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a client in the executor's machine as it would be anywhere."""
    return lab.run_in(
        Place.EXECUTOR, words, "executor", text=text, environment={"PGDATABASE": database, **environment}, seconds=60
    )


def direct(
    lab: Lab, words: Sequence[str], *, database: str, text: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The same at the target's own socket, past the appliance; as root, who alone may go there."""
    own = {"PGHOST": str(lab.database.socket), "PGDATABASE": database}
    return lab.run_in(Place.EXECUTOR, words, text=text, environment={**own, **environment}, seconds=60)


def outcome(done: subprocess.CompletedProcess[str]) -> Outcome:
    """All that a client leaves behind: what it wrote to either stream, and its exit code."""
    return done.stdout, done.stderr, done.returncode

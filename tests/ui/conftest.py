"""A small recording, and the command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.recording.records import Answered, Commanded, FlowClosed, FlowOpened
from tests.recording.recorded import START, Recorded

ROOT = Path(__file__).resolve().parents[2]
MILLISECOND = 1_000_000
EVIL = "=cmd()\x1b]0;owned\x07\u202egnp.exe"
"""What a hostile agent would like to see on the operator's terminal, or in a spreadsheet."""


def run_sluicegate(
    *words: str, environment: Mapping[str, str] | None = None, text: str | None = None, seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """The command as people start it, without a terminal, its output as text."""
    paths = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}
    return subprocess.run(
        [sys.executable, "-m", "appliance", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={**paths, **(environment or {})},
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with two finished flows, one of them of an agent with a hostile name."""
    recorded = Recorded.begin(tmp_path / "state")
    keeper = recorded.keeper()
    journal = recorded.journal()
    for flow, agent, outcome in (("a1b2c3", "shop", "forward"), ("d4e5f6", EVIL, "refuse")):
        journal.append_many(
            [
                FlowOpened(flow, START, "10.0.0.2:4000", "10.0.1.5:5432", principal=agent, agent=agent, resource="shop-db"),
                Commanded(flow, START + MILLISECOND, 1, "Query", f"select '{EVIL}'", outcome, rule="one (shop.yaml:4)"),
                Answered(flow, START + 2 * MILLISECOND, 1, "SELECT 1", columns=("x",), rows=1, sample=((EVIL,),)),
                FlowClosed(flow, START + 7 * MILLISECOND, "the client left", 300, 400),
            ]
        )
    journal.close()
    keeper.drain()
    keeper.close()
    return tmp_path / "state"

"""The demo, as a newcomer runs it, with its own check."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys

import pytest

from lab.laboratory import REPOSITORY


@pytest.mark.real
def test_every_outcome_of_the_demo_is_as_expected() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lab.demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CHECK": "1", "SLUICEGATE_LAB": f"demo-{secrets.token_hex(4)}"},
    )
    last = done.stdout.strip().splitlines()[-1]
    counted = re.fullmatch(r"demo: (\d+) of (\d+) outcomes as expected", last)
    assert counted is not None, done.stdout + done.stderr
    assert counted[1] == counted[2], done.stdout
    assert int(counted[2]) >= 11
    assert done.returncode == 0

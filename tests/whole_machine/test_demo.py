"""The demo, as a newcomer runs it, with its own check."""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
import subprocess
import sys
import time
import urllib.request
from typing import Final

import pytest

from lab import machines
from lab.laboratory import REPOSITORY, Lab
from lab.machines import Place

SECONDS: Final = 300


@pytest.mark.real
def test_every_outcome_of_the_demo_is_as_expected() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lab.demo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CHECK": "1", "SLUICEGATE_LAB": f"demo-{secrets.token_hex(4)}"},
    )
    last = done.stdout.strip().splitlines()[-1]
    counted = re.fullmatch(r"demo: (\d+) of (\d+) outcomes as expected", last)
    assert counted is not None, done.stdout + done.stderr
    assert counted[1] == counted[2], done.stdout
    assert int(counted[2]) >= 11
    assert done.returncode == 0


@pytest.mark.real
def test_a_demo_leaves_a_dashboard_with_agents_at_work_until_it_is_told_to_end() -> None:
    own = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SLUICEGATE_LAB": f"demo-{secrets.token_hex(4)}"}
    own.pop("CHECK", None)
    words = [sys.executable, "-P", "-m", "lab.demo"]
    lab = Lab(own["SLUICEGATE_LAB"])
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True, env=own, cwd="/")
        found = re.search(r"https://127\.0\.0\.1:\d+/", done.stdout)
        assert found is not None, done.stdout
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(found[0], context=unverified, timeout=30) as page:
            assert "Sign in" in page.read().decode()
        deadline = time.monotonic() + 30
        waiting: list[object] = []
        while len(waiting) < 3 and time.monotonic() < deadline:
            waiting = json.loads(lab.run_sluicegate("approvals", "list", "--json").stdout)
        assert len(waiting) == 3
    finally:
        ended = subprocess.run(
            [*words, "--down"], capture_output=True, text=True, timeout=SECONDS, check=False, env=own, cwd="/"
        )
    assert ended.returncode == 0
    assert not lab.folder.exists()
    assert not any(machines.exists(lab.name, place) for place in Place)

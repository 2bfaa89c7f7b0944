"""Every way round ever found, run whole in one lab: none works, and nothing harmless is refused."""

from __future__ import annotations

import json
import os
import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from lab.approver import Approver
from lab.bypasses import FIXTURES, POLICIES, Runner
from lab.laboratory import Lab

_HERE = Path(__file__).parent
# Two runners keep two cores busy; more only wait for one another.
_RUNNERS = 2


def _cases() -> list[dict[str, Any]]:
    lines = [line for file in sorted(_HERE.glob("*.jsonl")) for line in file.read_text().splitlines() if line.strip()]
    return [case for case in map(json.loads, lines) if case["engine"] == "postgres"]


def test_every_case_has_an_id_of_its_own() -> None:
    ids = [case["id"] for case in _cases()]
    assert len(ids) == len(set(ids))


def test_no_way_round_works_and_nothing_harmless_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.fail("the ways round need root: they run in a lab of network namespaces")
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    cases = _cases()
    for case in cases:
        waiting.put(case)
    wrong: list[str] = []
    done: list[str] = []
    fixture = (FIXTURES / "postgres.sql").read_text()
    with Lab("bypasstest") as lab:
        lab.configure(POLICIES, workers=_RUNNERS)
        lab.start_appliance()
        # The first copy makes the template that all others are made of, which two must not do at once.
        lab.fresh_database("first", fixture)
        lab.fresh_database("first", "select 1")
        with Approver(lab) as approver:

            def work() -> None:
                runner = Runner(lab, fixture, approver, None)
                while True:
                    try:
                        case = waiting.get_nowait()
                    except queue.Empty:
                        return
                    score = runner.score({"trick": "", **case})
                    done.append(score.id)
                    if not score.correct:
                        wrong.append(
                            f"{score.id} ({score.trick}): expected {score.expect}, saw {score.outcome}; {score.notes}"
                        )

            threads = [threading.Thread(target=work) for _ in range(_RUNNERS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert not wrong, "\n".join(wrong)
    assert len(done) == len(cases)

"""Every way round ever found, run whole in one lab: none works, and nothing harmless is refused."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from lab.bypasses import FIXTURES, POLICIES, score_all

_HERE = Path(__file__).parent


def _cases() -> list[dict[str, Any]]:
    lines = [line for file in sorted(_HERE.glob("*.jsonl")) for line in file.read_text().splitlines() if line.strip()]
    return [{"trick": "", **case} for case in map(json.loads, lines)]


def test_every_case_has_an_id_of_its_own() -> None:
    ids = [case["id"] for case in _cases()]
    assert len(ids) == len(set(ids))


@pytest.mark.real
def test_no_way_round_works_and_nothing_harmless_is_refused() -> None:
    cases = _cases()
    fixture = (FIXTURES / "postgres.sql").read_text()
    scores = list(score_all(f"bypasses-{secrets.token_hex(4)}", cases, fixture, POLICIES))
    undetectable = {case["id"] for case in cases if case["expect"] == "known_undetectable"}
    wrong = [
        f"{score.id} ({score.trick}): expected {score.expect}, saw {score.outcome}; {score.notes}"
        for score in scores
        if not score.correct and score.id not in undetectable
    ]
    assert not wrong, "\n".join(wrong)
    assert len(scores) == len(cases)

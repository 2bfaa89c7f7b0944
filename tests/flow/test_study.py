"""Long statements are read in a process beside the worker; what goes wrong there refuses the statement and no more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from appliance.effects import Action
from appliance.flow.study import WAITING_PER_AGENT_MAX, Study
from appliance.protocols.inspector import ReadingQuestion
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import Reading, SessionView

CATALOGUE = Catalogue("1", 170_000, "shop", "app", ("public",), frozenset({"public"}), ())
OTHER = Catalogue("2", 170_000, "shop", "app", ("other",), frozenset({"other"}), ())
VIEW = SessionView(("public",), prepared={"p": "select 1"}, cursors={"c": ()})
ROOT = Path(__file__).resolve().parents[2]
LONG = "select " + ", ".join(str(number) for number in range(1000))


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 90))


def ask(text: str = LONG, catalogue: Catalogue = CATALOGUE) -> ReadingQuestion:
    return ReadingQuestion(text, catalogue, VIEW)


def is_refused(reading: Reading) -> bool:
    return reading.problem is not None and {effect.action for effect in reading.effects} == {Action.UNKNOWN}


def test_what_is_read_there_is_what_is_read_here() -> None:
    async def scene() -> None:
        study = Study()
        for text in (LONG, "execute p", "select no_such_column from nowhere", "select (", "a\0b"):
            for catalogue in (CATALOGUE, OTHER, CATALOGUE):
                assert await study.read("bot", ask(text, catalogue)) == read(text, catalogue, VIEW)
        await study.close()

    run(scene())


def test_a_process_that_ends_refuses_what_it_read_and_the_next_is_read_by_another() -> None:
    async def scene() -> None:
        study = Study()
        await study.read("bot", ask())
        process = study._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        first, second = await study.read("bot", ask()), await study.read("bot", ask())
        assert is_refused(first) or first == second
        assert second == read(LONG, CATALOGUE, VIEW)
        await study.close()

    run(scene())


@pytest.mark.parametrize("program", ["import time; time.sleep(60)", "print('no frame', flush=True)", "raise SystemExit(1)"])
def test_a_process_that_does_not_answer_as_it_should_refuses(program: str) -> None:
    async def scene() -> None:
        study = Study([sys.executable, "-c", program], seconds_max=1.0)
        reading = await study.read("bot", ask("insert into cards values ('4111111111111111')" + " " * 3000))
        assert is_refused(reading)
        assert "4111" not in reading.shown
        await study.close()

    run(scene())


def test_one_agents_many_texts_let_anothers_be_read_in_its_turn() -> None:
    async def scene() -> None:
        study = Study()
        order: list[str] = []

        async def one(agent: str) -> None:
            await study.read(agent, ask())
            order.append(agent)

        await asyncio.gather(*[one("many") for _ in range(5)], one("few"))
        assert order.index("few") <= 2
        await study.close()

    run(scene())


def test_no_more_than_a_few_of_an_agents_texts_wait() -> None:
    async def scene() -> None:
        study = Study([sys.executable, "-c", "import time; time.sleep(60)"], seconds_max=1.0)
        tasks = [asyncio.ensure_future(study.read("bot", ask())) for _ in range(WAITING_PER_AGENT_MAX + 5)]
        done, waiting = await asyncio.wait(tasks, timeout=0.5)
        assert all(is_refused(task.result()) for task in done)
        assert len(waiting) <= WAITING_PER_AGENT_MAX + 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await study.close()

    run(scene())

"""What processes say: its two forms, and what never gets into it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from appliance.log import FORM_VARIABLE, LINES_PER_SECOND_MAX, VALUE_CHARACTERS_MAX, Level, Log, trace_of

ROOT = Path(__file__).resolve().parents[1]
SECRET = "4111111111111111"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setenv(FORM_VARIABLE, "json")
    return Log("worker 0")


def said(capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, object]]:
    for line in capsys.readouterr().err.splitlines():
        yield json.loads(line)


def test_a_line_is_one_json_object_with_its_facts(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log("flow refused", level=Level.WARNING, source="10.0.0.1:5", count=3, is_late=False, reason=None)
    (line,) = said(capsys)
    assert list(line) == ["time", "process", "level", "event", "source", "count", "is_late", "reason"]
    assert (line["process"], line["level"], line["event"]) == ("worker 0", "warning", "flow refused")
    assert (line["source"], line["count"], line["is_late"], line["reason"]) == ("10.0.0.1:5", 3, False, None)
    assert str(line["time"]).endswith("Z")
    assert datetime.fromisoformat(str(line["time"])).tzinfo is not None


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_a_peer_had_a_hand_in_cannot_break_out_of_its_line(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FORM_VARIABLE, form)
    Log("control")("catalogue unreadable", database='x\n{"event":"forged"}\x1b[2J\u202e\udcff\x00')
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert all(" " <= character <= "~" for character in printed.rstrip("\n"))


def test_a_fact_cannot_stand_in_the_place_of_who_says_it(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log("worker gone", process="control", time="never")
    (line,) = said(capsys)
    assert line["process"] == "worker 0"
    assert line["time"] != "never"


def test_a_long_value_keeps_its_ends(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log("library", said="a" * 50 + "b" * 100_000 + "c" * 50)
    (line,) = said(capsys)
    assert len(str(line["said"])) == VALUE_CHARACTERS_MAX
    assert str(line["said"]).startswith("a" * 50)
    assert str(line["said"]).endswith("c" * 50)


def test_an_event_that_peers_cause_cannot_fill_the_disk(
    log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("appliance.log.time.monotonic", lambda: now[0])
    for _ in range(10_000):
        log("flow refused")
    log("ending")
    assert len(list(said(capsys))) == LINES_PER_SECOND_MAX + 1
    now[0] += 1
    log("flow refused")
    assert [line["left_out"] for line in said(capsys)] == [10_000 - LINES_PER_SECOND_MAX]


def test_a_trace_says_where_and_not_what() -> None:
    try:
        int(f"x{SECRET}")
    except ValueError as error:
        trace = trace_of(error)
    assert "test_log.py" in trace
    assert trace.endswith("ValueError")
    assert SECRET not in trace


def test_a_closed_standard_error_stops_nothing(log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as closed:
        pass
    monkeypatch.setattr("sys.stderr", closed)
    log("ending")


def test_what_python_and_libraries_say_takes_our_form_without_payload() -> None:
    program = f"""
import asyncio, logging, threading
from appliance.log import Log
Log("worker 3").take_over()
async def scene():
    asyncio.get_running_loop().create_task(fall())
    await asyncio.sleep(0.01)
async def fall():
    raise ValueError("{SECRET}")
asyncio.run(scene())
import gc; gc.collect()
def end(): raise KeyError("{SECRET}")
thread = threading.Thread(target=end); thread.start(); thread.join()
logging.getLogger("uvicorn.error").error("it\\nsaid {SECRET}")
raise ValueError("{SECRET}")
"""
    environment = {"PYTHONPATH": str(ROOT), FORM_VARIABLE: "json"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["library", "fault in a thread", "library", "fault"]
    assert "never retrieved" in lines[0]["said"]
    assert [line.get("trace", "").rpartition("\n")[2] for line in lines] == ["ValueError", "KeyError", "", "ValueError"]
    assert SECRET not in done.stderr
    assert done.returncode == 1


def test_taking_over_leaves_what_is_below_a_warning_unsaid(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    hooks = sys.excepthook
    try:
        log.take_over()
        logging.getLogger("asyncio").info("using a selector")
        logging.getLogger("asyncio").warning("slow")
    finally:
        logging.basicConfig(handlers=before, force=True)
        sys.excepthook = hooks
    assert [line["said"] for line in said(capsys)] == ["slow"]

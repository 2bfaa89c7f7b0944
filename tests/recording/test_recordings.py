"""The commands as people type them: what is printed, and what never is."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.recording.records import Answered, Commanded, Decided, FlowClosed, FlowOpened
from tests.recording.recorded import START, Recorded
from ui.exports import export
from ui.recordings import flows, replay, verify
from ui.terminal import printable

CARD = "4111111111111111"
MILLISECOND = 1_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    recorded = Recorded.begin(tmp_path / "state")
    keeper = recorded.keeper()
    journal = recorded.journal()
    shown, sealed = journal.fit("update customers set card_number = '•••'", f"update customers set card_number = '{CARD}'")
    journal.append_many(
        [
            FlowOpened(
                "a1b2c3",
                START,
                "10.0.0.2:4000",
                "10.0.1.5:5432",
                principal="shop/execute for alice",
                agent="shop",
                phase="execute",
                person="alice",
                groups=("sales",),
                established="source address",
                resource="shop-db",
                protocol="postgres",
            ),
            Commanded("a1b2c3", START, 0, "login", "SCRAM-SHA-256", "own"),
            Commanded(
                "a1b2c3",
                START + 10 * MILLISECOND,
                1,
                "Query",
                "select id, card_number from customers \x1b[2J\u202e where note = '[bold red]x'",
                "forward",
                effects=("read table public.customers (card_number, id) as output",),
                rule="reads (shop.yaml:4)",
                masks=("public.customers.card_number keep",),
            ),
            Answered(
                "a1b2c3",
                START + 15 * MILLISECOND,
                1,
                "SELECT 7",
                columns=("id", "card_number"),
                masked=("card_number",),
                rows=7,
                size=210,
                sample=(("1", "************1111"), ("2", None)),
                digest="abcd",
            ),
            Commanded(
                "a1b2c3", START + 20 * MILLISECOND, 2, "Query", "delete from orders", "hold", rule="deletes (shop.yaml:9)"
            ),
            Decided(
                "a1b2c3",
                START + 5020 * MILLISECOND,
                2,
                "ap-7",
                "modified",
                by="bob",
                shown="delete from orders where id = 1",
            ),
            Commanded(
                "a1b2c3",
                START + 5021 * MILLISECOND,
                2,
                "Query",
                "delete from orders where id = 1",
                "forward",
                rule="deletes (shop.yaml:9)",
                changed_from=2,
                approval="ap-7",
                approver="bob",
            ),
            Answered("a1b2c3", START + 5030 * MILLISECOND, 2, "DELETE 1"),
            Commanded(
                "a1b2c3",
                START + 6000 * MILLISECOND,
                3,
                "Query",
                shown,
                "refuse",
                rule="cards (shop.yaml:20)",
                reason="no",
                sealed=sealed,
            ),
            FlowClosed("a1b2c3", START + 7000 * MILLISECOND, "the client left", 300, 400),
        ]
    )
    journal.close()
    keeper.drain()
    keeper.close()
    return tmp_path / "state"


def _run(command: object, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(command, list(arguments), env={"COLUMNS": "160"})  # type: ignore[arg-type]
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def test_flows_are_listed(state: Path) -> None:
    listed = _run(flows, "--state", str(state))
    for word in ("a1b2c3", "shop", "execute", "alice", "shop-db", "7.0 s"):
        assert word in listed
    (line,) = _run(flows, "--state", str(state), "--json", "--agent", "shop", "--since", "2020-01-01").splitlines()
    found = json.loads(line)
    assert (found["flow"], found["commands"], found["denied"], found["held"]) == ("a1b2c3", 3, 1, 1)
    assert _run(flows, "--state", str(state), "--json", "--since", "1h") == ""
    assert "expected 30s" in _run(flows, "--state", str(state), "--since", "soon", code=2)


def test_a_replay_tells_who_did_what_who_decided_and_how_long_it_took(state: Path) -> None:
    told = _run(replay, "a1", "--state", str(state))
    for words in (
        "by: shop/execute for alice, established by source address",
        "to: shop-db (postgres) at 10.0.1.5:5432",
        "own words: login SCRAM-SHA-256",
        "#1 Query  FORWARD  by rule reads (shop.yaml:4)",
        "effect: read table public.customers (card_number, id) as output",
        "answered SELECT 7  7 rows, 210 bytes  in 5.0 ms",
        "card_number (masked)",
        "************1111",
        "NULL",
        "5 more",
        "#2 Query  HOLD",
        "#2 MODIFIED  by bob  after 5.0 s",
        "instead: delete from orders where id = 1",
        "in place of #2",
        "#3 Query  REFUSE  by rule cards (shop.yaml:20)",
        "closed  the client left",
    ):
        assert words in told, words


def test_nothing_recorded_acts_on_a_terminal(state: Path) -> None:
    told = _run(replay, "a1b2c3", "--state", str(state))
    assert "\\x1b[2J\\u202e" in told
    assert "[bold red]x" in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert printable("a\x00\x9b\u2066\U000e0041é\t\n漢") == "a\\x00\\x9b\\u2066\\U000e0041é\t\n漢"
    for printed in (_run(replay, "a1", "--state", str(state), "--json"), _run(export, "--all", "--state", str(state))):
        assert "\x1b" not in printed
        assert printed.isascii()


def test_exact_texts_come_out_only_when_asked_for_and_with_the_key(state: Path) -> None:
    for command in ((replay, "a1"), (replay, "a1", "--json"), (export, "a1"), (export, "--all")):
        assert CARD not in _run(command[0], *command[1:], "--state", str(state))
    lines = [json.loads(line) for line in _run(export, "a1", "--exact", "--state", str(state)).splitlines()]
    assert [line["exact"] for line in lines if "exact" in line] == [f"update customers set card_number = '{CARD}'"]
    (state / "keys" / "sealing.key").unlink()
    assert CARD not in _run(export, "a1", "--exact", "--state", str(state), code=1)


def test_an_export_carries_each_records_receipt(state: Path) -> None:
    lines = [json.loads(line) for line in _run(export, "--all", "--state", str(state)).splitlines()]
    assert [line["receipt"]["number"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["type"] for line in lines} == {
        "note",
        "journal",
        "flow opened",
        "command",
        "answer",
        "decided",
        "flow closed",
    }
    _run(export, "--state", str(state), code=2)
    _run(export, "a1", "--all", "--state", str(state), code=2)


def test_an_export_to_sqlite_can_be_queried(state: Path, tmp_path: Path) -> None:
    _run(export, "--all", "--format", "sqlite", "--to", str(tmp_path / "out.db"), "--state", str(state))
    rows = sqlite3.connect(tmp_path / "out.db").execute("SELECT number FROM records WHERE outcome = 'refuse'").fetchall()
    assert rows == [(3,)]
    assert "exists" in _run(
        export, "--all", "--format", "sqlite", "--to", str(tmp_path / "out.db"), "--state", str(state), code=2
    )


def test_verify_ends_with_one_word_and_an_exit_code(state: Path) -> None:
    assert _run(verify, "--state", str(state)).splitlines()[-1] == "sound"
    assert json.loads(_run(verify, "--state", str(state), "--json"))["sound"] is True
    connection = sqlite3.connect(state / "recording" / "segment-000001.sqlite")
    connection.execute("DELETE FROM records WHERE seq = 5")
    connection.commit()
    connection.close()
    told = _run(verify, "--state", str(state), code=1)
    assert told.splitlines()[-1] == "NOT SOUND"
    assert "removed: record 5 is missing" in told
    found = json.loads(_run(verify, "--state", str(state), "--json", code=1))
    assert found["sound"] is False
    assert found["findings"][0]["record"] == 5


def test_a_missing_recording_or_flow_is_said(state: Path, tmp_path: Path) -> None:
    assert "there is no recording" in _run(flows, "--state", str(tmp_path / "nowhere"), code=1)
    assert "no such flow" in _run(replay, "zzz", "--state", str(state), code=1)
    assert _run(verify, "--state", str(tmp_path / "nowhere"), code=1)

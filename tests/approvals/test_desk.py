"""The desk with its ledger on disk: what becomes of a held command, whoever speaks and whenever."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.approvals.desk import (
    AMENDING_SECONDS,
    CLAIM_SECONDS,
    OPEN_PER_AGENT_MAX,
    Case,
    Certainty,
    Desk,
    Figure,
    Person,
    Refusal,
    State,
)
from appliance.approvals.ledger import Ledger
from appliance.errors import RecordingError, UnavailableError
from appliance.ipc.messages import Settled, Shown
from appliance.parties import Phase, Principal, Scope

DBA = Person("ada", frozenset({"dba"}), is_approver=True)
OTHER_DBA = Person("bob", frozenset({"dba"}), is_approver=True)
SECURITY = Person("sue", frozenset({"security"}), is_approver=True)
NOBODY = Person("nick", frozenset(), is_approver=False)
ROOT = Person("root", frozenset(), is_approver=False, is_administrator=True)

EXACT = "delete from orders where card = '4111111111111111'"


def shown(
    number: int = 1, flow: str = "flow-1", agent: str = "migrator", exact: str = EXACT, may_amend: bool = True
) -> Shown:
    return Shown(
        flow=flow,
        number=number,
        principal=Principal(agent, Phase.EXECUTE, frozenset({"crew"}), "source address"),
        scope=Scope("shop", "postgres", "shop"),
        sort="Query",
        shown="delete from orders where card = '…'",
        exact=exact,
        parameters=("1", None),
        effects=("delete table public.orders",),
        rule="deletes (rules.yaml:3)",
        reason="deletes are asked for",
        in_transaction=False,
        may_amend=may_amend,
        before=(),
        bound=f"hash of {exact}",
        time=1,
    )


HASH = shown().bound


class Room:
    """A desk on a ledger file, with what it told workers; `restart` is a new desk on the same file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.key = X25519PrivateKey.generate()
        self.settled: list[tuple[int, Settled]] = []
        self.moves: list[Case] = []
        self.ids = (f"a-{number}" for number in itertools.count())
        self.restart(0.0)

    def restart(self, now: float) -> None:
        self.ledger = Ledger(self.file, self.key.public_key().public_bytes_raw())
        self.desk = Desk(self.ledger, self.tell, lambda: next(self.ids), self.moves.append, now)

    def tell(self, owner: int, settled: Settled) -> None:
        self.settled.append((owner, settled))

    def held(self, approvers: frozenset[str] = frozenset({"dba"}), seconds: float = 60.0) -> str:
        return self.desk.ask(7, shown(), approvers, seconds, 100.0)

    def what_happened(self, approval: str) -> list[str]:
        return [one.what for one in self.ledger.history(approval)]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "ledger.sqlite")
    yield made
    made.ledger.close()


def test_an_approval_reaches_the_worker_with_who_said_so(room: Room) -> None:
    approval = room.held()
    room.desk.approve(approval, DBA, HASH, "", 101.0)
    assert room.settled == [(7, Settled(approval, "approved", "ada", frozenset({"dba"})))]
    assert room.desk.waiting() == []
    assert room.what_happened(approval) == ["asked", "approved"]


def test_a_rejection_needs_a_reason_and_carries_it(room: Room) -> None:
    approval = room.held()
    with pytest.raises(Refusal, match="reason"):
        room.desk.reject(approval, DBA, HASH, "  ", 101.0)
    room.desk.reject(approval, DBA, HASH, "not today", 102.0)
    assert room.settled[0][1].outcome == "rejected"
    assert room.settled[0][1].reason == "not today"


def test_an_answer_is_to_what_was_shown_and_to_nothing_else(room: Room) -> None:
    approval = room.held()
    for answer in (room.desk.approve, room.desk.reject):
        with pytest.raises(Refusal, match="not what you were shown"):
            answer(approval, DBA, "hash of another", "why", 101.0)
    with pytest.raises(Refusal, match="not what you were shown"):
        room.desk.edit(approval, DBA, "hash of another", "select 1", "", 101.0)
    assert room.settled == []


def test_the_first_of_two_people_wins_and_the_second_is_told_who_it_was(room: Room) -> None:
    approval = room.held()
    room.desk.reject(approval, DBA, HASH, "no", 101.0)
    with pytest.raises(Refusal, match="was rejected by ada already: no"):
        room.desk.approve(approval, OTHER_DBA, HASH, "", 101.5)
    assert len(room.settled) == 1


@pytest.mark.parametrize(
    ("person", "approvers", "may"),
    [
        (DBA, frozenset({"dba"}), True),
        (DBA, frozenset({"dba", "security"}), True),
        (SECURITY, frozenset({"dba"}), False),
        (SECURITY, frozenset(), True),
        (NOBODY, frozenset(), False),
        (NOBODY, frozenset({"dba"}), False),
        (ROOT, frozenset({"dba"}), True),
    ],
)
def test_only_the_rules_approver_groups_and_root_may_answer(
    room: Room, person: Person, approvers: frozenset[str], may: bool
) -> None:
    approval = room.held(approvers)
    if may:
        room.desk.approve(approval, person, HASH, "", 101.0)
        assert [settled.outcome for _, settled in room.settled] == ["approved"]
        return
    for answer in (room.desk.approve, room.desk.reject):
        with pytest.raises(Refusal, match="may not answer"):
            answer(approval, person, HASH, "why", 101.0)
    with pytest.raises(Refusal, match="may not answer"):
        room.desk.edit(approval, person, HASH, "select 1", "", 101.0)
    with pytest.raises(Refusal, match="may not answer"):
        room.desk.show_exact(approval, person, 101.0)
    assert room.settled == []


def test_root_is_recorded_as_administrator(room: Room) -> None:
    approval = room.held()
    room.desk.approve(approval, ROOT, HASH, "", 101.0)
    assert room.settled[0][1].by == "root (as administrator)"


def test_a_changed_text_is_settled_once_the_worker_runs_it(room: Room) -> None:
    approval = room.held()
    room.desk.edit(approval, DBA, HASH, "delete from orders where id = 1", "narrower", 101.0)
    assert room.settled == [
        (7, Settled(approval, "modified", "ada", frozenset({"dba"}), "narrower", "delete from orders where id = 1"))
    ]
    with pytest.raises(Refusal, match="ada has changed it"):
        room.desk.approve(approval, OTHER_DBA, HASH, "", 101.1)
    room.desk.take_amendment(7, approval, 101.2)
    assert room.desk.waiting() == []
    kept = room.ledger.case(approval)
    assert kept is not None
    assert (kept.outcome, kept.by) == ("modified", "ada")
    assert room.what_happened(approval) == ["asked", "amended", "modified"]


def test_a_changed_text_that_cannot_run_opens_the_question_again(room: Room) -> None:
    approval = room.held()
    room.desk.edit(approval, DBA, HASH, "drop table orders", "", 101.0)
    room.desk.refuse_amendment(7, approval, "no rule allows it", 101.1)
    (case,) = room.desk.waiting()
    assert (case.state, case.why, case.by) == (State.OPEN, "no rule allows it", "")
    room.desk.approve(approval, OTHER_DBA, HASH, "", 102.0)
    assert room.settled[-1][1] == Settled(approval, "approved", "bob", frozenset({"dba"}))


def test_only_the_worker_that_holds_a_command_speaks_for_it(room: Room) -> None:
    approval = room.held()
    room.desk.edit(approval, DBA, HASH, "select 1", "", 101.0)
    room.desk.take_amendment(8, approval, 101.1)
    room.desk.refuse_amendment(8, approval, "no", 101.1)
    room.desk.withdraw(8, approval, "no", 101.1)
    room.desk.lose(8, 101.1)
    assert [case.state for case in room.desk.waiting()] == [State.AMENDING]


@pytest.mark.parametrize("text", ["", "  ", EXACT, "x" * ((1 << 20) + 1)])
def test_a_change_that_is_none_is_refused(room: Room, text: str) -> None:
    approval = room.held()
    with pytest.raises(Refusal):
        room.desk.edit(approval, DBA, HASH, text, "", 101.0)
    assert room.settled == []


def test_what_may_not_be_changed_can_only_be_approved_or_rejected(room: Room) -> None:
    request = shown(may_amend=False)
    approval = room.desk.ask(7, request, frozenset(), 60.0, 100.0)
    with pytest.raises(Refusal, match="only approved or rejected"):
        room.desk.edit(approval, DBA, request.bound, "select 1", "", 101.0)


def test_nobody_answers_after_the_deadline(room: Room) -> None:
    approval = room.held(seconds=60.0)
    room.desk.tick(159.9)
    assert room.settled == []
    with pytest.raises(Refusal, match="expired"):
        room.desk.approve(approval, DBA, HASH, "", 160.0)
    room.desk.tick(160.0)
    assert room.settled == [(7, Settled(approval, "expired", reason="nobody answered in time"))]
    room.desk.tick(170.0)
    assert len(room.settled) == 1


def test_a_change_the_worker_never_judges_expires_too(room: Room) -> None:
    approval = room.held(seconds=60.0)
    room.desk.edit(approval, DBA, HASH, "select 1", "", 159.0)
    room.desk.tick(159.0 + AMENDING_SECONDS - 0.1)
    assert len(room.settled) == 1
    room.desk.tick(159.0 + AMENDING_SECONDS)
    assert room.settled[-1][1].outcome == "expired"
    assert room.settled[-1][0] == 7
    assert room.desk.case(approval) is None


def test_a_client_that_leaves_withdraws_and_nobody_is_told_twice(room: Room) -> None:
    approval = room.held()
    room.desk.withdraw(7, approval, "the client left", 101.0)
    with pytest.raises(Refusal, match="was withdrawn already: the client left"):
        room.desk.approve(approval, DBA, HASH, "", 102.0)
    assert room.settled == []


def test_a_dead_workers_questions_are_void(room: Room) -> None:
    first = room.held()
    other = room.desk.ask(8, shown(number=2), frozenset(), 60.0, 100.0)
    room.desk.lose(7, 101.0)
    assert [case.id for case in room.desk.waiting()] == [other]
    kept = room.ledger.case(first)
    assert kept is not None
    assert (kept.outcome, kept.reason) == ("withdrawn", "the worker that held it died")


def test_a_desk_that_restarts_finds_its_questions_when_the_worker_claims_them(room: Room) -> None:
    approval = room.held(seconds=60.0)
    room.restart(110.0)
    with pytest.raises(Refusal, match="not claimed yet"):
        room.desk.approve(approval, DBA, HASH, "", 110.5)
    assert room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 111.0) == approval
    assert room.desk.waiting()[0].deadline == 160.0
    assert room.desk.show_exact(approval, DBA, 111.0).request.exact == EXACT
    room.desk.tick(110.0 + CLAIM_SECONDS)
    room.desk.approve(approval, DBA, HASH, "", 121.0)
    assert room.settled == [(1, Settled(approval, "approved", "ada", frozenset({"dba"})))]


def test_what_nobody_claims_after_a_restart_is_withdrawn(room: Room) -> None:
    approval = room.held()
    room.restart(110.0)
    room.desk.tick(110.0 + CLAIM_SECONDS - 0.1)
    assert len(room.desk.waiting()) == 1
    room.desk.tick(110.0 + CLAIM_SECONDS)
    assert room.desk.waiting() == []
    assert room.what_happened(approval)[-1] == "withdrawn"


def test_a_decision_that_did_not_reach_the_worker_is_told_again(room: Room) -> None:
    approval = room.held()
    room.desk.approve(approval, DBA, HASH, "", 101.0)
    room.settled.clear()
    room.restart(102.0)
    assert room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 103.0) == approval
    assert room.settled == [(1, Settled(approval, "approved", "ada", frozenset({"dba"})))]


def test_a_change_under_way_when_the_desk_restarts_is_open_again(room: Room) -> None:
    approval = room.held()
    room.desk.edit(approval, DBA, HASH, "select 1", "", 101.0)
    room.restart(102.0)
    room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 103.0)
    (case,) = room.desk.waiting()
    assert (case.id, case.state, case.text) == (approval, State.OPEN, "")
    assert "restarted" in case.why


@pytest.mark.parametrize(
    "request_of", [shown(number=2), shown(flow="flow-2"), shown(exact="delete from payroll"), shown(agent="other")]
)
def test_another_command_never_inherits_an_approval(room: Room, request_of: Shown) -> None:
    approval = room.held()
    room.desk.approve(approval, DBA, HASH, "", 101.0)
    room.settled.clear()
    assert room.desk.ask(7, request_of, frozenset({"dba"}), 60.0, 102.0) != approval
    assert room.settled == []


def test_one_agent_cannot_fill_the_desk(room: Room) -> None:
    for number in range(OPEN_PER_AGENT_MAX):
        room.desk.ask(7, shown(number=number), frozenset(), 60.0, 100.0)
    with pytest.raises(UnavailableError, match="too many commands of migrator"):
        room.desk.ask(7, shown(number=1000), frozenset(), 60.0, 100.0)
    room.desk.ask(7, shown(number=1000, agent="other"), frozenset(), 60.0, 100.0)


def test_ids_never_come_twice(room: Room) -> None:
    first = room.held()
    room.ids = (name for name in (first, first, "a-new"))
    assert room.desk.ask(7, shown(number=2), frozenset(), 60.0, 100.0) == "a-new"


def test_both_texts_are_kept_sealed_and_neither_stands_in_the_file(room: Room) -> None:
    approval = room.held()
    room.desk.edit(approval, DBA, HASH, "delete from orders where card = '5500005555555559'", "", 101.0)
    room.desk.take_amendment(7, approval, 101.1)
    assert room.ledger.exact_texts(approval, room.key) == [
        ("asked", EXACT),
        ("amended", "delete from orders where card = '5500005555555559'"),
    ]
    content = b"".join(file.read_bytes() for file in room.file.parent.iterdir())
    assert b"hash of delete" in content  # the request itself is there
    assert b"5500005555555559" not in content
    assert EXACT.encode() not in content.replace(b"hash of " + EXACT.encode(), b"")
    with pytest.raises(RecordingError):
        room.ledger.exact_texts(approval, X25519PrivateKey.generate())


def test_that_the_exact_text_was_shown_is_kept(room: Room) -> None:
    approval = room.held()
    room.desk.show_exact(approval, DBA, 101.0)
    assert [(one.what, one.by) for one in room.ledger.history(approval)][-1] == ("exact text shown", "ada")


def test_a_decision_that_cannot_be_kept_is_not_made(room: Room) -> None:
    approval = room.held()
    with sqlite3.connect(room.file) as spoiler:
        spoiler.execute("drop table happenings")
    with pytest.raises(RecordingError):
        room.desk.approve(approval, DBA, HASH, "", 101.0)
    assert room.settled == []
    assert [case.state for case in room.desk.waiting()] == [State.OPEN]


# What a command would do.

FIGURES = (Figure("public.orders", "3 rows deleted", "", Certainty.COUNTED),)


def test_figures_are_kept_as_they_were_when_it_was_decided(room: Room) -> None:
    approval = room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 0.0)
    room.desk.inform(approval, FIGURES, 1.0)
    room.restart(2.0)
    assert [case.blast for case in room.desk.waiting()] == [FIGURES]
    assert room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 2.0) == approval
    room.desk.approve(approval, DBA, HASH, "", 3.0)
    room.desk.inform(approval, (), 4.0)
    kept = room.ledger.case(approval)
    assert kept is not None
    assert (kept.blast, kept.request.bound) == (FIGURES, HASH)
    assert [one.what for one in room.ledger.history(approval)] == ["asked", "figures shown", "claimed again", "approved"]


def test_a_ledger_from_before_there_were_figures_is_read(room: Room) -> None:
    approval = room.desk.ask(1, shown(), frozenset({"dba"}), 60.0, 0.0)
    room.ledger.close()
    with sqlite3.connect(room.file) as connection:
        connection.execute("alter table approvals drop column blast")
    room.restart(1.0)
    assert [(case.id, case.blast) for case in room.desk.waiting()] == [(approval, None)]

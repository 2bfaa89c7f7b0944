"""What becomes of a held command: each row of the table in docs/protocols/postgres.md, with real clients."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, QueryCanceled
from psycopg.pq import TransactionStatus

from lab.machines import Place
from tests.whole_machine.scene import POLICY, Client, Scene, play, until
from ui.conversation import NoAnswer, Refused

pytestmark = pytest.mark.real

SIMPLE = ("delete from staging where id = 7", None)
EXTENDED = ("delete from staging where id = %s", (7,))
both_protocols = pytest.mark.parametrize("command", [SIMPLE, EXTENDED], ids=["simple", "extended"])

Command = tuple[str, tuple[Any, ...] | None]


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with play(f"test-{secrets.token_hex(4)}") as scene:
        yield scene


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    stage.refill()
    yield stage
    stage.leave()
    until(lambda: not stage.ask("approvals.list")["approvals"])


def decisions(scene: Scene, case: dict[str, Any]) -> list[dict[str, Any]]:
    """What was recorded of a held command's end."""
    found = scene.records(case["flow"])
    held = [one for one in found if one["type"] == "command" and one["outcome"] == "hold"]
    assert [one["number"] for one in held] == [case["number"]]
    ends = [one for one in found if one["type"] == "decided" and one["number"] == case["number"]]
    # A client may be gone before its worker has heard the number of the approval.
    assert {one["approval"] for one in ends if one["outcome"] != "withdrawn"} <= {case["id"]}
    return ends


def own_words(scene: Scene, case: dict[str, Any]) -> list[str]:
    """Our own words toward the target, as recorded for that flow."""
    return [one["shown"] for one in scene.records(case["flow"]) if one["type"] == "command" and one["outcome"] == "own"]


@both_protocols
def test_a_hold_shows_within_a_second_and_the_client_is_told(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    began = time.monotonic()
    case = scene.held("delete from staging")
    assert time.monotonic() - began < 1
    until(lambda: client.notices)
    assert "a person is being asked" in client.notices[0]
    assert "deletions" in client.notices[0]
    assert client.is_waiting
    shown = scene.show(case["id"])
    assert shown["parameters"] == ([] if command[1] is None else ["7"])
    assert scene.staged() == 20
    # In the extended protocol the Parse is there, which runs nothing; the server counts as active until the Sync.
    assert client.at_target("wait_event, state") == [("ClientRead", "idle" if command is SIMPLE else "active")]
    scene.answer("reject", case, reason="seen enough")
    client.outcome()


@both_protocols
def test_what_it_would_do_is_shown_while_it_waits_and_does_nothing(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    until(lambda: scene.show(case["id"])["blast"] is not None)
    lines = [(one["label"], one["value"], one["state"]) for one in scene.show(case["id"])["blast"]]
    assert lines[0] == ("public.staging", "1 row deleted", "counted")
    assert lines[1] == ("planner's estimate", "about 1 row", "estimated")
    assert lines[-1] == ("worked out as", "shop_owner", "fact")
    assert scene.staged() == 20
    ours = "select 1 from pg_stat_activity where application_name = 'sluicegate blast radius'"
    until(lambda: not scene.lab.admin(ours))
    scene.answer("reject", case, reason="seen enough")
    client.outcome()


@both_protocols
def test_what_is_approved_runs_as_it_was_sent(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    before = len(scene.logged("delete from staging"))
    scene.answer("approve", case)
    assert client.outcome() == "DELETE 1"
    assert scene.staged() == 19
    sent = scene.logged("delete from staging")[before:]
    assert [line.partition(": ")[2] for line in sent] == [command[0].replace("%s", "$1")]
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["by"]) == ("approved", "root")
    answers = [one for one in scene.records(case["flow"]) if one["type"] == "answer"]
    assert answers[-1]["status"] == "DELETE 1"
    assert answers[-1]["number"] == case["number"]


@both_protocols
def test_what_is_rejected_tells_the_client_why_and_the_session_goes_on(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    before = len(scene.logged("delete from staging"))
    scene.answer("reject", case, reason="not on a Friday")
    error = client.outcome()
    assert isinstance(error, InsufficientPrivilege)
    assert "not on a Friday" in str(error)
    assert client.run("select 1") == [(1,)]
    assert scene.staged() == 20
    assert len(scene.logged("delete from staging")) == before
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["by"], end["reason"]) == ("rejected", "root", "not on a Friday")
    assert any("SLUICEGATE REFUSED" in words for words in own_words(scene, case))


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (SIMPLE, "delete from staging where id = 8"),
        (EXTENDED, "delete from staging where id = $1 + 1"),
    ],
    ids=["simple", "extended"],
)
def test_what_is_changed_runs_instead_and_both_texts_are_kept(scene: Scene, command: Command, instead: str) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    scene.answer("edit", case, text=instead)
    assert client.outcome() == "DELETE 1"
    assert scene.lab.admin("select id from staging where id in (7, 8)") == [(7,)]
    assert any("what runs instead" in notice and instead in notice for notice in client.notices)
    records = [one for one in scene.records(case["flow"]) if one["type"] == "command" and "staging" in one["shown"]]
    held = [one for one in records if one["outcome"] == "hold"]
    changed = [one for one in records if one.get("changed_from") == case["number"]]
    assert [one["shown"] for one in held] == [command[0].replace("%s", "$1")]
    assert [(one["shown"], one["outcome"], one["approver"]) for one in changed] == [(instead, "forward", "root")]
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["by"], end["shown"]) == ("modified", "root", instead)
    # The session is as the client left it.
    assert client.run("select count(*) from staging where id = %s", (8,)) == [(0,)]


@pytest.mark.parametrize(
    ("command", "instead", "why"),
    [
        (SIMPLE, "delete form staging", "syntax error"),
        (EXTENDED, "delete form staging where id = $1", "syntax error"),
        (SIMPLE, "delete from staging where id = $1", "1 parameters where 0"),
        (EXTENDED, "delete from staging where id = 8", "0 parameters where 1"),
        (EXTENDED, "delete from staging where id in ($1, $2)", "2 parameters where 1"),
        (SIMPLE, "delete from staging where id = 8 returning id", "returns rows"),
        (EXTENDED, "delete from staging where id = $1 returning id", "returns rows"),
        (SIMPLE, "select id from staging", "returns rows"),
        (SIMPLE, "delete from payroll where id = 1", "payroll is nobody's business"),
        (EXTENDED, "delete from payroll where id = $1", "payroll is nobody's business"),
        (SIMPLE, "delete from staging where id = 8; delete from staging where id = 9", "2 statements where 1"),
        (SIMPLE, "delete from audit_log where id = 1", "security"),
        (SIMPLE, "commit", "changes the session or the transaction"),
        (SIMPLE, "delete from no_such_table", "no_such_table"),
    ],
)
def test_a_change_that_cannot_stand_in_leaves_the_command_waiting(
    scene: Scene, command: Command, instead: str, why: str
) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    # By one who is an approver and no more: root may answer for every group.
    done = scene.answer_as(61022, "edit", case["id"], "--text", instead)
    assert done.returncode == 1
    assert why in done.stderr
    assert client.is_waiting
    assert scene.held("delete from staging")["id"] == case["id"]
    scene.answer("approve", case)
    assert client.outcome() == "DELETE 1"
    assert scene.lab.admin("select count(*) from staging where id = 7") == [(0,)]
    assert scene.staged() == 19


@pytest.mark.parametrize("parameters", [None, ("staging",)], ids=["simple", "extended"])
def test_nobody_answers_in_time(scene: Scene, parameters: tuple[str] | None) -> None:
    client = scene.client()
    if parameters is None:
        client.begin("truncate staging")
    else:
        # What has no parameters goes by the extended protocol where it is prepared.
        client.begin_work(lambda: client.connection.execute("truncate staging", prepare=True).statusmessage)
    began = time.monotonic()
    case = scene.held("truncate staging")
    error = client.outcome()
    assert time.monotonic() - began < 2.5
    assert isinstance(error, InsufficientPrivilege)
    assert "nobody answered within 1 seconds" in str(error)
    assert client.run("select 1") == [(1,)]
    assert scene.staged() == 20
    (end,) = decisions(scene, case)
    assert end["outcome"] == "expired"
    with pytest.raises(Refused, match="expired"):
        scene.answer("approve", case)


@both_protocols
def test_a_client_that_leaves_takes_its_question_and_its_transaction_along(scene: Scene, command: Command) -> None:
    client = scene.client(autocommit=False)
    client.run("update staging set v = 'changed' where id = 1")
    client.begin(*command)
    case = scene.held("delete from staging")
    client.break_off()
    assert isinstance(client.outcome(), psycopg.OperationalError)
    until(lambda: not client.at_target("1"))
    assert scene.lab.admin("select v from staging where id = 1") == [("v1",)]
    assert scene.staged() == 20
    until(lambda: scene.show(case["id"])["outcome"] == "withdrawn")
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["reason"]) == ("withdrawn", "the client left while it waited")
    with pytest.raises(Refused, match="withdrawn"):
        scene.answer("approve", case)


@both_protocols
def test_a_cancel_request_takes_the_question_back(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    client.cancel()
    assert isinstance(client.outcome(), QueryCanceled)
    assert client.run("select 1") == [(1,)]
    assert scene.staged() == 20
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["reason"]) == ("withdrawn", "cancelled by the client")
    with pytest.raises(Refused, match="withdrawn"):
        scene.answer("approve", case)


@both_protocols
def test_a_worker_that_dies_breaks_the_connection_and_nothing_ran(scene: Scene, command: Command) -> None:
    client = scene.client(autocommit=False)
    client.run("update staging set v = 'changed' where id = 1")
    client.begin(*command)
    case = scene.held("delete from staging")
    os.kill(scene.worker_of(case["flow"]), signal.SIGKILL)
    assert isinstance(client.outcome(), psycopg.OperationalError)
    until(lambda: not client.at_target("1"))
    assert scene.lab.admin("select v from staging where id = 1") == [("v1",)]
    assert scene.staged() == 20
    until(lambda: scene.show(case["id"])["outcome"] == "withdrawn")
    assert "worker" in scene.show(case["id"])["reason"]
    assert decisions(scene, case) == []
    with pytest.raises(Refused, match="withdrawn"):
        scene.answer("approve", case)
    until(lambda: len(scene.workers()) == 2)


@both_protocols
def test_a_question_outlives_the_desk(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    (control,) = scene.children("control")
    os.kill(control, signal.SIGKILL)
    until(lambda: len(scene.workers()) == 2)
    assert client.is_waiting
    again = scene.held("delete from staging")
    assert (again["id"], again["bound"]) == (case["id"], case["bound"])
    until(lambda: _answered(scene, case))
    assert client.outcome() == "DELETE 1"
    assert scene.staged() == 19
    (end,) = decisions(scene, case)
    assert end["outcome"] == "approved"


def _answered(scene: Scene, case: dict[str, Any]) -> bool:
    """Whether an approval is taken: a desk that has just come back waits for the worker to claim it."""
    try:
        scene.answer("approve", case)
    except (NoAnswer, Refused):
        return False
    return True


@both_protocols
def test_of_two_people_the_first_is_heard_and_the_second_is_told(scene: Scene, command: Command) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    said: dict[str, str] = {}

    def answer(verb: str) -> None:
        try:
            said[verb] = str(scene.answer(verb, case, reason="two of us")["outcome"])
        except Refused as refused:
            said[verb] = str(refused)

    people = [threading.Thread(target=answer, args=(verb,)) for verb in ("approve", "reject")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    outcome = client.outcome()
    assert said["approve"] == "approved" or said["reject"] == "rejected"
    is_approved = said["approve"] == "approved"
    assert "already" in said["reject" if is_approved else "approve"]
    assert (outcome == "DELETE 1") is is_approved
    assert scene.staged() == (19 if is_approved else 20)
    (end,) = decisions(scene, case)
    assert end["outcome"] == ("approved" if is_approved else "rejected")


@both_protocols
@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_a_hold_inside_a_transaction_keeps_it_open_and_a_refusal_fails_it(scene: Scene, command: Command, verb: str) -> None:
    client = scene.client(autocommit=False)
    client.run("update staging set v = 'changed' where id = 1")
    client.begin(*command)
    case = scene.held("delete from staging")
    assert scene.show(case["id"])["in_transaction"] is True
    state = "idle in transaction" if command is SIMPLE else "active"
    assert client.at_target("wait_event, state, xact_start is null") == [("ClientRead", state, False)]
    held = scene.lab.admin(
        f"select count(*) from pg_locks where pid = {client.backend} and mode = 'RowExclusiveLock' "
        "and relation = 'staging'::regclass"
    )
    assert held == [(1,)]
    scene.answer(verb, case, reason="for the test")
    outcome = client.outcome()
    if verb == "approve":
        assert outcome == "DELETE 1"
        assert client.connection.info.transaction_status is TransactionStatus.INTRANS
        client.connection.commit()
        assert scene.staged() == 19
        assert scene.lab.admin("select v from staging where id = 1") == [("changed",)]
    else:
        assert isinstance(outcome, InsufficientPrivilege)
        assert client.connection.info.transaction_status is TransactionStatus.INERROR
        assert client.connection.execute("commit").statusmessage == "ROLLBACK"
        assert scene.staged() == 20
        assert scene.lab.admin("select v from staging where id = 1") == [("v1",)]
    held_records = [one for one in scene.records(case["flow"]) if one.get("outcome") == "hold"]
    assert len(held_records) == 1


def test_only_those_of_the_rules_group_may_answer(scene: Scene) -> None:
    client = scene.client()
    client.begin("delete from audit_log")
    case = scene.held("delete from audit_log")
    for words in (["approve"], ["reject", "--reason", "no"], ["edit", "--text", "delete from audit_log where false"]):
        done = scene.answer_as(61022, words[0], case["id"], *words[1:])
        assert done.returncode == 1
        assert "may not answer" in done.stderr
    assert scene.answer_as(61023, "approve", case["id"]).returncode == 3
    assert client.is_waiting
    assert scene.lab.admin("select count(*) from audit_log") == [(5,)]
    assert scene.answer_as(61021, "approve", case["id"]).returncode == 0
    assert client.outcome() == "DELETE 5"
    (end,) = decisions(scene, case)
    assert (end["outcome"], end["by"]) == ("approved", "61021")


@both_protocols
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("objects: [public.payroll]", "objects: [public.payroll, public.staging]", "the policy has changed"),
        ("approvers: [dba]\n    seconds: 60", "approvers: [security]\n    seconds: 60", "now asks for security"),
    ],
    ids=["denied", "other approvers"],
)
def test_what_the_policy_in_force_does_not_leave_to_the_approver_does_not_run(
    scene: Scene, command: Command, old: str, new: str, why: str
) -> None:
    client = scene.client()
    client.begin(*command)
    case = scene.held("delete from staging")
    file = scene.policies / "shop.yaml"
    changed = POLICY.replace(old, new)
    assert changed != POLICY
    file.write_text(changed)
    try:
        assert scene.ask("policy.reload")["changed"]
        scene.answer("approve", case)
        error = client.outcome()
    finally:
        file.write_text(POLICY)
        scene.ask("policy.reload")
    assert isinstance(error, InsufficientPrivilege)
    assert why in str(error)
    assert scene.staged() == 20
    (end,) = decisions(scene, case)
    assert end["outcome"] == "withdrawn"
    assert why in end["reason"]


def test_what_was_sent_behind_a_held_command_waits_and_is_answered_in_order(scene: Scene) -> None:
    client = scene.client()
    marks = [f"mark_{secrets.token_hex(4)}" for _ in range(3)]

    def work() -> list[Any]:
        with client.connection.pipeline() as pipeline:
            cursors = [
                client.connection.execute(f"select 1 as {marks[0]}"),
                client.connection.execute("delete from staging where id = %s returning id", (7,)),
                client.connection.execute(f"select count(*) as {marks[1]} from staging"),
                client.connection.execute(f"select %s::int as {marks[2]}", (3,)),
            ]
            pipeline.sync()
            return [cursor.fetchall() for cursor in cursors]

    client.begin_work(work)
    case = scene.held("delete from staging")
    assert scene.logged(marks[1]) == scene.logged(marks[2]) == []
    assert client.is_waiting
    scene.answer("approve", case)
    assert client.outcome() == [[(1,)], [(7,)], [(19,)], [(3,)]]
    assert len(scene.logged(marks[1])) == len(scene.logged(marks[2])) == 1


def test_a_running_query_is_cancelled_by_whichever_worker_gets_the_request(scene: Scene) -> None:
    clients: list[Client] = []

    def is_spread() -> bool:
        clients.append(scene.client())
        carried = {one["worker"] for one in scene.ask("flows.live")}
        return len(clients) >= 8 and len(carried) == 2

    until(is_spread)
    for client in clients:
        client.begin("select pg_sleep(60)")
    for client in clients:
        until(lambda client=client: client.at_target("wait_event") == [("PgSleep",)])
    for client in clients:
        # The kernel chooses its worker: with this many, both get some of the other's.
        client.cancel()
    for client in clients:
        assert isinstance(client.outcome(), QueryCanceled)
        assert client.run("select 1") == [(1,)]


def test_psql_reads_what_happened_to_its_command(scene: Scene) -> None:
    psql = scene.lab.start_in(
        Place.EXECUTOR, ["psql", "--no-psqlrc", "-v", "VERBOSITY=verbose", "-c", SIMPLE[0], "-c", "select 'after'"]
    )
    case = scene.held("delete from staging")
    scene.answer("reject", case, reason="not on a Friday")
    out, error = psql.communicate(timeout=15)
    assert "NOTICE:  01000: a person is being asked" in error
    assert "ERROR:  42501: refused" in error
    assert "not on a Friday" in error
    assert "after" in out

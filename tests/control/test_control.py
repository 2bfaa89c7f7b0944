"""The control process as it runs: its own process, real sockets, a real PostgreSQL, and the real command line."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from appliance.errors import UnavailableError
from appliance.ipc.channel import connect
from appliance.ipc.messages import (
    AccountWanted,
    AmendmentRefused,
    AmendmentTaken,
    CancelFlow,
    CancelWanted,
    CatalogueChanged,
    CatalogueStale,
    ChallengeSet,
    FlowGone,
    FlowSeen,
    KeyRegistered,
    Leaf,
    LeafWanted,
    Leave,
    Message,
    PolicyChanged,
    Settled,
    Withdraw,
)
from appliance.parties import Endpoint
from appliance.recording.journal import Journal
from appliance.recording.records import FlowOpened
from tests.control.hosting import PLANNER, PRINCIPAL, SECONDS, USER_OF_NO_CONFIGURATION, Hosted, hold, run, shown, worker
from tests.scratch_postgres import ScratchPostgres

# Workers.


def test_a_worker_is_welcomed_with_policy_seal_key_and_journals(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            assert one.welcome is not None
            assert [name for name, _ in one.welcome.policy_files] == ["policies/rules.yaml"]
            assert len(one.welcome.seal_key) == 32
            assert one.welcome.journals == str(hosted.folder / "state" / "journals")
            assert await one.call(lambda call: AccountWanted(call, "shop")) == b"postgres"
            leaf = msgspec.msgpack.decode(
                await one.call(lambda call: LeafWanted(call, "shop", None, "127.0.0.1")), type=Leaf
            )
            assert leaf.key.startswith(b"-----BEGIN PRIVATE KEY")
            answer = await one.call(lambda call: ChallengeSet(call, "shop", "flow", "md5", "only", b"SALT"))
            assert answer.startswith(b"md5")

    run(body())


def test_a_worker_that_does_not_say_hello_first_gets_nothing(hosted: Hosted) -> None:
    async def body() -> None:
        lost = asyncio.Event()
        channel = await connect(hosted.workers, lambda _: None, lost.set)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(channel.call(lambda call: AccountWanted(call, "shop")), SECONDS)
        await asyncio.wait_for(lost.wait(), SECONDS)

    run(body())


@pytest.mark.parametrize("name", ["control-workers.sock", "control-people.sock"])
def test_another_user_is_turned_away_at_both_sockets(hosted: Hosted, name: str) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
        "try:\n s.sendall(bytes(4)); print(len(s.recv(1)))\n"
        "except (ConnectionResetError, BrokenPipeError): print(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(hosted.folder / "run" / name)],
        user=USER_OF_NO_CONFIGURATION,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "0\n", done.stderr


def test_a_policy_that_breaks_keeps_the_old_one_and_says_so(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, worker(hosted, 1) as other:
            assert one.welcome is not None
            sound = hosted.policy.read_text()
            hosted.policy.write_text("rules: [")
            code, _, errors = await hosted.command("policy", "reload")
            assert code == 1
            assert "old policy stays in force" in errors
            code, output, _ = await hosted.command("status", "--json")
            state = json.loads(output)["policy"]
            assert (code, state["version"]) == (1, one.welcome.policy_version)
            assert "policies/rules.yaml" in state["fault"]
            async with worker(hosted, 2) as late:
                assert late.welcome is not None
                assert late.welcome.policy_version == one.welcome.policy_version
            # Without being told: control looks at the files by itself.
            hosted.policy.write_text(sound + "\n# changed\n")
            for each in (one, other):
                changed = await each.hear(PolicyChanged)
                assert changed.version != one.welcome.policy_version
                assert changed.files[0][1].endswith("# changed\n")
            assert (await hosted.command("status"))[0] == 0
            assert "policy unfit" in hosted.said()

    run(body())


def test_an_unfit_policy_at_the_start_is_an_error_with_its_place(hosted: Hosted) -> None:
    hosted.end()
    hosted.policy.write_text("rules:\n  - id: x\n    alow: [read]\n")
    with pytest.raises(AssertionError, match="cannot start"):
        hosted.start()
    assert "policies/rules.yaml:" in hosted.said()


# Catalogues.


def test_a_catalogue_is_read_and_noticed_to_change(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int primary key, note text)")

    async def body() -> None:
        async with worker(hosted) as one, worker(hosted, 1) as other:
            first, again = await asyncio.gather(one.catalogue(database), other.catalogue(database))
            assert first.version == again.version
            assert [column.name for column in first.relation_by_name[("public", "orders")].columns] == ["id", "note"]
            await asyncio.to_thread(scratch_postgres.run, "alter table orders add secret text", database)
            newer = await one.catalogue(database, first.version)
            assert newer.version != first.version
            assert len(newer.relation_by_name[("public", "orders")].columns) == 3
            assert await other.hear(CatalogueStale) == CatalogueStale("shop", database)

    run(body())


def test_a_change_from_outside_reaches_workers_that_have_flows(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int)")

    async def body() -> None:
        async with worker(hosted) as one:
            await one.catalogue(database)
            one.channel.tell(
                FlowSeen("f", PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1, database)
            )
            await one.settled_before_this()
            await asyncio.to_thread(scratch_postgres.run, "create table more (id int)", database)
            assert await one.hear(CatalogueStale) == CatalogueStale("shop", database)

    run(body())


def test_a_worker_that_changed_a_catalogue_makes_the_others_forget_it(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, worker(hosted, 1) as other:
            one.channel.tell(CatalogueChanged("shop", "postgres"))
            assert await other.hear(CatalogueStale) == CatalogueStale("shop", "postgres")
            await one.settled_before_this()
            assert one.heard.empty()

    run(body())


def test_a_connection_that_the_target_ended_is_made_anew(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int)")

    async def body() -> None:
        async with worker(hosted) as one:
            first = await one.catalogue(database)
            ended = await asyncio.to_thread(
                scratch_postgres.run,
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                f"where application_name = 'sluicegate catalogue' and datname = '{database}'",
            )
            assert ended == [(True,)]
            assert (await one.catalogue(database)).version == first.version

    run(body())


def test_a_table_named_like_the_servers_own_does_not_fool_the_reading(
    hosted: Hosted, scratch_postgres: ScratchPostgres
) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int)")

    async def body() -> None:
        async with worker(hosted) as one:
            first = await one.catalogue(database)
            await asyncio.to_thread(
                scratch_postgres.run,
                f"create table public.pg_class as select * from pg_catalog.pg_class where false; "
                f"alter database {database} set search_path = public, pg_catalog",
                database,
            )
            newer = await one.catalogue(database, first.version)
            assert ("public", "orders") in newer.relation_by_name
            assert ("public", "pg_class") in newer.relation_by_name

    run(body())


@pytest.mark.parametrize("database", ["no_such_database", "", "x" * 64, "a\0b"])
def test_a_database_that_cannot_be_read_is_a_failure_without_the_password(hosted: Hosted, database: str) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            with pytest.raises(UnavailableError) as caught:
                await one.catalogue(database)
            assert "pencil" not in str(caught.value)
            assert "pencil" not in hosted.said()

    run(body())


def test_readings_are_read_only_and_named(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int)")

    async def body() -> None:
        async with worker(hosted) as one:
            await one.catalogue(database)
            rows = await asyncio.to_thread(
                scratch_postgres.run,
                f"select application_name, state from pg_stat_activity where datname = '{database}'",
            )
            assert rows == [("sluicegate catalogue", "idle")]

    run(body())


# Cancelling and live flows.


def test_a_cancel_finds_its_flow_on_any_worker_but_only_for_the_same_principal(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, worker(hosted, 1) as other:
            key = b"12345678"
            one.channel.tell(KeyRegistered(key, "f", PRINCIPAL, "shop"))
            await one.settled_before_this()
            for wanted in (
                (key, PLANNER, "shop"),
                (key, PRINCIPAL, "another"),
                (b"87654321", PRINCIPAL, "shop"),
            ):
                assert await other.call(lambda call, wanted=wanted: CancelWanted(call, *wanted)) == b""  # type: ignore[misc]
            # Another worker cannot take the key over.
            other.channel.tell(KeyRegistered(key, "g", PLANNER, "shop"))
            assert await other.call(lambda call: CancelWanted(call, key, PRINCIPAL, "shop")) == b"1"
            assert await one.hear(CancelFlow) == CancelFlow(key)

    run(body())


def test_live_flows_are_listed_until_they_end_or_their_worker_does(hosted: Hosted) -> None:
    async def flows() -> list[str]:
        code, output, errors = await hosted.command("flows", "--live", "--json")
        assert code == 0, errors
        return [json.loads(line)["flow"] for line in output.splitlines()]

    async def body() -> None:
        async with worker(hosted) as one:
            async with worker(hosted, 1) as other:
                for each, name in ((one, "a"), (one, "b"), (other, "c")):
                    each.channel.tell(
                        FlowSeen(name, PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1)
                    )
                    await each.settled_before_this()
                assert await flows() == ["a", "b", "c"]
                one.channel.tell(FlowGone("a"))
                await one.settled_before_this()
                assert await flows() == ["b", "c"]
            assert await flows() == ["b"]

    run(body())


# Approvals, by the command line.


def test_a_person_sees_a_held_command_and_approves_what_was_shown(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown())
            code, output, _ = await hosted.command("approvals", "list", "--json")
            (listed,) = json.loads(output)
            assert (code, listed["id"], listed["bound"]) == (0, approval, "bound-flow-1-1")
            assert 50 < listed["remaining"] <= 60
            code, output, _ = await hosted.command("approvals", "show", approval)
            assert code == 0
            assert "delete from orders" in output
            assert "exact words" not in output
            code, output, _ = await hosted.command("approvals", "show", approval, "--exact")
            assert "exact words" in output
            code, _, errors = await hosted.command("approvals", "approve", approval, "--if", "bound of another")
            assert code == 1
            assert "not what you were shown" in errors
            code, output, _ = await hosted.command("approvals", "approve", approval)
            assert (code, output) == (0, f"{approval} approved by root\n")
            assert await one.hear(Settled) == Settled(approval, "approved", "root", frozenset({"dba"}))
            code, _, errors = await hosted.command("approvals", "reject", approval, "--reason", "late")
            assert code == 1
            assert "was approved by root already" in errors

    run(body())


def test_a_rejection_by_command_needs_a_reason(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown())
            assert (await hosted.command("approvals", "reject", approval))[0] == 2
            assert (await hosted.command("approvals", "reject", approval, "--reason", "not today"))[0] == 0
            assert (await one.hear(Settled)).reason == "not today"

    run(body())


def test_an_approver_is_known_by_the_user_that_connects_and_answers_for_its_groups_alone(hosted: Hosted) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid

    async def body() -> None:
        async with worker(hosted) as one:
            for_dba = await hold(one, shown())
            for_security = await hold(one, shown(2), frozenset({"security"}))
            code, _, errors = await hosted.command("approvals", "approve", for_dba, user=nobody)
            assert code == 1
            assert "nobody may not answer" in errors
            code, _, errors = await hosted.command("approvals", "show", for_dba, "--exact", user=nobody)
            assert code == 1
            code, _, errors = await hosted.command("policy", "reload", user=nobody)
            assert (code, "only administrators" in errors) == (1, True)
            code, output, errors = await hosted.command("approvals", "approve", for_security, user=nobody)
            assert (code, output) == (0, f"{for_security} approved by nobody\n"), errors
            assert await one.hear(Settled) == Settled(for_security, "approved", "nobody", frozenset({"security"}))

    run(body())


def test_an_edit_waits_for_the_verdict_on_the_changed_text(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown())

            async def edit(text: str, answer: Message) -> tuple[tuple[int, str, str], Settled]:
                person = asyncio.create_task(hosted.command("approvals", "edit", approval, "--text", text))
                hearing = asyncio.create_task(one.hear(Settled))
                await asyncio.wait((person, hearing), return_when=asyncio.FIRST_COMPLETED)
                assert not person.done(), person.result()
                settled: Settled = await hearing
                one.channel.tell(answer)
                return await person, settled

            refused, settled = await edit("drop table orders", AmendmentRefused(approval, "no rule allows it"))
            assert (settled.outcome, settled.text) == ("modified", "drop table orders")
            assert refused[0] == 1
            assert "no rule allows it" in refused[2]
            taken, settled = await edit("delete from orders where id = 1", AmendmentTaken(approval))
            assert settled.groups == frozenset({"dba"})
            assert taken[:2] == (0, f"{approval} modified by root\n")
            output = (await hosted.command("approvals", "show", approval, "--json"))[1]
            history = [one["what"] for one in json.loads(output)["history"]]
            assert history == ["asked", "amended", "amendment refused", "amended", "modified"]

    run(body())


def test_what_may_not_be_changed_is_refused_to_the_person(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown(may_amend=False))
            code, _, errors = await hosted.command("approvals", "edit", approval, "--text", "select 1")
            assert code == 1
            assert "only approved or rejected" in errors

    run(body())


def test_a_hold_expires_by_the_desks_own_clock(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown(), seconds=0.5)
            assert (await one.hear(Settled)).outcome == "expired"
            assert json.loads((await hosted.command("approvals", "list", "--json"))[1]) == []
            assert (await hosted.command("approvals", "approve", approval))[0] == 1

    run(body())


def test_a_withdrawn_or_orphaned_question_leaves_the_list(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            async with worker(hosted, 1) as other:
                first, second = await hold(one, shown()), await hold(other, shown(2))
                one.channel.tell(Withdraw(first, "the client left"))
                await one.settled_before_this()
                listed = json.loads((await hosted.command("approvals", "list", "--json"))[1])
                assert [each["id"] for each in listed] == [second]
            assert json.loads((await hosted.command("approvals", "list", "--json"))[1]) == []
            output = (await hosted.command("approvals", "list", "--settled", "5", "--json"))[1]
            assert {(each["id"], each["reason"]) for each in json.loads(output)} == {
                (first, "the client left"),
                (second, "the worker that held it died"),
            }

    run(body())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_question_outlives_the_desk(hosted: Hosted, how: signal.Signals) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            approval = await hold(one, shown())
            await asyncio.to_thread(hosted.end, how)
            await asyncio.wait_for(one.lost.wait(), SECONDS)
        code, _, errors = await hosted.command("approvals", "list")
        assert code == 3
        assert "does not answer" in errors
        await asyncio.to_thread(hosted.start)
        async with worker(hosted) as one:
            assert await hold(one, shown()) == approval
            assert (await hosted.command("approvals", "approve", approval))[0] == 0
            assert (await one.hear(Settled)).approval == approval

    run(body())


# Recording, and the rest of the command line.


def test_records_are_taken_in_and_verify(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            journal.append(FlowOpened("flow-1", time.time_ns(), "10.1.0.6:1", "10.9.0.1:5432", agent="migrator"))
            assert (await hosted.command("drain"))[0] == 0
            code, output, errors = await hosted.command("flows", "--json")
            assert code == 0, errors
            assert "flow-1" in output
            assert (await hosted.command("verify"))[0] == 0
            journal.close()

    run(body())


def damage(journals: Path) -> None:
    (file,) = journals.glob("*.journal")
    with file.open("ab") as tail:
        tail.write(b"\0\0\0\1" + bytes(33))


def test_a_worker_whose_journal_is_tampered_with_is_told_to_leave_and_answered_no_more(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            journal.append(FlowOpened("flow-1", time.time_ns(), "10.1.0.6:1", "10.9.0.1:5432", agent="migrator"))
            assert (await hosted.command("drain"))[0] == 0
            damage(Path(one.welcome.journals))
            assert "broken chain" in (await one.hear(Leave)).reason
            await asyncio.wait_for(one.lost.wait(), SECONDS)
            # This process, its worker, stays and comes again: so it may lie, too.
            with pytest.raises(UnavailableError):
                async with worker(hosted):
                    pass
            journal.close()

    run(body())
    assert "worker distrusted" in hosted.said()


def test_the_appliance_ends_in_good_order(hosted: Hosted) -> None:
    assert hosted.end() == 0
    assert "Traceback" not in hosted.said()


def test_without_a_worker_the_status_is_a_warning(hosted: Hosted) -> None:
    done = hosted.run("status")
    assert done.returncode == 1
    assert "NO WORKER SERVES" in done.stdout


def test_the_authority_is_shown(hosted: Hosted) -> None:
    done = hosted.run("authority", "show")
    assert done.returncode == 0
    assert done.stdout.startswith("-----BEGIN CERTIFICATE-----")


def test_a_command_is_explained_by_the_live_catalogue(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    database = scratch_postgres.fresh_database("create table orders (id int)")
    words = ["policy", "explain", "--agent", "migrator", "--resource", "shop", "--database", database, "--phase"]
    done = hosted.run(*words, "execute", "--command", "select id from orders")
    assert done.returncode == 0, done.stderr
    assert "public.orders" in done.stdout
    done = hosted.run(*words, "execute", "--command", "select 1", "--agent", "nobody")
    assert done.returncode == 1
    assert "no agent nobody" in done.stderr


def test_a_placeholder_is_a_verifier_that_postgresql_knows_as_one(hosted: Hosted, scratch_postgres: ScratchPostgres) -> None:
    made = json.loads(hosted.run("agents", "placeholder", "--json").stdout)
    role = f"placeholder_{os.getpid()}"
    scratch_postgres.run(f"create role {role} login password '{made['placeholder']}'")
    try:
        # What is no verifier would be hashed, and stored as something else.
        stored = scratch_postgres.run(f"select rolpassword from pg_authid where rolname = '{role}'")
        assert stored == [(made["placeholder"],)]
    finally:
        scratch_postgres.run(f"drop role {role}")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--version",), 0),
        (("completion", "bash"), 0),
        (("policy", "schema"), 0),
        (("policy", "check", "policies/example"), 0),
        (("policy", "check", "pyproject.toml"), 1),
        (("nonsense",), 2),
        (("approvals", "show", "a-none"), 1),
    ],
)
def test_exit_codes(hosted: Hosted, words: tuple[str, ...], code: int) -> None:
    done = hosted.run(*words)
    assert done.returncode == code, done.stdout + done.stderr

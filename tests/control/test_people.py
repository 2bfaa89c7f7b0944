"""Who may ask control what: the dashboard's user with and without a session, root, and an approver, over real sockets."""

from __future__ import annotations

import asyncio
import pwd
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.control.people import CALLS_PER_CHANNEL_MAX, VERBS, Rank
from appliance.errors import RefusedByControlError
from appliance.ipc.messages import FlowSeen, Request, Settled
from appliance.parties import Endpoint
from appliance.recording.journal import Journal
from appliance.recording.records import Answered, Commanded, FlowOpened
from tests.control.hosting import DASHBOARD_UID, PRINCIPAL, Asking, Hosted, asking, hold, run, shown, signed_in, worker

GOOD = "correct horse battery"
ANSWER = {"approval": "a-none", "seen": "x", "reason": "r"}

# Every verb: the least rank that may ask it, and arguments that make sense.
TABLE: dict[str, tuple[Rank, dict[str, Any]]] = {
    "approvals.list": (Rank.VIEWER, {}),
    "approvals.wait": (Rank.VIEWER, {"seconds": 0.0}),
    "approvals.show": (Rank.VIEWER, {"approval": "a-none"}),
    "approvals.approve": (Rank.APPROVER, ANSWER),
    "approvals.reject": (Rank.APPROVER, ANSWER),
    "approvals.edit": (Rank.APPROVER, ANSWER | {"text": "select 1"}),
    "approvals.preview": (Rank.APPROVER, {"approval": "a-none", "text": "select 1"}),
    "changes.wait": (Rank.VIEWER, {"seconds": 0.0}),
    "flows.live": (Rank.VIEWER, {}),
    "flows.list": (Rank.VIEWER, {}),
    "flows.show": (Rank.VIEWER, {"flow": "absent"}),
    "status": (Rank.VIEWER, {}),
    "drain": (Rank.APPROVER, {}),
    "policy.show": (Rank.VIEWER, {}),
    "health.show": (Rank.VIEWER, {}),
    "agents.list": (Rank.VIEWER, {}),
    "resources.list": (Rank.VIEWER, {}),
    "policy.reload": (Rank.ADMINISTRATOR, {}),
    "policy.explain": (
        Rank.APPROVER,
        {"agent": "nobody", "phase": "plan", "resource": "shop", "database": "postgres", "command": "select 1"},
    ),
    "dashboard.hello": (Rank.NOBODY, {}),
    "metrics.show": (Rank.NOBODY, {}),
    "dashboard.leaf": (Rank.NOBODY, {}),
    "session.open": (Rank.NOBODY, {"name": "nobody", "password": "x", "address": "10.0.0.1"}),
    "session.redeem": (Rank.NOBODY, {"ticket": "x", "address": "10.0.0.1"}),
    "session.ticket": (Rank.ROOT, {"name": "admin"}),
    "session.who": (Rank.VIEWER, {}),
    "session.close": (Rank.VIEWER, {}),
    "session.password": (Rank.VIEWER, {"old": "x", "new": "y"}),
    "people.list": (Rank.ADMINISTRATOR, {}),
    "people.add": (Rank.ADMINISTRATOR, {"name": "Not A Name", "role": "viewer"}),
    "people.change": (Rank.ADMINISTRATOR, {"name": "nobody"}),
    "people.reset": (Rank.ADMINISTRATOR, {"name": "nobody"}),
    "people.remove": (Rank.ADMINISTRATOR, {"name": "nobody"}),
}
# What the dashboard's process asks for itself, and no other user but root.
DASHBOARDS_OWN = {"dashboard.leaf"}
# What somebody whose password is a one-time one may still do.
BEFORE_CHANGE = {"session.who", "session.close", "session.password"}

ROLES = {Rank.VIEWER: "viewer", Rank.APPROVER: "approver", Rank.ADMINISTRATOR: "administrator"}


def test_every_verb_has_its_row_in_the_table() -> None:
    assert set(TABLE) == set(VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_asks_for_the_rank_of_the_table(verb: str) -> None:
    assert VERBS[verb].least is TABLE[verb][0]
    assert VERBS[verb].before_change is (verb in BEFORE_CHANGE)


def test_every_verb_is_refused_to_every_rank_below_its_own_and_to_no_other(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            for role in ROLES.values():
                await root.ask("people.add", name=f"a-{role}", role=role)
            async with asking(hosted, pwd.getpwnam("nobody").pw_uid) as approver:
                for verb, (least, arguments) in TABLE.items():
                    kind = (await dashboard.answer(verb, **arguments)).get("kind")
                    assert (kind == "signed_out") is (least > Rank.NOBODY), (verb, "without a session", kind)
                    if verb in DASHBOARDS_OWN:
                        assert (await approver.answer(verb, **arguments)).get("kind") == "forbidden"
                        continue
                    for rank, role in ROLES.items():
                        token = await signed_in(root, dashboard, f"a-{role}")
                        kind = (await dashboard.answer(verb, token, **arguments)).get("kind")
                        assert (kind == "forbidden") is (least > rank), (verb, role, kind)
                        assert kind != "signed_out", (verb, role)
                    for asker, rank in ((approver, Rank.APPROVER), (root, Rank.ROOT)):
                        kind = (await asker.answer(verb, **arguments)).get("kind")
                        assert (kind == "forbidden") is (least > rank), (verb, rank, kind)

    run(body())


def test_with_a_one_time_password_nothing_can_be_done_but_to_change_it(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted, DASHBOARD_UID) as dashboard:
            assert (await dashboard.ask("dashboard.hello"))["has_people"] is False
            password = (hosted.folder / "state" / "control" / "first-password").read_text().strip()
            opened = await dashboard.ask("session.open", name="admin", password=password, address="10.0.0.1")
            token = opened["token"]
            assert opened["must_change"] is True
            for verb, (least, arguments) in TABLE.items():
                if least is not Rank.NOBODY and verb not in BEFORE_CHANGE:
                    assert (await dashboard.refused(verb, token, **arguments))["kind"] == "must_change", verb
            who = await dashboard.ask("session.who", token)
            assert (who["csrf"], who["must_change"]) == (opened["csrf"], True)
            changed = await dashboard.ask("session.password", token, old=password, new=GOOD)
            assert changed["token"] != token
            assert changed["csrf"] != opened["csrf"]
            assert (await dashboard.refused("session.who", token))["kind"] == "signed_out"
            assert [one["name"] for one in await dashboard.ask("people.list", changed["token"])] == ["admin"]
            assert not (hosted.folder / "state" / "control" / "first-password").exists()
            assert (await dashboard.ask("dashboard.hello"))["has_people"] is True
            assert await dashboard.ask("session.close", changed["token"]) == {}
            assert (await dashboard.refused("session.who", changed["token"]))["kind"] == "signed_out"

    run(body())


def test_a_session_is_the_dashboards_alone_and_gives_nobody_else_another_rank(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            token = await signed_in(root, dashboard, "admin")
            async with asking(hosted, pwd.getpwnam("nobody").pw_uid) as approver:
                assert (await approver.refused("people.list", token))["kind"] == "forbidden"
                assert (await approver.ask("session.who", token))["person"] == {
                    "name": "nobody",
                    "role": "approver",
                    "groups": ["security"],
                }
                assert (await approver.refused("session.close", token))["ok"] is False
            assert (await dashboard.ask("session.who", token))["person"]["name"] == "admin"

    run(body())


def test_a_ticket_is_roots_to_make_and_good_once(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            made = await root.ask("session.ticket")
            assert made["name"] == "admin"
            first, second = await asyncio.gather(
                dashboard.answer("session.redeem", ticket=made["ticket"], address="a"),
                dashboard.answer("session.redeem", ticket=made["ticket"], address="b"),
            )
            assert sorted([first["ok"], second["ok"]]) == [False, True]
            assert (await dashboard.refused("session.redeem", ticket=made["ticket"], address="a"))["kind"] == "refused"

    run(body())


async def two_people(root: Asking, dashboard: Asking) -> tuple[str, str]:
    """Tokens of alice (dba) and bob (security), both approvers."""
    await root.ask("people.add", name="alice", role="approver", groups=["dba"])
    await root.ask("people.add", name="bob", role="approver", groups=["security"])
    return await signed_in(root, dashboard, "alice"), await signed_in(root, dashboard, "bob")


def test_an_account_answers_for_its_own_groups_and_sees_exact_texts_of_those_alone(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            alice, bob = await two_people(root, dashboard)
            approval = await hold(one, shown())
            answer = {"approval": approval, "seen": "bound-flow-1-1", "reason": "ok"}
            assert "it is for dba" in (await dashboard.refused("approvals.approve", bob, **answer))["reason"]
            assert (await dashboard.refused("approvals.show", bob, approval=approval, exact=True))["ok"] is False
            assert "exact" not in await dashboard.ask("approvals.show", bob, approval=approval)
            exact = await dashboard.ask("approvals.show", alice, approval=approval, exact=True)
            assert "exact words" in exact["exact"]
            assert (
                "not what you were shown"
                in (await dashboard.refused("approvals.approve", alice, approval=approval, seen="another"))["reason"]
            )
            assert (await dashboard.ask("approvals.approve", alice, **answer))["by"] == "alice"
            assert await one.hear(Settled) == Settled(approval, "approved", "alice", frozenset({"dba"}), "ok")

    run(body())


def test_of_two_approvers_at_once_one_decides_and_the_other_is_told(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            alice, bob = await two_people(root, dashboard)
            approval = await hold(one, shown(), frozenset())
            answer = {"approval": approval, "seen": "bound-flow-1-1", "reason": "mine"}
            answers = await asyncio.gather(
                dashboard.answer("approvals.approve", alice, **answer), dashboard.answer("approvals.reject", bob, **answer)
            )
            (taken,) = [found for found in answers if found["ok"]]
            (late,) = [found for found in answers if not found["ok"]]
            assert "already" in late["reason"]
            assert (await one.hear(Settled)).by == taken["result"]["by"]

    run(body())


def test_who_lost_a_role_answers_no_more_from_that_moment(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            alice, _ = await two_people(root, dashboard)
            approval = await hold(one, shown())
            waiting = asyncio.create_task(dashboard.answer("approvals.wait", alice, after=-1, seconds=0))
            assert (await waiting)["ok"]
            serial = (await waiting)["result"]["serial"]
            waiting = asyncio.create_task(dashboard.answer("approvals.wait", alice, after=serial, seconds=30))
            await root.ask("people.change", name="alice", groups=[])
            refused = await dashboard.refused("approvals.approve", alice, approval=approval, seen="bound-flow-1-1")
            assert refused["kind"] == "signed_out"
            # What was asked for before is not answered either.
            await hold(one, shown(2))
            assert (await waiting)["kind"] == "signed_out"

    run(body())


def test_guessing_passwords_is_slowed_down_over_the_socket(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted, DASHBOARD_UID) as dashboard:
            said = []
            for _ in range(8):
                guess = {"name": "admin", "password": "guess", "address": "10.0.0.9"}
                said.append((await dashboard.refused("session.open", **guess))["reason"])
            assert sum("too many attempts" in one for one in said) >= 1
            assert (await dashboard.ask("dashboard.hello"))["version"]

    run(body())


def test_a_sign_in_does_not_stall_anybody_else(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            guesses = [
                asyncio.create_task(dashboard.answer("session.open", name=f"n{n}", password="x", address=f"10.0.{n}.1"))
                for n in range(10)
            ]
            answered = 0
            while not all(guess.done() for guess in guesses):
                await root.ask("approvals.list")
                answered += 1
            # Ten verifications take seconds, and an answer a millisecond; a stalled loop would answer once for each.
            assert answered > 100

    run(body())


def test_what_people_do_is_in_the_signed_recording_and_is_no_alarm(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            await root.ask("people.add", name="alice", role="approver", groups=["dba"])
            await signed_in(root, dashboard, "alice")
            await root.ask("drain")
            assert (await root.ask("status"))["recording"]["alarms"] == []
            code, output, errors = await hosted.command("verify")
            assert code == 0, output + errors
            assert "signed in" not in output

    run(body())
    recorded = b"".join(path.read_bytes() for path in (hosted.folder / "state" / "recording").glob("segment-*"))
    assert b"alice as approver for dba by root" in recorded
    assert b"alice by a one-time link from 10.0.0.1" in recorded


@pytest.mark.parametrize("arguments", [b"\xff", b'"\xff"', b"[]", b"{", b'{"name": 1}', b'{"x": "\\ud800"}', b"{}" * 2, b""])
def test_arguments_that_make_no_sense_fail_and_harm_nobody(hosted: Hosted, arguments: bytes) -> None:
    async def body() -> None:
        async with asking(hosted, DASHBOARD_UID) as dashboard:
            for verb in sorted(VERBS):
                if VERBS[verb].least is Rank.NOBODY and verb != "dashboard.hello":
                    with pytest.raises(RefusedByControlError):
                        await dashboard.channel.call(lambda call, verb=verb: Request(call, verb, arguments))  # type: ignore[misc]
            with pytest.raises(RefusedByControlError, match="no verb"):
                await dashboard.channel.call(lambda call: Request(call, "session.all"))
            assert await dashboard.ask("dashboard.hello")

    run(body())


@pytest.mark.parametrize("token", ["x", "\0", "é" * 500, "' or 1=1 --", "a" * 100_000])
def test_a_forged_session_is_signed_out(hosted: Hosted, token: str) -> None:
    async def body() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            await signed_in(root, dashboard, "admin")
            assert (await dashboard.refused("approvals.list", token))["kind"] == "signed_out"

    run(body())


def test_one_channel_asks_only_so_much_at_a_time(hosted: Hosted) -> None:
    async def body() -> None:
        async with asking(hosted) as root:
            serials = (await root.ask("changes.wait"))["serials"]
            encoded = msgspec.json.encode({"after": serials, "seconds": 60})
            calls = [
                root.channel.ask(lambda call: Request(call, "changes.wait", encoded))
                for _ in range(CALLS_PER_CHANNEL_MAX + 5)
            ]
            done, _ = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                with pytest.raises(RefusedByControlError, match="at a time"):
                    call.result()
            async with asking(hosted) as other:
                await other.ask("policy.reload")
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(answer, bytes) for answer in answers) == CALLS_PER_CHANNEL_MAX

    run(body())


def test_changes_are_told_as_soon_as_a_serial_differs(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            before = (await root.ask("changes.wait"))["serials"]
            assert set(before) == {"approvals", "flows", "policy", "health"}
            waiting = asyncio.create_task(root.ask("changes.wait", after=before, seconds=30))
            await hold(one, shown())
            after = (await waiting)["serials"]
            assert after["approvals"] > before["approvals"]
            assert (await root.ask("changes.wait", after=before, seconds=30))["serials"]["approvals"] == after["approvals"]

    run(body())


def conversation(journal: Journal, flow: str, shown_text: str = "select 1") -> None:
    now = time.time_ns()
    journal.append(
        FlowOpened(flow, now, "10.1.0.6:1", "10.9.0.1:5432", "migrator/execute", "migrator", "execute", resource="shop")
    )
    journal.append(Commanded(flow, now + 1, 0, "Opening", "as app", "forward", effects=("connect database shop",)))
    journal.append(
        Commanded(
            flow, now + 2, 1, "Query", shown_text, "forward", ("read table public.orders",), rule="reads (rules.yaml:3)"
        )
    )
    journal.append(Answered(flow, now + 2_000_002, 1, "SELECT 1", False, ("id",), (), 1, 8, (("7",),)))
    journal.append(Commanded(flow, now + 3_000_000, 2, "Query", "drop table orders", "refuse", rule=None, reason="no rule"))


def test_a_live_flow_is_shown_up_to_its_last_record_though_nothing_was_drained(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            one.channel.tell(
                FlowSeen("flow-1", PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1, "shop")
            )
            await one.settled_before_this()
            conversation(journal, "flow-1")
            found = await root.ask("flows.show", flow="flow-1")
            assert [event["sort"] for event in found["events"]] == ["opened", "command", "command", "answer", "command"]
            answer = found["events"][3]
            assert (answer["milliseconds"], answer["rows"], answer["response"]["rows"]) == (2.0, 1, [["7"]])
            assert found["events"][4]["verdict"] == "refuse"
            assert found["next"] is None
            flow = found["flow"]
            assert (flow["database"], flow["commands"], flow["denied"], flow["live"]) == ("shop", 2, 1, True)
            # The second page knows when the command of its answer was sent.
            after = found["events"][2]["number"]
            assert (await root.ask("flows.show", flow="flow-1", after=after))["events"][0]["milliseconds"] == 2.0
            (live,) = await root.ask("flows.live")
            assert (live["commands"], live["held"], live["last"]) == (2, False, "drop table orders")
            await hold(one, shown())
            (live,) = await root.ask("flows.live")
            assert live["held"] is True
            journal.close()

    run(body())


def test_flows_are_listed_in_pages_and_narrowed(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            for number in range(7):
                conversation(journal, f"flow-{number}")
            await root.ask("drain")
            one.channel.tell(
                FlowSeen("flow-3", PRINCIPAL, "shop", Endpoint("10.1.0.6", 1), Endpoint("10.9.0.1", 5432), 1, "shop")
            )
            await one.settled_before_this()
            first = await root.ask("flows.list", limit=4)
            rest = await root.ask("flows.list", limit=4, before=first["next"])
            assert [flow["flow"] for flow in first["flows"] + rest["flows"]] == [f"flow-{n}" for n in range(6, -1, -1)]
            assert rest["next"] is None
            for narrowing, count in (
                ({"agent": "migrator"}, 7),
                ({"agent": "nobody"}, 0),
                ({"resource": "shop", "outcome": "denied"}, 7),
                ({"outcome": "masked"}, 0),
                ({"live": True}, 1),
                ({"live": True, "outcome": "held"}, 0),
            ):
                assert len((await root.ask("flows.list", **narrowing))["flows"]) == count, narrowing
            for nonsense in ({"before": "x"}, {"outcome": "odd"}, {"limit": 0}, {"before": "9" * 30 + ".1"}):
                assert (await root.refused("flows.list", **nonsense))["kind"] == "refused"
            assert "no such flow" in (await root.refused("flows.show", flow="absent"))["reason"]
            journal.close()

    run(body())


def test_an_index_that_is_damaged_while_control_is_away_is_made_again(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            conversation(journal, "flow-1")
            await root.ask("drain")
            assert len((await root.ask("flows.list"))["flows"]) == 1
            journal.close()
        await asyncio.to_thread(hosted.end)
        for file in (hosted.folder / "state" / "recording").glob("index.sqlite*"):
            file.write_bytes(b"\0" * 4096)
        await asyncio.to_thread(hosted.start)
        async with asking(hosted) as root:
            async with asyncio.timeout(20):
                while not (found := await root.answer("flows.list"))["ok"] or not found["result"]["flows"]:
                    await root.ask("changes.wait", after=None)
            assert (await root.ask("flows.show", flow="flow-1"))["flow"]["commands"] == 2

    run(body())


def test_a_recording_that_cannot_be_read_is_a_refusal_and_ends_nothing(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            conversation(journal, "flow-1")
            await root.ask("drain")
            recording = hosted.folder / "state" / "recording"
            (recording / "segment-000002.sqlite").symlink_to("nowhere")
            assert "cannot be read" in (await root.refused("flows.show", flow="flow-1", after=5, limit=500))["reason"]
            (recording / "segment-000002.sqlite").unlink()
            (recording / "segment-000002.sqlite").write_bytes(b"no database" * 100)
            assert "cannot be read" in (await root.refused("flows.show", flow="flow-1", after=5, limit=500))["reason"]
            (recording / "segment-000002.sqlite").unlink()
            assert (await root.ask("flows.show", flow="flow-1"))["events"]
            journal.close()

    run(body())


def test_flows_move_their_serial_when_records_come_and_at_most_four_times_a_second(hosted: Hosted) -> None:
    async def body() -> None:
        async with worker(hosted) as one, asking(hosted) as root:
            assert one.welcome is not None
            journal = Journal(Path(one.welcome.journals), 0, one.welcome.seal_key, time.time_ns())
            before = (await root.ask("changes.wait"))["serials"]
            begun = time.monotonic()
            for number in range(20):
                conversation(journal, f"flow-{number}")
                await root.ask("drain")
            after = (await root.ask("changes.wait", after=before, seconds=30))["serials"]
            beats = (time.monotonic() - begun) / 0.25
            assert before["flows"] < after["flows"] <= before["flows"] + beats + 1
            journal.close()

    run(body())


def test_a_page_that_renews_itself_does_not_keep_its_session_alive(hosted: Hosted) -> None:
    tokens: list[str] = []

    async def sign_in() -> None:
        async with asking(hosted) as root, asking(hosted, DASHBOARD_UID) as dashboard:
            tokens.append(await signed_in(root, dashboard, "admin"))

    async def look() -> None:
        async with asking(hosted, DASHBOARD_UID) as dashboard:
            renewed = await dashboard.channel.call(
                lambda call: Request(call, "approvals.list", b"{}", tokens[0], is_unattended=True)
            )
            assert msgspec.json.decode(renewed)["ok"]
            # Told as it was before this question, which is a use.
            unused = await dashboard.ask("session.who", tokens[0])
            used = await dashboard.ask("session.who", tokens[0])
            assert used["expires"] - unused["expires"] > 600

    run(sign_in())
    hosted.end()
    with sqlite3.connect(hosted.folder / "state" / "control" / "accounts.sqlite") as file:
        file.execute("update sessions set touched = touched - 900")
    hosted.start()
    run(look())

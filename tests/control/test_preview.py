"""What a changed command would get, told while it is typed: it must say what the worker says when the text is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from appliance.control.previewing import CHARACTERS_MAX
from appliance.ipc.messages import Shown
from appliance.parties import Scope
from tests.control.hosting import DASHBOARD_UID, Hosted, asking, hold, run, shown, signed_in, worker
from tests.scratch_postgres import ScratchPostgres

RULES = """
rules:
  - {id: reads, reason: reading is harmless, allow: [{actions: [read], objects: [public.orders]}, {actions: [connect]}]}
  - {id: cards, reason: cards are secret, mask: [{objects: [public.orders], fields: [card], with: {kind: redact}}]}
  - {id: losses, reason: what is lost is lost, hold: [{actions: [delete], objects: [public.orders]}], approvers: [dba]}
  - {id: payroll, reason: money, hold: [{actions: [delete, read], objects: [public.payroll]}], approvers: [security]}
  - {id: never, reason: tables stay, deny: [{actions: [drop]}], advice: ask the owner}
  - {id: keys, reason: keys go, hold: [{actions: ['*'], kinds: [key]}], approvers: [dba]}
"""
HELD = "delete from orders where note = 'exact words'"


def held(database: str, **changes: Any) -> Shown:
    return msgspec.structs.replace(
        shown(), scope=Scope("shop", "postgres", database), exact=HELD, search_path=("public",), **changes
    )


@pytest.fixture
def database(scratch_postgres: ScratchPostgres) -> str:
    return scratch_postgres.fresh_database(
        "create table orders (id int primary key, card text, note text); create table payroll (id int)"
    )


@pytest.fixture
def ruled(hosted: Hosted) -> Hosted:
    hosted.policy.write_text(RULES)
    assert hosted.run("policy", "reload").returncode == 0
    return hosted


def test_a_preview_says_verdict_effects_rule_and_whether_this_person_may_let_it_run(ruled: Hosted, database: str) -> None:
    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root, asking(ruled, DASHBOARD_UID) as dashboard:
            await root.ask("people.add", name="alice", role="approver", groups=["dba"])
            alice = await signed_in(root, dashboard, "alice")
            approval = await hold(one, held(database))

            async def preview(text: str) -> dict[str, Any]:
                found: dict[str, Any] = await dashboard.ask("approvals.preview", alice, approval=approval, text=text)
                return found

            narrower = await preview("delete from orders where id = 7")
            assert (narrower["outcome"], narrower["may_run"], narrower["why"]) == ("hold", True, "")
            assert narrower["rule"].startswith("losses (")
            assert any(effect.startswith("delete table public.orders") for effect in narrower["effects"])
            dropped = await preview("drop table orders")
            assert (dropped["outcome"], dropped["may_run"], dropped["advice"]) == ("deny", False, "ask the owner")
            assert "changes the session" in dropped["why"]
            beyond = await preview("delete from payroll")
            assert (beyond["outcome"], beyond["may_run"]) == ("hold", False)
            assert "asks for an approver of security" in beyond["why"]
            for text, words in (
                (HELD, "unchanged"),
                ("  ", "empty"),
                ("delete from orders returning id", "returns rows where"),
                ("delete from orders; delete from orders", "2 statements"),
                ("delete from orders where id = $1", "1 parameters"),
                ("delete from", "cannot be read"),
                ("delete from absent", "cannot be read"),
                ("begin", "changes the session"),
                ("delete from orders where note = '\0'", "NUL"),
            ):
                found = await preview(text)
                assert (found["may_run"], words in found["why"]) == (False, True), (text, found)
            # Nothing came of any of it.
            listed = await dashboard.ask("approvals.list", alice)
            assert [(each["id"], each["state"]) for each in listed["approvals"]] == [(approval, "open")]
            shown_now = await dashboard.ask("approvals.show", alice, approval=approval)
            assert "amended" not in [each["what"] for each in shown_now["history"]]

    run(body())


def test_a_masked_column_shows_in_a_preview_of_a_read(ruled: Hosted, database: str) -> None:
    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root:
            approval = await hold(one, msgspec.structs.replace(held(database), exact="select id from payroll"))
            found = await root.ask("approvals.preview", approval=approval, text="select card from orders")
            assert (found["outcome"], found["may_run"], found["masks"]) == ("forward", True, ["public.orders.card"])
            found = await root.ask("approvals.preview", approval=approval, text="select upper(card) from orders")
            assert (found["outcome"], found["may_run"]) == ("deny", False)

    run(body())


def test_names_are_looked_up_where_the_session_looks_them_up(
    ruled: Hosted, database: str, scratch_postgres: ScratchPostgres
) -> None:
    scratch_postgres.run("create schema other; create table other.orders (id int, note text)", database)

    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root:
            approval = await hold(one, msgspec.structs.replace(held(database), search_path=("other", "public")))
            found = await root.ask("approvals.preview", approval=approval, text="delete from orders where id = 1")
            assert any("other.orders" in effect for effect in found["effects"])
            assert found["may_run"] is False

    run(body())


def test_who_may_not_answer_is_told_nothing(ruled: Hosted, database: str) -> None:
    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root, asking(ruled, DASHBOARD_UID) as dashboard:
            await root.ask("people.add", name="bob", role="approver", groups=["security"])
            bob = await signed_in(root, dashboard, "bob")
            approval = await hold(one, held(database))
            refused = await dashboard.refused("approvals.preview", bob, approval=approval, text="select 1")
            assert "it is for dba" in refused["reason"]
            await root.ask("approvals.reject", approval=approval, seen="bound-flow-1-1", reason="no")
            assert "already" in (await root.refused("approvals.preview", approval=approval, text="select 1"))["reason"]

    run(body())


def test_previews_are_bounded_in_size_and_one_at_a_time_for_each_person(ruled: Hosted, database: str) -> None:
    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root:
            approval = await hold(one, held(database))
            long = "x" * (CHARACTERS_MAX + 1)
            assert (
                "judged when it is sent" in (await root.refused("approvals.preview", approval=approval, text=long))["reason"]
            )
            text = "delete from orders where id in (" + ", ".join(map(str, range(9000))) + ")"
            answers = await asyncio.gather(
                *(root.answer("approvals.preview", approval=approval, text=text) for _ in range(5))
            )
            assert [answer["ok"] for answer in answers].count(True) == 1
            assert (await root.ask("approvals.preview", approval=approval, text=text))["may_run"] is True

    run(body())


def test_a_redis_command_is_previewed_by_its_words(ruled: Hosted) -> None:
    async def body() -> None:
        async with worker(ruled) as one, asking(ruled) as root:
            request = msgspec.structs.replace(
                shown(), scope=Scope("shop", "redis", None), exact="DEL user:1 user:2", sort="DEL"
            )
            approval = await hold(one, request)
            found = await root.ask("approvals.preview", approval=approval, text="DEL user:1")
            assert (found["outcome"], found["may_run"]) == ("hold", True)
            found = await root.ask("approvals.preview", approval=approval, text="FLUSHALL")
            assert (found["may_run"], "only the arguments" in found["why"]) == (False, True)

    run(body())

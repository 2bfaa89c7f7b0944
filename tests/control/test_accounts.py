"""Accounts and sessions on a real file, with a given clock."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.approvals.desk import Refusal
from appliance.control import accounts as rules
from appliance.control.accounts import Accounts, Opened, Role, SignedOut, csrf_of
from appliance.control.throttle import ADDRESS_SECONDS_MAX, ENTRIES_MAX, FREE_ATTEMPTS, NAME_SECONDS_MAX, Throttle
from appliance.errors import RecordingError

NOW = 1_800_000_000.0
GOOD = "correct horse battery"


@dataclass
class Kept:
    """An accounts file that can be closed and opened again, and what it had recorded."""

    folder: Path
    notes: list[tuple[str, str]] = field(default_factory=list)
    made: list[Accounts] = field(default_factory=list)

    @property
    def first(self) -> Path:
        return self.folder / "first-password"

    def open(self, now: float = NOW) -> Accounts:
        accounts = Accounts(
            self.folder / "accounts.sqlite", self.first, lambda *said: self.notes.append(said), frozenset({"root", "carol"})
        )
        self.made.append(accounts)
        accounts.open(now)
        return accounts

    def text(self) -> str:
        return "".join(path.read_bytes().decode("latin-1") for path in self.folder.glob("accounts.sqlite*"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(rules, "_COST", 16)
    made = Kept(tmp_path)
    yield made
    for accounts in made.made:
        accounts.close()


def run(body: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(body, 60))


def by_link(accounts: Accounts, name: str = "", now: float = NOW) -> Opened:
    ticket, _, _ = accounts.make_ticket(name, now)
    return accounts.redeem(ticket, "10.0.0.1", now)


def test_the_first_start_makes_an_administrator_whose_one_time_password_is_in_a_file_until_it_is_changed(kept: Kept) -> None:
    accounts = kept.open()
    password = kept.first.read_text().strip()
    assert kept.first.stat().st_mode & 0o777 == 0o600
    assert not accounts.has_people

    async def body() -> None:
        opened = await accounts.sign_in("admin", password, "10.0.0.1", NOW, 0.0)
        assert (opened.account.role, opened.account.must_change) == (Role.ADMINISTRATOR, True)
        assert accounts.has_people
        changed = await accounts.change_password(opened.session, password, GOOD, NOW, 0.0)
        assert not changed.account.must_change
        assert not kept.first.exists()
        assert changed.token != opened.token
        with pytest.raises(SignedOut):
            accounts.find(opened.token, NOW)

    run(body())
    again = kept.open()
    assert not kept.first.exists()
    assert [account.name for account in again.listed()] == ["admin"]


def test_neither_a_password_nor_a_token_can_be_read_in_the_file(kept: Kept) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    run(accounts.change_password(opened.session, "", GOOD, NOW, 0.0))
    again = by_link(accounts)
    text = kept.text()
    assert GOOD not in text
    assert again.token not in text
    assert csrf_of(again.token) not in text
    assert "scrypt$" in text


def test_a_password_costs_what_scrypt_should_cost() -> None:
    _, cost, block, parallel, _, _ = rules._new_hash(GOOD).split("$")
    assert (int(cost), int(block), int(parallel)) >= (2**15, 8, 3)


def test_a_session_ends_an_hour_after_its_last_use_and_twelve_after_its_beginning(kept: Kept) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    assert accounts.find(opened.token, NOW + rules.IDLE_SECONDS - 1)[1].name == "admin"
    with pytest.raises(SignedOut):
        accounts.find(opened.token, NOW + rules.IDLE_SECONDS)
    used, now = by_link(accounts), NOW
    while now < NOW + rules.SESSION_SECONDS - 1800:
        now += 1800
        accounts.touch(accounts.find(used.token, now)[0], now)
    with pytest.raises(SignedOut):
        accounts.find(used.token, NOW + rules.SESSION_SECONDS)
    with pytest.raises(SignedOut):
        accounts.find(used.token, now)


def test_a_session_outlives_a_restart_and_ends_in_it_when_its_time_is_up(kept: Kept) -> None:
    first = kept.open()
    opened = by_link(first)
    first.close()
    assert kept.open(NOW + 60).find(opened.token, NOW + 60)[1].name == "admin"
    with pytest.raises(SignedOut):
        kept.open(NOW + rules.IDLE_SECONDS).find(opened.token, NOW + 61)


def test_a_clock_that_was_set_back_does_not_make_a_session_last_longer(kept: Kept) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    with pytest.raises(SignedOut):
        accounts.find(opened.token, NOW - 2 * rules.IDLE_SECONDS)


@pytest.mark.parametrize("token", ["", "x", "../..", "\0", "é" * 100])
def test_a_made_up_token_is_nobodys(kept: Kept, token: str) -> None:
    accounts = kept.open()
    by_link(accounts)
    with pytest.raises(SignedOut):
        accounts.find(token, NOW)


def test_a_ticket_is_good_once_for_ten_minutes_and_not_for_an_account_that_was_removed_since(kept: Kept) -> None:
    accounts = kept.open()

    async def body() -> None:
        await accounts.add("alice", "viewer", [], "admin", NOW)

    run(body())
    ticket, name, until = accounts.make_ticket("", NOW)
    assert (name, until) == ("admin", NOW + rules.TICKET_SECONDS)
    accounts.redeem(ticket, "", NOW)
    with pytest.raises(Refusal, match="used already"):
        accounts.redeem(ticket, "", NOW)
    late = accounts.make_ticket("admin", NOW)[0]
    with pytest.raises(Refusal, match="too old"):
        accounts.redeem(late, "", NOW + rules.TICKET_SECONDS)
    with pytest.raises(Refusal):
        accounts.redeem(late, "", NOW)
    gone = accounts.make_ticket("alice", NOW)[0]
    accounts.remove("alice", "admin")
    run(accounts.add("alice", "viewer", [], "admin", NOW))
    with pytest.raises(Refusal):
        accounts.redeem(gone, "", NOW)


@pytest.mark.parametrize("what", ["role", "groups", "reset", "remove"])
def test_whatever_becomes_of_an_account_signs_it_out_everywhere(kept: Kept, what: str) -> None:
    accounts = kept.open()

    async def body() -> None:
        await accounts.add("alice", "approver", ["dba"], "admin", NOW)
        opened = [by_link(accounts, "alice"), by_link(accounts, "alice")]
        other = by_link(accounts, "admin")
        match what:
            case "role":
                accounts.change("alice", "viewer", None, "admin")
            case "groups":
                accounts.change("alice", None, ["security"], "admin")
            case "reset":
                await accounts.reset("alice", "admin")
            case _:
                accounts.remove("alice", "admin")
        for one in opened:
            with pytest.raises(SignedOut):
                accounts.find(one.token, NOW)
        assert accounts.find(other.token, NOW)
        again = kept.open()
        with pytest.raises(SignedOut):
            again.find(opened[0].token, NOW)

    run(body())


def test_an_account_that_changed_while_its_password_was_verified_is_not_signed_in(kept: Kept) -> None:
    accounts = kept.open()

    async def body() -> None:
        password = await accounts.add("alice", "approver", [], "admin", NOW)
        signing_in = asyncio.create_task(accounts.sign_in("alice", password, "", NOW, 0.0))
        await asyncio.sleep(0)
        accounts.remove("alice", "admin")
        with pytest.raises(Refusal, match="wrong"):
            await signing_in

    run(body())


def test_a_session_that_ended_while_the_old_password_was_verified_changes_nothing(kept: Kept) -> None:
    accounts = kept.open()

    async def body() -> None:
        password = await accounts.add("alice", "approver", [], "admin", NOW)
        opened = await accounts.sign_in("alice", password, "", NOW, 0.0)
        changing = asyncio.create_task(accounts.change_password(opened.session, password, GOOD, NOW, 0.0))
        await asyncio.sleep(0)
        accounts.sign_out(opened.session)
        with pytest.raises(SignedOut):
            await changing
        with pytest.raises(Refusal, match="wrong"):
            await accounts.sign_in("alice", GOOD, "", NOW, 0.0)

    run(body())


def test_one_administrator_always_stays(kept: Kept) -> None:
    accounts = kept.open()
    with pytest.raises(Refusal, match="only administrator"):
        accounts.remove("admin", "root")
    with pytest.raises(Refusal, match="only administrator"):
        accounts.change("admin", "viewer", None, "root")
    run(accounts.add("alice", "administrator", [], "admin", NOW))
    accounts.remove("admin", "alice")
    assert not kept.first.exists()


@pytest.mark.parametrize("name", ["", "Alice", "al ice", "root", "carol", "a" * 33, "1a", "<b>", "admin"])
def test_names_that_mean_somebody_else_or_nothing_are_refused(kept: Kept, name: str) -> None:
    accounts = kept.open()
    with pytest.raises(Refusal):
        run(accounts.add(name, "viewer", [], "admin", NOW))


@pytest.mark.parametrize("password", ["short", "a" * 40, "x" * 2000, "my admin password 1"])
def test_a_weak_password_is_refused(kept: Kept, password: str) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    with pytest.raises(Refusal):
        run(accounts.change_password(opened.session, "", password, NOW, 0.0))


def test_only_a_link_of_a_moment_ago_sets_a_password_without_the_old_one(kept: Kept) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    with pytest.raises(Refusal, match="old password is wrong"):
        run(accounts.change_password(opened.session, "", GOOD, NOW + rules.TICKET_SECONDS, 0.0))
    changed = run(accounts.change_password(opened.session, "", GOOD, NOW, 0.0))
    with pytest.raises(Refusal, match="old password is wrong"):
        run(accounts.change_password(changed.session, "", GOOD + "!", NOW, 0.0))


def test_what_people_do_is_noted_without_what_they_typed_as_an_unknown_name(kept: Kept) -> None:
    accounts = kept.open()

    async def body() -> None:
        for name in ("admin", "my secret password"):
            with pytest.raises(Refusal, match="name or password are wrong"):
                await accounts.sign_in(name, "wrong", "10.0.0.9", NOW, 0.0)

    run(body())
    by_link(accounts)
    assert [sort for sort, _ in kept.notes] == [
        "account added",
        "sign-in failed",
        "sign-in failed",
        "link made",
        "signed in",
    ]
    assert kept.notes[1][1] == "admin from 10.0.0.9"
    assert kept.notes[2][1] == "an unknown name from 10.0.0.9"


def test_an_unknown_name_is_verified_like_a_known_one(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = kept.open()
    seen: list[str] = []
    whole = rules._is_password

    def watched(password: str, known: str) -> bool:
        seen.append(known)
        return whole(password, known)

    monkeypatch.setattr(rules, "_is_password", watched)
    for name in ("admin", "nobody"):
        with pytest.raises(Refusal):
            run(accounts.sign_in(name, "wrong", "", NOW, 0.0))
    known, unknown = (one.split("$") for one in seen)
    assert known[:4] == unknown[:4]
    assert [len(part) for part in known] == [len(part) for part in unknown]


def test_only_so_many_verifications_wait(kept: Kept) -> None:
    accounts = kept.open()

    async def body() -> list[str]:
        tries = [accounts.sign_in(f"name{n}", "x", f"10.0.{n}.1", NOW, 0.0) for n in range(30)]
        return [str(found) for found in await asyncio.gather(*tries, return_exceptions=True)]

    said = run(body())
    assert sum("too many people" in one for one in said) == 30 - rules.VERIFICATIONS_WAITING_MAX


def test_guesses_for_one_name_come_slower_and_slower_and_many_at_once_count_as_many() -> None:
    throttle = Throttle()
    waits = [throttle.attempt("admin", f"10.0.{number}.1", 0.0) for number in range(100)]
    assert waits[:FREE_ATTEMPTS] == [0.0] * FREE_ATTEMPTS
    assert all(wait > 0 for wait in waits[FREE_ATTEMPTS:])
    now, tries = 0.0, 0
    while now < 3600:
        wait = throttle.attempt("admin", f"10.1.{tries}.1", now)
        tries += wait == 0
        now += wait or 0.001
    assert tries <= 3600 / NAME_SECONDS_MAX + 10


def test_guesses_from_one_address_or_its_ipv6_neighbours_come_slower_and_slower() -> None:
    throttle = Throttle()
    now, tries = 0.0, 0
    while now < 86_400:
        wait = throttle.attempt(f"name{tries}", f"2001:db8::{tries % 9:x}", now)
        tries += wait == 0
        now += wait or 0.001
    assert tries <= 86_400 / ADDRESS_SECONDS_MAX + 20


def test_a_good_sign_in_frees_its_name_and_does_not_free_an_address_of_its_other_guesses() -> None:
    throttle = Throttle()
    for number in range(FREE_ATTEMPTS - 1):
        assert throttle.attempt(f"name{number}", "10.0.0.1", 0.0) == 0.0
    assert throttle.attempt("mine", "10.0.0.1", 0.0) == 0.0
    throttle.succeed("mine", "10.0.0.1")
    assert throttle.attempt("other", "10.0.0.1", 0.0) == 0.0
    assert throttle.attempt("another", "10.0.0.1", 0.0) > 0


def test_who_is_slowed_down_cannot_make_it_forget_others() -> None:
    throttle = Throttle()
    for number in range(2 * FREE_ATTEMPTS):
        throttle.attempt("admin", f"10.0.{number}.1", 0.0)
        throttle.attempt(f"first{number}", "10.9.9.9", 0.0)
    for number in range(ENTRIES_MAX):
        assert throttle.attempt(f"name{number}", "10.9.9.9", 0.0) > 0
    assert throttle.attempt("admin", "10.8.8.8", 0.0) > 0


def test_wrong_old_passwords_of_one_keep_nobody_else_from_changing_theirs() -> None:
    throttle = Throttle()
    for _ in range(2 * FREE_ATTEMPTS):
        throttle.attempt("vera", "", 0.0)
    assert throttle.attempt("vera", "", 0.0) > 0
    assert throttle.attempt("dana", "", 0.0) == 0.0


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    throttle = Throttle()
    for number in range(ENTRIES_MAX):
        throttle.attempt(f"name{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(throttle._entries) <= ENTRIES_MAX


def test_a_damaged_file_lets_nobody_in_and_says_so(kept: Kept) -> None:
    (kept.folder / "accounts.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(RecordingError):
        kept.open()
    (accounts,) = kept.made
    with pytest.raises(SignedOut):
        accounts.find("x", NOW)
    with pytest.raises(Refusal):
        run(accounts.sign_in("admin", "x", "", NOW, 0.0))


def test_a_file_that_cannot_be_written_keeps_nobody_signed_in(kept: Kept) -> None:
    accounts = kept.open()
    opened = by_link(accounts)
    other = sqlite3.connect(kept.folder / "accounts.sqlite", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(RecordingError):
        accounts.sign_out(opened.session)
    other.close()
    with pytest.raises(SignedOut):
        accounts.find(opened.token, NOW)

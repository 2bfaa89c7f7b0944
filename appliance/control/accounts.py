"""Who may sign in at the dashboard: accounts with their roles, passwords as hashes, and the sessions that are open.

They live here and not with the dashboard, so that a dashboard that was taken over acts only as who is signed in at that
moment. A password is kept as its scrypt hash (RFC 7914), a session as the SHA-256 of its token; neither can be read back.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlite_utils import Database

from appliance.approvals.desk import Person, Refusal
from appliance.control.throttle import Throttle
from appliance.errors import RecordingError

T = TypeVar("T")

IDLE_SECONDS = 3600.0
SESSION_SECONDS = 12 * 3600.0
TICKET_SECONDS = 600.0
TOUCH_SECONDS = 60.0
"""How often a session's last use goes to the file."""

PASSWORD_CHARACTERS_MIN = 12
PASSWORD_CHARACTERS_MAX = 1024
ACCOUNTS_MAX = 500
SESSIONS_PER_ACCOUNT_MAX = 20
"""Browsers of one person; the one that was not used for longest is signed out."""

TICKETS_MAX = 100
GROUPS_MAX = 64
VERIFICATIONS_MAX = 1
"""At a time: each takes 32 MiB and a third of a second of a core, and the other cores are for traffic."""

VERIFICATIONS_WAITING_MAX = 16

FIRST_NAME = "admin"

_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_GROUP_CHARACTERS_MAX = 200  # as in the configuration
_TOKEN_BYTES = 32
_BUSY_SECONDS = 0.2  # nobody else writes there; whoever does holds up the whole process
_SALT_BYTES = 16
_HASH_BYTES = 32
# OWASP's least for scrypt is 2**17 with p=1, or 2**15 with p=3; the memory of one verification is 128·r·n bytes.
_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 3
_ONE_TIME_CHARACTERS = "23456789abcdefghjkmnpqrstvwxyz"  # none that are mistaken for another when read aloud
_ONE_TIME_GROUPS, _ONE_TIME_GROUP = 4, 5  # 98 bits


class Role(StrEnum):
    """What an account may do, each what the one before it may, and more: look; answer holds; administer."""

    VIEWER = "viewer"
    APPROVER = "approver"
    ADMINISTRATOR = "administrator"


class SignedOut(Refusal):
    """Nobody is signed in there (any more)."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person at the dashboard. `groups` are approver groups, as the configuration's approvers have them. Times in seconds
    of the Unix clock. `must_change`: its password is a one-time one."""

    name: str
    role: Role
    groups: frozenset[str]
    hash: str
    created: float
    last_seen: float | None
    must_change: bool

    @property
    def person(self) -> Person:
        """As the desk knows people."""
        return Person(self.name, self.groups, self.role is not Role.VIEWER, self.role is Role.ADMINISTRATOR)


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in. `key` is the SHA-256 of its token (hex). `by_link`: with a one-time link of root's."""

    key: str
    name: str
    opened: float
    touched: float
    by_link: bool

    def expires(self) -> float:
        """When it ends unless it is used before, in seconds of the Unix clock."""
        return min(self.touched + IDLE_SECONDS, self.opened + SESSION_SECONDS)


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session with its token, which is nowhere else."""

    token: str
    session: Session
    account: Account


class Accounts:
    """All accounts and sessions. `note` puts what people did into the recording: the sort of it, and a sentence. `reserved`
    are names of this machine's own people, which no account may bear, so that a record means one of them.

    Every method that can refuse raises Refusal, and RecordingError where the file can't be used. All but the hashing is done
    in the loop's own thread: writes are rare.
    """

    def __init__(
        self, file: Path, first_password: Path, note: Callable[[str, str], None], reserved: frozenset[str] = frozenset()
    ) -> None:
        self._file = file
        self._first_password = first_password
        self._note = note
        self._reserved = reserved
        self._throttle = Throttle()
        self._hashing = ThreadPoolExecutor(VERIFICATIONS_MAX, "passwords")
        self._hashings = 0
        self._accounts: dict[str, Account] = {}
        self._sessions: dict[str, Session] = {}
        # Until when, and for whom.
        self._tickets: dict[str, tuple[float, str]] = {}
        # Names that nobody has are verified against this, so that they take as long as the others.
        self._nobody = _written(_COST, _BLOCK, _PARALLEL, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
        self._database: Database | None = None
        self.fault = "the accounts were not read yet"

    def open(self, now: float) -> None:
        """Read the file, or make it with its first administrator. Raises RecordingError."""
        with self._failing():
            connection = sqlite3.connect(self._file, timeout=_BUSY_SECONDS, isolation_level=None)
            self._database = Database(connection, execute_plugins=False)
            self._database.executescript("pragma journal_mode = wal; pragma synchronous = full;")
            self._file.chmod(0o600)
            self._database.create_table(
                "accounts",
                {
                    "name": str,
                    "role": str,
                    "groups": str,
                    "hash": str,
                    "created": float,
                    "last_seen": float,
                    "must_change": int,
                },
                pk="name",
                not_null={"role", "groups", "hash", "created", "must_change"},
                if_not_exists=True,
                strict=True,
            )
            self._database.create_table(
                "sessions",
                {"key": str, "name": str, "opened": float, "touched": float, "by_link": int},
                pk="key",
                not_null={"name", "opened", "touched", "by_link"},
                if_not_exists=True,
                strict=True,
            )
            accounts = {row["name"]: _account(row) for row in self._database.table("accounts").rows}
            sessions = {row["key"]: _session(row) for row in self._database.table("sessions").rows}
        self._accounts, self._sessions = accounts, sessions
        self.fault = ""
        for session in list(sessions.values()):
            if not self._is_live(session, now):
                self._end([session])
        if not accounts:
            self._make_first(now)

    def close(self) -> None:
        """Let go of the file and the threads."""
        self._hashing.shutdown(wait=True, cancel_futures=True)
        if self._database is not None:
            self._database.close()

    @property
    def has_people(self) -> bool:
        """Whether anybody has made the appliance their own: false while there is the first administrator alone, who never
        signed in."""
        return any(account.name != FIRST_NAME or account.last_seen is not None for account in self._accounts.values())

    # Sessions.

    async def sign_in(self, name: str, password: str, address: str, now: float, monotonic: float) -> Opened:
        """Whoever gives the right password. `address` is where from; `monotonic` is what delays are measured with."""
        name = name.strip().lower()
        self._check_pace(name, address, monotonic)
        account = self._accounts.get(name)
        is_right = await self._verify(password, self._nobody if account is None else account.hash)
        if not is_right or account is None or (current := self._current(account)) is None:
            # A name that nobody has may be a password in the wrong field, so it is kept nowhere.
            who = "an unknown name" if account is None else name
            self._note("sign-in failed", f"{who} from {_plain_address(address)}")
            raise Refusal("name or password are wrong")
        self._throttle.succeed(name, address)
        opened = self._open_session(current, now, by_link=False)
        self._note("signed in", f"{name} from {_plain_address(address)}")
        return opened

    def make_ticket(self, name: str, now: float) -> tuple[str, str, float]:
        """(ticket, name, end) for a sign-in without a password, once. Without a name: the first administrator there is."""
        if name:
            account = self._named(name)
        else:
            administrators = [one for one in self._accounts.values() if one.role is Role.ADMINISTRATOR]
            if not administrators:
                raise Refusal("there is no administrator")
            account = min(administrators, key=lambda one: (one.name != FIRST_NAME, one.created, one.name))
        self._tickets = {key: one for key, one in self._tickets.items() if now < one[0]}
        if len(self._tickets) >= TICKETS_MAX:
            self._tickets.pop(next(iter(self._tickets)))
        ticket = secrets.token_urlsafe(_TOKEN_BYTES)
        self._tickets[_key(ticket)] = (now + TICKET_SECONDS, account.name)
        self._note("link made", f"a one-time sign-in link for {account.name}")
        return ticket, account.name, now + TICKET_SECONDS

    def redeem(self, ticket: str, address: str, now: float) -> Opened:
        """Whoever holds a ticket that nobody has redeemed."""
        until, name = self._tickets.pop(_key(ticket), (0.0, ""))
        account = self._accounts.get(name)
        if account is None or not until - TICKET_SECONDS <= now < until:
            raise Refusal("this link was used already, or it is too old; make another with: sluicegate dashboard")
        opened = self._open_session(account, now, by_link=True)
        self._note("signed in", f"{name} by a one-time link from {_plain_address(address)}")
        return opened

    def find(self, token: str, now: float) -> tuple[Session, Account]:
        """Who is signed in with that token. Raises SignedOut."""
        session = self._sessions.get(_key(token)) if token else None
        if session is None:
            raise SignedOut("sign in first")
        account = self._accounts.get(session.name)
        if account is None or not self._is_live(session, now):
            self._end([session])
            raise SignedOut("signed out after a time without use; sign in again")
        return session, account

    def touch(self, session: Session, now: float) -> None:
        """It was used."""
        if now - session.touched < TOUCH_SECONDS or session.key not in self._sessions:
            return
        touched = replace(session, touched=now)
        account = replace(self._accounts[session.name], last_seen=now)
        with self._failing():
            self._table("sessions").update(session.key, {"touched": now})
            self._table("accounts").update(account.name, {"last_seen": now})
        self._sessions[session.key] = touched
        self._accounts[account.name] = account

    def sign_out(self, session: Session) -> None:
        """End one session."""
        self._end([session])
        self._note("signed out", session.name)

    async def change_password(self, session: Session, old: str, new: str, now: float, monotonic: float) -> Opened:
        """The person's own. All sessions end, and one begins. Whoever came by a link just now need not know the old one."""
        account = self._accounts[session.name]
        _check_password(new, account.name)
        if not (session.by_link and not old and now - session.opened < TICKET_SECONDS):
            self._check_pace(account.name, "", monotonic)
            if not await self._verify(old, account.hash):
                self._note("sign-in failed", f"{account.name} with a wrong old password")
                raise Refusal("the old password is wrong")
            self._throttle.succeed(account.name, "")
            if hmac.compare_digest(old.encode(), new.encode()):
                raise Refusal("the new password is the old one")
        made = await self._make_hash(new)
        # Meanwhile anything may have become of both.
        if session.key not in self._sessions or self._current(account) is None:
            raise SignedOut("signed out meanwhile; sign in again")
        changed = replace(self._accounts[account.name], hash=made, must_change=False)
        self._keep(changed, ends_sessions=True)
        self._forget_first_password(account.name)
        self._note("password changed", account.name)
        return self._open_session(changed, now, by_link=False)

    # Accounts, by an administrator (`by`).

    def listed(self) -> list[Account]:
        """All, by name."""
        return sorted(self._accounts.values(), key=lambda account: account.name)

    async def add(self, name: str, role: str, groups: list[str], by: str, now: float) -> str:
        """A new account; the answer is its one-time password."""
        checked, wanted = _checked_role(role), _checked_groups(groups)
        if not _NAME.fullmatch(name):
            raise Refusal("a name has up to 32 lower-case letters, digits, dots, dashes and underscores, a letter first")
        if name in self._reserved:
            raise Refusal(f"{name} is a user of this machine who may ask us already; another name keeps the record plain")
        password = _one_time_password()
        made = await self._make_hash(password)
        if name in self._accounts:
            raise Refusal(f"there is an account {name} already")
        if len(self._accounts) >= ACCOUNTS_MAX:
            raise Refusal(f"there are {ACCOUNTS_MAX} accounts, which is the most")
        self._keep(Account(name, checked, wanted, made, now, None, True), ends_sessions=False)
        self._note("account added", f"{name} as {checked}{_said_groups(wanted)} by {by}")
        return password

    def change(self, name: str, role: str | None, groups: list[str] | None, by: str) -> Account:
        """Another role, other groups, or both; it is signed out, so that nothing goes on under the old ones."""
        account = self._named(name)
        changed = replace(
            account,
            role=account.role if role is None else _checked_role(role),
            groups=account.groups if groups is None else _checked_groups(groups),
        )
        if changed == account:
            return account
        if account.role is Role.ADMINISTRATOR and changed.role is not Role.ADMINISTRATOR:
            self._require_another_administrator(name)
        self._keep(changed, ends_sessions=True)
        self._note("account changed", f"{name} is {changed.role}{_said_groups(changed.groups)} by {by}")
        return changed

    async def reset(self, name: str, by: str) -> str:
        """A new one-time password; it is signed out."""
        self._named(name)
        password = _one_time_password()
        made = await self._make_hash(password)
        self._keep(replace(self._named(name), hash=made, must_change=True), ends_sessions=True)
        self._forget_first_password(name)
        self._note("password reset", f"{name} by {by}")
        return password

    def remove(self, name: str, by: str) -> None:
        """The account is no more, and is signed out."""
        account = self._named(name)
        if account.role is Role.ADMINISTRATOR:
            self._require_another_administrator(name)
        with self._failing():
            database = self._opened()
            with database.atomic():
                database.table("sessions").delete_where("name = ?", [name])
                database.table("accounts").delete(name)
        del self._accounts[name]
        self._drop_sessions(name)
        self._forget_first_password(name)
        self._note("account removed", f"{name} by {by}")

    # How it is done.

    def _make_first(self, now: float) -> None:
        password = _one_time_password()
        # The password first: an account whose password nobody knows would be of no use.
        with self._failing():
            self._first_password.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._first_password, flags, 0o600), "w") as file:
                file.write(password + "\n")
        made = _new_hash(password)
        self._keep(Account(FIRST_NAME, Role.ADMINISTRATOR, frozenset(), made, now, None, True), ends_sessions=False)
        self._note("account added", f"{FIRST_NAME} as {Role.ADMINISTRATOR}, because there was no account")

    def _forget_first_password(self, name: str) -> None:
        if name == FIRST_NAME:
            with suppress(OSError):
                self._first_password.unlink(missing_ok=True)

    def _check_pace(self, name: str, address: str, monotonic: float) -> None:
        if (wait := self._throttle.attempt(name, address, monotonic)) > 0:
            raise Refusal(f"too many attempts; try again in {max(1, round(wait))} s")

    def _current(self, account: Account) -> Account | None:
        """The account as it is now, where its password is still the one that was looked at."""
        current = self._accounts.get(account.name)
        return current if current is not None and current.hash == account.hash else None

    def _named(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            raise Refusal(f"there is no account {name!r}")
        return account

    def _require_another_administrator(self, name: str) -> None:
        if not any(one.role is Role.ADMINISTRATOR and one.name != name for one in self._accounts.values()):
            raise Refusal(f"{name} is the only administrator; make another first")

    def _is_live(self, session: Session, now: float) -> bool:
        # A clock that was set back must not make a session last longer.
        return session.opened - IDLE_SECONDS <= now < session.expires()

    def _open_session(self, account: Account, now: float, by_link: bool) -> Opened:
        own = sorted((one for one in self._sessions.values() if one.name == account.name), key=lambda one: one.touched)
        self._end(own[: max(0, len(own) - SESSIONS_PER_ACCOUNT_MAX + 1)])
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = Session(_key(token), account.name, now, now, by_link)
        seen = replace(account, last_seen=now)
        with self._failing():
            database = self._opened()
            with database.atomic():
                database.table("sessions").insert(
                    {
                        "key": session.key,
                        "name": session.name,
                        "opened": session.opened,
                        "touched": session.touched,
                        "by_link": int(session.by_link),
                    }
                )
                database.table("accounts").update(account.name, {"last_seen": now})
        self._sessions[session.key] = session
        self._accounts[account.name] = seen
        return Opened(token, session, seen)

    def _keep(self, account: Account, ends_sessions: bool) -> None:
        with self._failing():
            database = self._opened()
            with database.atomic():
                database.table("accounts").upsert(
                    {
                        "name": account.name,
                        "role": account.role.value,
                        "groups": msgspec.json.encode(sorted(account.groups)).decode(),
                        "hash": account.hash,
                        "created": account.created,
                        "last_seen": account.last_seen,
                        "must_change": int(account.must_change),
                    },
                    pk="name",
                )
                if ends_sessions:
                    database.table("sessions").delete_where("name = ?", [account.name])
        self._accounts[account.name] = account
        if ends_sessions:
            self._drop_sessions(account.name)

    def _end(self, sessions: list[Session]) -> None:
        for session in sessions:
            # Ended first of all: a file that can't be written must not keep anybody signed in.
            self._sessions.pop(session.key, None)
            with self._failing():
                self._opened().table("sessions").delete_where("key = ?", [session.key])

    def _drop_sessions(self, name: str) -> None:
        self._sessions = {key: one for key, one in self._sessions.items() if one.name != name}
        self._tickets = {key: one for key, one in self._tickets.items() if one[1] != name}

    async def _verify(self, password: str, known: str) -> bool:
        if len(password) > PASSWORD_CHARACTERS_MAX:
            raise Refusal(f"a password has at most {PASSWORD_CHARACTERS_MAX} characters")
        return await self._in_thread(lambda: _is_password(password, known))

    async def _make_hash(self, password: str) -> str:
        return await self._in_thread(lambda: _new_hash(password))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._hashings >= VERIFICATIONS_WAITING_MAX:
            raise Refusal("too many people sign in at this moment; try again")
        self._hashings += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashing, work)
        finally:
            self._hashings -= 1

    def _table(self, name: str) -> Any:
        return self._opened().table(name)

    def _opened(self) -> Database:
        if self._database is None:
            raise RecordingError(f"the accounts in {self._file} can't be used")
        return self._database

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if not self._accounts:
                self.fault = str(error)
            raise RecordingError(f"the accounts in {self._file} can't be used: {error}") from error


def csrf_of(token: str) -> str:
    """What a form of that session carries, so that no other site can fill it in."""
    return hmac.digest(token.encode(), b"sluicegate csrf 1", "sha256").hex()


def _account(row: dict[str, Any]) -> Account:
    return Account(
        row["name"],
        Role(row["role"]),
        frozenset(msgspec.json.decode(row["groups"], type=list[str])),
        row["hash"],
        row["created"],
        row["last_seen"],
        bool(row["must_change"]),
    )


def _session(row: dict[str, Any]) -> Session:
    return Session(row["key"], row["name"], row["opened"], row["touched"], bool(row["by_link"]))


def _key(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _new_hash(password: str) -> str:
    return _hash(password, secrets.token_bytes(_SALT_BYTES), _COST, _BLOCK, _PARALLEL)


def _hash(password: str, salt: bytes, cost: int, block: int, parallel: int) -> str:
    memory = 128 * block * (cost + parallel + 2)
    made = hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=cost, r=block, p=parallel, maxmem=memory, dklen=_HASH_BYTES
    )
    return _written(cost, block, parallel, salt, made)


def _written(cost: int, block: int, parallel: int, salt: bytes, made: bytes) -> str:
    return f"scrypt${cost}${block}${parallel}${salt.hex()}${made.hex()}"


def _is_password(password: str, known: str) -> bool:
    _, cost, block, parallel, salt, _ = known.split("$")
    made = _hash(password, bytes.fromhex(salt), int(cost), int(block), int(parallel))
    return hmac.compare_digest(made, known)


def _one_time_password() -> str:
    return "-".join(
        "".join(secrets.choice(_ONE_TIME_CHARACTERS) for _ in range(_ONE_TIME_GROUP)) for _ in range(_ONE_TIME_GROUPS)
    )


def _check_password(password: str, name: str) -> None:
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise Refusal(f"a password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters")
    if len(set(password)) < 5 or name in password.lower():
        raise Refusal("this password is too easy to guess: it repeats few characters, or holds the name")


def _checked_role(role: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise Refusal(f"there is no role {role!r}; there are {', '.join(Role)}") from None


def _checked_groups(groups: list[str]) -> frozenset[str]:
    is_fit = all(1 <= len(group) <= _GROUP_CHARACTERS_MAX and group.isprintable() for group in groups)
    if len(groups) > GROUPS_MAX or not is_fit:
        raise Refusal(f"an account has up to {GROUPS_MAX} groups, each of 1 to {_GROUP_CHARACTERS_MAX} printable characters")
    return frozenset(groups)


def _said_groups(groups: frozenset[str]) -> str:
    return f" for {', '.join(sorted(groups))}" if groups else ""


def _plain_address(address: str) -> str:
    return address if len(address) <= 64 and address.isprintable() else "an unreadable address"

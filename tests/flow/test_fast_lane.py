"""The fast lane changes nothing: the same conversation with it and without it gives both sides the same bytes and leaves the
same records; with bytes that come one at a time, so that it can never be taken, the client hears the same again."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decisions import Obligations
from appliance.flow.gate import Gate
from appliance.flow.leg import Leg
from appliance.flow.relay import Relay
from appliance.flow.shares import Shares
from appliance.flow.verdicts import ActivePolicy
from appliance.parties import Endpoint, Phase, Principal, Scope, Side
from appliance.policy.reading import read_policy
from appliance.protocols import inspector as acts
from appliance.protocols.postgres import messages as wire
from appliance.protocols.postgres.inspector import PostgresInspector
from appliance.protocols.postgres.readings import ReadingCache
from appliance.recording.journal import Journal
from appliance.settings import ClientTls, TargetTls, TlsSettings
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, Relation, TableColumn
from tests.flow.loopback import recorded

TABLES = {
    "accounts": (TableColumn(1, "id", 23), TableColumn(2, "owner", 25), TableColumn(3, "balance", 23)),
    "customers": (TableColumn(1, "id", 23), TableColumn(2, "email", 25), TableColumn(3, "note", 25)),
}
CATALOGUE = Catalogue(
    "1",
    150000,
    "shop",
    "agent",
    ("public",),
    frozenset({"public", "pg_catalog"}),
    tuple(Relation(20000 + n, "public", name, "r", columns) for n, (name, columns) in enumerate(TABLES.items())),
)
SEAL = X25519PrivateKey.generate().public_key().public_bytes_raw()
POLICY = """
rules:
  - {id: session, reason: sessions, allow: [{actions: [connect, create, alter, drop]}]}
  - {id: read, reason: reading, allow: [{actions: [read, insert, update]}]}
  - {id: never, reason: nothing is deleted, deny: [{actions: [delete]}]}
  - {id: durable, reason: kept on disk, allow: [{actions: [update]}], durable: true}
  - {id: emails, reason: private, mask: [{objects: [public.customers], fields: [email], with: {kind: redact}}]}
  - {id: cards, reason: private, mask: [{values: [pan], with: {kind: redact}}]}
"""


@dataclass
class Server:
    """As much of a PostgreSQL server as these conversations need."""

    status: str = "I"
    statements: dict[str, str] = field(default_factory=dict)
    portals: dict[str, tuple[str, tuple[bytes | None, ...]]] = field(default_factory=dict)
    has_failed: bool = False
    frames: wire.Framer = field(default_factory=lambda: wire.Framer(wire.CLIENT_BOUNDS))
    out: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> bytes:
        """Messages of a client; what is answered to them."""
        self.frames.feed(data)
        while (message := self.frames.next()) is not None:
            said = wire.read_client(*message)
            if self.has_failed and not isinstance(said, wire.Sync):
                continue
            self._answer(said)
        answered = bytes(self.out)
        self.out.clear()
        return answered

    def _answer(self, said: wire.ClientMessage) -> None:
        match said:
            case wire.Query(text=text):
                self.statements.pop("", None)
                self.portals.pop("", None)
                self._run(text, (), described=True)
                self._ready()
                self.has_failed = False
            case wire.Parse(name=name, text=text):
                if name and name in self.statements:
                    self._fail("42P05", "it exists")
                elif "SLUICEGATE" in text:
                    self._fail("42601", "syntax error")
                else:
                    self.statements[name] = text
                    self.out += wire.PARSE_COMPLETE_MESSAGE
            case wire.Bind(portal=portal, statement=name, values=values):
                if name not in self.statements:
                    self._fail("26000", "no such statement")
                else:
                    self.portals[portal] = (self.statements[name], values)
                    self.out += wire.BIND_COMPLETE_MESSAGE
            case wire.Describe(sort="S", name=name):
                if name not in self.statements:
                    self._fail("26000", "no such statement")
                else:
                    text = self.statements[name]
                    self.out += wire.ParameterDescription((23,) * ("$1" in text)).build() + self._description(text)
            case wire.Describe(name=name):
                if name not in self.portals:
                    self._fail("34000", "no such portal")
                else:
                    self.out += self._description(self.portals[name][0])
            case wire.Execute(portal=portal, rows_max=most):
                if portal not in self.portals:
                    self._fail("34000", "no such portal")
                else:
                    self._run(*self.portals[portal], described=False, most=most)
            case wire.CloseMessage(sort=sort, name=name):
                (self.statements if sort == "S" else self.portals).pop(name, None)
                self.out += wire.CLOSE_COMPLETE_MESSAGE
            case wire.Sync():
                self.has_failed = False
                self._ready()
            case _:
                pass

    def _ready(self) -> None:
        if self.status == "I":
            self.portals.clear()
        self.out += wire.ReadyForQuery(self.status).build()

    def _fail(self, code: str, message: str) -> None:
        self.has_failed = True
        if self.status == "T":
            self.status = "E"
        self.out += wire.error_response("ERROR", code, message)

    def _fields(self, text: str) -> tuple[wire.Field, ...] | None:
        if not text.startswith("select"):
            return None
        table = 20001 if "customers" in text else 20000
        found = []
        for name in text.split(" from ")[0].removeprefix("select ").split(", "):
            number = {"id": 1, "owner": 2, "email": 2, "balance": 3, "note": 3}.get(name, 0)
            oid = 23 if name in ("id", "balance") else 25
            found.append(wire.Field(name if number else "?column?", table if number else 0, number, oid, 4, -1, 0))
        return tuple(found)

    def _description(self, text: str) -> bytes:
        fields = self._fields(text)
        return wire.NO_DATA_MESSAGE if fields is None else wire.RowDescription(fields).build()

    def _run(self, text: str, values: tuple[bytes | None, ...], *, described: bool, most: int = 0) -> None:
        word = (text.split() or [""])[0]
        if "SLUICEGATE" in text:
            return self._fail("42601", "syntax error")
        if self.status == "E" and word not in ("commit", "rollback"):
            return self._fail("25P02", "current transaction is aborted")
        if "balance = 13" in text or b"13" in values:
            return self._fail("22012", "division by zero")
        if "balance = 7" in text:
            self.out += wire.notice_response("NOTICE", "00000", "seven")
        if not word:
            self.out += wire.EMPTY_QUERY_MESSAGE
            return None
        if word in ("begin", "commit", "rollback"):
            tag = "ROLLBACK" if self.status == "E" else word.upper()
            self.status = "T" if word == "begin" else "I"
            self.out += wire.CommandComplete(tag).build()
            return None
        fields = self._fields(text)
        if fields is None:
            tag = {"insert": "INSERT 0 1", "update": "UPDATE 1"}.get(word, word.upper())
            self.out += wire.CommandComplete(tag).build()
            return None
        if described:
            self.out += wire.RowDescription(fields).build()
        # Where nobody expects it, a card number.
        owner = b"4111 1111 1111 1111" if "balance = 3" in text or b"3" in values else b"Ann"
        shown_as = {"id": b"5", "balance": b"100", "owner": owner, "email": b"ann@example.com", "note": owner}
        count = 0 if "balance = 2" in text or b"2" in values else 3
        shown = min(count, most) if most > 0 else count
        for _ in range(shown):
            self.out += wire.DataRow(tuple(shown_as.get(each.name) for each in fields)).build()
        if shown < count:
            self.out += wire.PORTAL_SUSPENDED_MESSAGE
        else:
            self.out += wire.CommandComplete(f"SELECT {shown}").build()
        return None


class Stream(asyncio.Transport):
    """A transport whose other end is a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return True

    def taken(self) -> bytes:
        """What was sent since the last call."""
        taken = b"".join(self.sent)
        self.sent.clear()
        return taken


class Services:
    """Implements as much of flow.relay.FlowServices as these flows need. A question for the catalogue is answered with
    another one each time, because it is asked when something has changed."""

    def __init__(self) -> None:
        self.target = Stream()
        self.target_leg: Leg | None = None
        self.ended: list[str] = []
        self._versions = 0

    async def reply_to(self, flow: Relay, question: acts.Question) -> object:  # noqa: ARG002
        if not isinstance(question, acts.CatalogueQuestion):
            return "agent"
        self._versions += not question.is_guess
        return replace(CATALOGUE, version=str(self._versions))

    async def connect_target(self, flow: Relay, leg: Leg) -> None:  # noqa: ARG002
        leg.connection_made(self.target)
        self.target_leg = leg

    def register_key(self, flow: Relay, key: bytes) -> None:
        pass

    def keeps(self, flow: Relay, size: int) -> None:
        pass

    def flow_ended(self, flow: Relay, reason: str, trace: str | None) -> None:  # noqa: ARG002
        self.ended.append(f"{reason} {trace or ''}")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"these flows have no need of {name}")


class Flow:
    """One flow with its server behind it."""

    def __init__(self, folder: Path, make: type[PostgresInspector]) -> None:
        self._folder = folder
        self.server = Server()
        self.services = Services()
        self.client = Stream()
        self.passed = 0
        self.said: list[tuple[bytes, bytes]] = []
        inspector = make(
            tls=TlsSettings(client=ClientTls.REFUSE, target=TargetTls.DISABLE),
            placeholder=None,
            random=bytes,
            own_key=b"\1\2\3\4key!",
            readings=ReadingCache(read),
        )
        # All is done at once, however slow the machine is.
        loop = asyncio.get_running_loop()
        share = Shares(loop.call_soon, alone_seconds=3_600).enter("bot")
        self.relay = Relay("flow", Endpoint("192.0.2.1", 5432), self.services, loop, share)
        self.gate = Counting(
            "flow",
            ActivePolicy(read_policy([("p.yaml", POLICY)])),
            Journal(folder, 0, SEAL, 1),
            Principal("bot", Phase.EXECUTE, frozenset(), "source address"),
            Scope("shop", "postgres"),
            inspector.redact,
        )
        self.leg = Leg(Side.CLIENT, self.relay)
        self.leg.connection_made(self.client)
        self.relay.begin(inspector, self.gate, self.leg, inspector.opening_acts())

    async def log_in(self) -> None:
        """From the first byte to the first ReadyForQuery."""
        self.leg.data_received(wire.StartupMessage(3, 0, (("user", "agent"), ("database", "shop"))).build())
        await settle()
        assert self.services.target_leg is not None, self.services.ended
        self.services.target_leg.data_received(
            wire.AuthenticationOk().build()
            + wire.ParameterStatus("client_encoding", "UTF8").build()
            + wire.ParameterStatus("standard_conforming_strings", "on").build()
            + wire.BackendKeyData(b"\0\0\1\2real").build()
            + wire.ReadyForQuery("I").build()
        )
        await settle()
        assert self.client.taken().endswith(wire.ReadyForQuery("I").build())
        self.services.target.taken()

    async def say(self, data: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
        """Give bytes of a client, and everything that the server answers, each cut in pieces."""
        to_target = b""
        for piece in cut(data):
            self.leg.data_received(piece)
        await settle()
        assert self.services.target_leg is not None, self.services.ended
        while sent := self.services.target.taken():  # an answer may let more go
            to_target += sent
            for piece in cut(self.server.take(sent)):
                self.services.target_leg.data_received(piece)
            await settle()
        heard = self.client.taken()
        self.said.append((to_target, heard))

    def records(self) -> list[Any]:
        """What is recorded, without what differs each time."""
        found = []
        for record in recorded(self._folder):
            plain = msgspec.to_builtins(record)
            plain.pop("time", None)
            plain["sealed"] = plain.get("sealed") is not None
            found.append(plain)
        return found


class Unhurried(PostgresInspector):
    """An inspector that offers no fast lane."""

    @property
    def fast_lane(self) -> acts.FastLane | None:  # type: ignore[override]
        return None

    @fast_lane.setter
    def fast_lane(self, lane: acts.FastLane | None) -> None:
        pass


class Counting(Gate):
    """A gate that counts what the fast lane brought."""

    passed = 0

    def let_pass(self, familiar: acts.Familiar) -> Obligations | None:
        obligations = super().let_pass(familiar)
        self.passed += obligations is not None
        return obligations


async def settle() -> None:
    """Let whatever control is asked be answered."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


def query(text: str) -> bytes:
    """One simple Query."""
    return wire.Query(text).build()


def bound(name: str, *values: bytes | None, portal: str = "", formats: tuple[int, ...] = ()) -> bytes:
    """A Bind."""
    return wire.Bind(portal, name, (), values, formats).build()


SYNC = wire.Sync().build()
DESCRIBE = wire.Describe("P", "").build()
EXECUTE = wire.Execute("").build()
BY_ID = "select id, owner from accounts where balance = $1"
OTHERS = "select owner, balance from accounts where balance = $1"
MASKED = "select email, note from customers where id = $1"
INSERT = "insert into accounts values ($1, 'Ann', 1)"
STEPS: dict[str, Callable[[int], bytes]] = {
    "query": lambda n: query(f"select id, owner from accounts where balance = {n}"),
    "query of a masked column": lambda n: query(f"select id, email from customers where id = {n}"),
    "query with a card in it": lambda n: query(f"select id from accounts where owner = '411111111111111{n % 2}'"),
    "query of a computed column": lambda n: query(f"select balance + 1 from accounts where balance = {n}"),
    "query of a column it was not read to give": lambda n: query(f"select id, owner as note from accounts where id = {n}"),
    "query that is refused": lambda n: query(f"delete from accounts where id = {n}"),
    "query that is kept on disk": lambda n: query(f"update accounts set balance = {n}"),
    "query of unknown names": lambda n: query(f"select nothing from nowhere{n}"),
    "insert": lambda n: query(f"insert into accounts values ({n}, 'Ann', 1)"),
    "several": lambda n: query(f"select id from accounts where balance = {n}; select id from accounts"),
    "begin": lambda _: query("begin"),
    "commit": lambda _: query("commit"),
    "rollback": lambda _: query("rollback"),
    "path": lambda _: query("set search_path = public, pg_catalog"),
    "path back": lambda _: query("set local search_path = pg_catalog"),
    "definition": lambda n: query(f"create table t{n} (id int)"),
    "empty": lambda _: query(""),
    "no UTF-8": lambda _: wire.frame(wire.QUERY, b"select '\xff'\0"),
    "prepare": lambda n: wire.Parse(f"s{n % 3}", (BY_ID, OTHERS, INSERT)[n % 3]).build() + SYNC,
    "prepare and describe": lambda n: (
        wire.Parse(f"s{n % 3}", (BY_ID, OTHERS, MASKED)[n % 3], (23,)).build()
        + wire.Describe("S", f"s{n % 3}").build()
        + SYNC
    ),
    "forget": lambda n: wire.CloseMessage("S", f"s{n % 3}").build() + SYNC,
    "execute": lambda n: bound(f"s{n % 3}", b"%d" % n) + DESCRIBE + EXECUTE + SYNC,
    "execute undescribed": lambda n: bound(f"s{n % 3}", b"%d" % n) + EXECUTE + SYNC,
    "execute binary": lambda n: bound(f"s{n % 3}", b"%d" % n, formats=(1,)) + EXECUTE + SYNC,
    "execute with a null": lambda n: bound(f"s{n % 3}", None) + DESCRIBE + EXECUTE + SYNC,
    "execute with an address": lambda n: bound(f"s{n % 3}", b"ann@example.com") + DESCRIBE + EXECUTE + SYNC,
    "execute in part": lambda n: bound(f"s{n % 3}", b"1") + DESCRIBE + wire.Execute("", 2).build() + SYNC,
    "execute the rest": lambda _: EXECUTE + SYNC,
    "execute by name": lambda n: (
        bound(f"s{n % 3}", b"%d" % n, portal="p") + wire.Describe("P", "p").build() + wire.Execute("p").build() + SYNC
    ),
    "execute twice": lambda n: bound(f"s{n % 3}", b"1") + DESCRIBE + EXECUTE + bound(f"s{n % 3}", b"5") + EXECUTE + SYNC,
    "at once": lambda n: (
        wire.Parse("", (BY_ID, OTHERS, MASKED, INSERT)[n % 4]).build() + bound("", b"%d" % n) + DESCRIBE + EXECUTE + SYNC
    ),
    "at once, refused": lambda n: (
        wire.Parse("", "delete from accounts").build() + bound("", b"%d" % n) + DESCRIBE + EXECUTE + SYNC
    ),
    "at once, for another": lambda n: (
        wire.Parse("", BY_ID).build() + bound(f"s{n % 3}", b"%d" % n) + DESCRIBE + EXECUTE + SYNC
    ),
    "unnamed again": lambda n: bound("", b"%d" % n) + DESCRIBE + EXECUTE + SYNC,
    "sync": lambda _: SYNC,
    "flush": lambda n: bound(f"s{n % 3}", b"1") + wire.Flush().build() + EXECUTE + SYNC,
    "no sync": lambda n: (
        wire.Parse("", (BY_ID, OTHERS, MASKED, INSERT)[n % 4]).build()
        + bound("", b"%d" % n)
        + DESCRIBE
        + EXECUTE
        + wire.Flush().build()
    ),
    "path, no sync": lambda _: (
        wire.Parse("", "set search_path = pg_catalog").build() + bound("") + EXECUTE + wire.Flush().build()
    ),
    "refused, no sync": lambda _: wire.Parse("", "delete from accounts").build() + wire.Flush().build(),
}

Step = tuple[str, int]
# After these all that is familiar takes the fast lane.
WARM: tuple[Step, ...] = (
    *(("prepare and describe", n) for n in range(3)),
    *(("query", n) for n in (4, 5, 6)),
    *(("insert", n) for n in (4, 5, 6)),
    *(("at once", n) for n in range(4)),
)
# 2: no rows; 3: a card number; 7: a notice; 13: an error.
NUMBERS = (1, 2, 3, 7, 8, 13)


def by_one(data: bytes) -> list[bytes]:
    """One byte at a time: no whole message is ever there at once."""
    return [data[at : at + 1] for at in range(len(data))]


def whole(data: bytes) -> list[bytes]:
    """All at once."""
    return [data] if data else []


Cut = Callable[[bytes], list[bytes]]


async def converse(
    folder: Path, steps: list[bytes], cut: Cut, make: type[PostgresInspector], server: Server | None = None
) -> Flow:
    """A flow that said all this."""
    flow = Flow(folder, make)
    flow.server = server or Server()
    await flow.log_in()
    for step in steps:
        await flow.say(step, cut)
        if flow.services.ended:
            break
    return flow


def compare(steps: list[bytes], cuts: Callable[[], Cut], servers: Callable[[], Server] = Server) -> int:
    """Hold a conversation with the fast lane and without it; how many commands took it. `cuts` makes a way to cut that is
    the same each time, `servers` a server that is."""

    async def both(folder: Path) -> int:
        fast = await converse(folder / "fast", steps, cuts(), PostgresInspector, servers())
        slow = await converse(folder / "slow", steps, cuts(), Unhurried, servers())
        assert slow.gate.passed == 0
        assert fast.said == slow.said
        assert fast.records() == slow.records()
        assert fast.services.ended == slow.services.ended
        return fast.gate.passed

    with tempfile.TemporaryDirectory() as folder:
        for name in ("fast", "slow"):
            (Path(folder) / name).mkdir()
        return asyncio.run(both(Path(folder)))


def compare_by_one(steps: list[bytes]) -> None:
    """Hold a conversation by one byte at a time as well: the client hears the same. For one that waits for each answer: what
    one that does not wait hears may hang on what the target has said by then."""

    async def both(folder: Path) -> None:
        slow = await converse(folder / "slow", steps, whole, Unhurried)
        slowest = await converse(folder / "slowest", steps, by_one, PostgresInspector)
        assert slowest.gate.passed == 0
        assert [heard for _, heard in slow.said] == [heard for _, heard in slowest.said]

    with tempfile.TemporaryDirectory() as folder:
        for name in ("slow", "slowest"):
            (Path(folder) / name).mkdir()
        asyncio.run(both(Path(folder)))


def messages(data: bytes) -> list[bytes]:
    """Whole messages, one by one."""
    found = []
    while data:
        end = 1 + int.from_bytes(data[1:5], "big")
        found.append(data[:end])
        data = data[end:]
    return found


ID = wire.Field("id", 20000, 1, 23, 4, -1, 0)
ODD_ANSWERS = (
    wire.notice_response("NOTICE", "00000", "4111 1111 1111 1111"),
    wire.ParameterStatus("application_name", "4111 1111 1111 1111").build(),
    wire.ParameterStatus("standard_conforming_strings", "off").build(),
    wire.NotificationResponse(3, "c", "4111 1111 1111 1111").build(),
    wire.error_response("ERROR", "22012", "4111 1111 1111 1111"),
    wire.error_response("FATAL", "57P01", "the end"),
    wire.EMPTY_QUERY_MESSAGE,
    wire.PORTAL_SUSPENDED_MESSAGE,
    wire.NO_DATA_MESSAGE,
    wire.BIND_COMPLETE_MESSAGE,
    wire.PARSE_COMPLETE_MESSAGE,
    wire.CLOSE_COMPLETE_MESSAGE,
    *(wire.CommandComplete(tag).build() for tag in ("SELECT 3", "", "x" * 300)),
    *(wire.ReadyForQuery(status).build() for status in "ITE"),
    wire.DataRow((b"5", b"4111 1111 1111 1111")).build(),
    wire.DataRow((b"5",)).build(),
    wire.DataRow((b"5", None, b"ann@example.com")).build(),
    wire.RowDescription(()).build(),
    wire.RowDescription((ID, wire.Field("owner", 20000, 2, 25, -1, -1, 0))).build(),
    wire.RowDescription((ID, wire.Field("email", 20001, 2, 25, -1, -1, 0))).build(),
    wire.RowDescription((wire.Field("owner", 0, 0, 25, -1, -1, 0),)).build(),
    wire.ParameterDescription((25,)).build(),
    wire.frame(wire.COPY_IN_RESPONSE, b"\0\0\0"),
    wire.frame(wire.COPY_OUT_RESPONSE, b"\0\0\0"),
)


class OddServer(Server):
    """A server that now and then says something else than it should."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)

    def take(self, data: bytes) -> bytes:
        """What is answered, rarely all of it and nothing else."""
        said = messages(super().take(data))
        random = self._random
        if said and random.random() < 0.07:
            place, odd = random.randrange(len(said)), random.choice(ODD_ANSWERS)
            match random.randrange(6):
                case 0:
                    said.insert(place, odd)
                case 1:
                    said.append(odd)
                case 2:
                    del said[place]
                case 3:
                    said[place] = odd
                case 4:
                    said.insert(place, said[place])
                case _:
                    wrong = bytearray(said[place])
                    wrong[random.randrange(len(wrong))] ^= random.choice((1, 2, 128, 255))
                    said[place] = bytes(wrong)
        return b"".join(said)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from(NUMBERS)), min_size=1, max_size=25))
def test_whatever_is_said_the_fast_lane_makes_no_difference(data: st.DataObject, said: list[Step]) -> None:
    steps = [STEPS[name](number) for name, number in (*WARM, *said)]
    joined: list[bytes] = []
    for step in steps:
        if joined and data.draw(st.integers(0, 7)) == 0:
            joined[-1] += step  # a client that does not wait
        else:
            joined.append(step)

    places = data.draw(st.lists(st.integers(0, 80) | st.just(10_000), min_size=1, max_size=20))

    def cuts() -> Cut:
        turn = cycle(places)

        def cut(piece: bytes) -> list[bytes]:
            at = next(turn)
            return [part for part in (piece[:at], piece[at:]) if part]

        return cut

    compare(joined, cuts)
    compare_by_one(steps)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from(NUMBERS)), min_size=1, max_size=25),
)
def test_whatever_is_answered_the_fast_lane_makes_no_difference(seed: int, said: list[Step]) -> None:
    compare([STEPS[name](number) for name, number in (*WARM, *said)], lambda: whole, lambda: OddServer(seed))


def test_the_unnamed_statement_is_not_bound_by_its_last_bytes_after_a_query() -> None:
    said: list[Step] = [
        *WARM,
        ("at once", 0),
        ("unnamed again", 1),
        ("unnamed again", 2),
        ("query", 5),
        ("unnamed again", 3),
    ]
    assert compare([STEPS[name](n) for name, n in said], lambda: whole) == 8


def test_a_command_behind_one_without_a_sync_ends_the_transaction_of_both() -> None:
    said: list[Step] = [*WARM, ("no sync", 2), ("execute", 1), ("execute", 13), ("execute", 1)]
    assert compare([STEPS[name](n) for name, n in said], lambda: whole) == 6


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("query", 8),
        ("insert", 8),
        ("at once", 7),
        ("execute", 6),
        ("execute undescribed", 6),
        ("query of a masked column", 0),
        ("query that is kept on disk", 0),
        ("query that is refused", 0),
        ("execute in part", 0),
    ],
)
def test_what_comes_most_takes_it_and_what_has_to_be_changed_does_not(name: str, count: int) -> None:
    prepared = [STEPS["prepare and describe"](n) for n in range(3)]
    said = [STEPS[name](n) for n in (1, 4, 5, 8, 9, 10, 11, 12, 14, 15)]
    assert compare(prepared + said, lambda: whole) == count
    compare_by_one(prepared + said)


def test_an_answer_in_pieces_goes_on_by_the_general_path_and_the_next_command_is_fast_again() -> None:
    def in_three(piece: bytes) -> list[bytes]:
        return [part for part in (piece[:9], piece[9:40], piece[40:]) if part] if piece[:1] == b"T" else [piece]

    said = [STEPS["query"](n) for n in (1, 4, 5, 8, 9)]
    assert compare(said, lambda: in_three) == 3


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("order", range(3))
def test_each_thing_may_follow_each_other(order: int, number: int) -> None:
    names = sorted(name for name in STEPS if name not in ("no UTF-8", "definition") and "path" not in name)
    Random(order).shuffle(names)
    said: list[Step] = [*WARM]
    for name in names:
        said += [
            (name, number),
            ("query", 1),
            ("execute", number),
            ("execute undescribed", number),
            ("at once", number),
            ("unnamed again", number),
        ]
    steps = [STEPS[name](n) for name, n in said]
    assert compare(steps, lambda: whole) > 20
    compare_by_one(steps)

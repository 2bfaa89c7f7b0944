"""The Redis inspector: bytes in, events and bytes out."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decisions import Forward, Hold, HoldTerms, Obligations, Refuse, RuleReference, ValueMask, Verdict
from appliance.effects import Action, Kind, Use, effect
from appliance.errors import AmendmentError, PeerError
from appliance.events import Command
from appliance.parties import Side
from appliance.protocols.redis.commands import effects_of
from appliance.protocols.redis.requests import encode, readable, split_words
from tests.protocols.redis.driver import REDACT, Driver, array, forward_all, pieces, refuse_only

STAND_IN = array("SLUICEGATE.REFUSED")
UNKNOWN = b"-ERR unknown command 'SLUICEGATE.REFUSED', with args beginning with: \r\n"
RULE = RuleReference("r", "p.yaml", 1)
HOLD = Hold(RULE, "ask", HoldTerms())

# (what the client sends, what the target answers, what the target is sent, what the client receives)
CONVERSATIONS = {
    "set and get": (
        array("SET", "a", "1") + array("GET", "a"),
        b"+OK\r\n$1\r\n1\r\n",
        array("SET", "a", "1") + array("GET", "a"),
        b"+OK\r\n$1\r\n1\r\n",
    ),
    "masked by key": (
        array("GET", "user:1") + array("GET", "page:1") + array("HGETALL", "user:2"),
        b"$5\r\nalice\r\n$3\r\nabc\r\n*2\r\n$4\r\nname\r\n$3\r\nbob\r\n",
        array("GET", "user:1") + array("GET", "page:1") + array("HGETALL", "user:2"),
        b"$4\r\n****\r\n$3\r\nabc\r\n*2\r\n$4\r\n****\r\n$4\r\n****\r\n",
    ),
    "nil, empty, nested and error": (
        array("GET", "user:9") + array("LRANGE", "l", "0", "-1") + array("GET", "l") + array("COMMAND"),
        b"$-1\r\n*0\r\n-WRONGTYPE no\r\n*2\r\n*2\r\n:1\r\n$0\r\n\r\n*-1\r\n",
        array("GET", "user:9") + array("LRANGE", "l", "0", "-1") + array("GET", "l") + array("COMMAND"),
        b"$-1\r\n*0\r\n-WRONGTYPE no\r\n*2\r\n*2\r\n:1\r\n$0\r\n\r\n*-1\r\n",
    ),
    "inline commands and empty lines": (
        b"\r\nPING\r\n  get   'a b' \n*0\r\n*-1\r\n",
        b"+PONG\r\n$1\r\n1\r\n",
        array("PING") + array("get", "a b"),
        b"+PONG\r\n$1\r\n1\r\n",
    ),
    "a refusal between two answers": (
        array("PING") + array("FLUSHALL") + array("PING"),
        b"+PONG\r\n" + UNKNOWN + b"+PONG\r\n",
        array("PING") + STAND_IN + array("PING"),
        b"+PONG\r\n-NOPERM refused: not here\r\n+PONG\r\n",
    ),
    "a refusal inside MULTI aborts it": (
        array("MULTI") + array("SET", "a", "1") + array("FLUSHALL") + array("EXEC"),
        b"+OK\r\n+QUEUED\r\n" + UNKNOWN + b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        array("MULTI") + array("SET", "a", "1") + STAND_IN + array("EXEC"),
        b"+OK\r\n+QUEUED\r\n-NOPERM refused: not here\r\n-EXECABORT Transaction discarded because of previous errors.\r\n",
    ),
    "what was queued is masked at EXEC, whatever else was tried between": (
        array("MULTI") + array("GET", "user:1") + array("MULTI") + array("GET", "page:1") + array("EXEC"),
        b"+OK\r\n+QUEUED\r\n-ERR MULTI calls can not be nested\r\n+QUEUED\r\n*2\r\n$5\r\nalice\r\n$1\r\nx\r\n",
        array("MULTI") + array("GET", "user:1") + array("MULTI") + array("GET", "page:1") + array("EXEC"),
        b"+OK\r\n+QUEUED\r\n-ERR MULTI calls can not be nested\r\n+QUEUED\r\n*2\r\n$4\r\n****\r\n$4\r\n****\r\n",
    ),
    "AUTH is swallowed": (
        array("AUTH", "default", "secret") + array("GET", "a"),
        b"+PONG\r\n$1\r\n1\r\n",
        array("PING") + array("GET", "a"),
        b"+OK\r\n$1\r\n1\r\n",
    ),
    "what changes the meaning of answers is refused under any policy": (
        array("MONITOR") + array("client", "reply", "off") + array("HELLO", "3") + array("PING"),
        3 * UNKNOWN + b"+PONG\r\n",
        3 * STAND_IN + array("PING"),
        3
        * (
            b"-NOPERM refused: it would change what answers mean, and the gateway speaks RESP2 with one answer to each "
            b"command\r\n"
        )
        + b"+PONG\r\n",
    ),
    "bytes that are no text": (
        array("SET", b"\xff\x00", b"\r\n$"),
        b"+OK\r\n",
        array("SET", b"\xff\x00", b"\r\n$"),
        b"+OK\r\n",
    ),
}


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_is_the_same_however_it_is_cut(name: str, size: int) -> None:
    asked, answered, forwarded, received = CONVERSATIONS[name]
    driver = Driver(refuse_only("FLUSHALL"))
    for piece in pieces(asked, size):
        driver.client(piece)
    for piece in pieces(answered, size):
        driver.target(piece)
    assert bytes(driver.sent[Side.TARGET]) == forwarded
    assert bytes(driver.sent[Side.CLIENT]) == received
    assert [answer.number for answer in driver.answers] == [command.number for command in driver.commands]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_follows_a_conversation_is_read_on(name: str) -> None:
    asked, answered, forwarded, received = CONVERSATIONS[name]
    driver = Driver(refuse_only("FLUSHALL"))
    driver.client(asked + array("ECHO", "x") + b"*1\r\n$4\r\nPI")
    driver.target(answered + b"$1\r\nx\r\n")
    assert bytes(driver.sent[Side.TARGET]) == forwarded + array("ECHO", "x")
    assert bytes(driver.sent[Side.CLIENT]) == received + b"$1\r\nx\r\n"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([b"*1\r\n", b"$4\r\n", b"PING\r\n", b"*-1\r\n", b'"'])),
        max_size=12,
    )
)
def test_any_bytes_of_a_client_are_events_or_a_peer_error(data: list[bytes]) -> None:
    driver = Driver()
    try:
        for piece in data:
            driver.client(piece)
        driver.end(Side.CLIENT)
    except PeerError:
        pass


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.sampled_from([b"*2\r\n", b"$3\r\nabc\r\n", b":1\r\n", b"$-1\r\n", b"+\r\n"])),
        max_size=12,
    ),
    st.booleans(),
)
def test_any_bytes_of_a_target_are_events_or_a_peer_error(data: list[bytes], is_masked: bool) -> None:
    driver = Driver()
    driver.client(array("GET", "user:1" if is_masked else "a") * 5)
    try:
        for piece in data:
            driver.target(piece)
        driver.end(Side.TARGET)
    except PeerError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_what_a_person_reads_can_be_typed_again(words: list[bytes]) -> None:
    assert split_words(readable(tuple(words)).encode()) == tuple(words)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=5), st.integers(1, 9))
def test_what_is_judged_is_what_is_sent(commands: list[list[bytes]], size: int) -> None:
    driver = Driver(lambda _: Forward(None))
    for piece in pieces(b"".join(encode(tuple(words)) for words in commands), size):
        driver.client(piece)
    judged = b"".join(encode(split_words(command.text.encode())) for command in driver.commands)
    plain = [command for command in driver.commands if command.sort != "AUTH" and command.problem is None]
    if len(plain) == len(driver.commands):
        assert bytes(driver.sent[Side.TARGET]) == judged


@pytest.mark.parametrize(
    "data",
    [
        b"*1000000000\r\n",
        b"*10001\r\n",
        b"*1\r\n$8388609\r\n",
        b"*1\r\n$" + b"1" * 15,
        b"*--5\r\n",
        b"*+1\r\n",
        b"*01\r\n",
        b"*1\n$4\r\nPING\r\n",
        b"*1\r\n:4\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$4\r\nPINGxx",
        b'"FLUSH"ALL\r\n',
        b'GET "a\r\n',
        b"GET a\0b\r\n",
        b"x" * (64 << 10),
    ],
)
def test_what_no_server_should_read_ends_the_flow_at_once(data: bytes) -> None:
    driver = Driver()
    with pytest.raises(PeerError):
        driver.client(data)
    assert not driver.sent[Side.TARGET]


@pytest.mark.parametrize(
    "data",
    [
        b"+OK\r\n+OK\r\n",
        b"%1\r\n",
        b"$5\r\nabcdefg\r\n",
        b"$600000000\r\n",
        b"*1\r\n" * 40,
        b"+" + b"x" * (64 << 10),
        b"$x\r\n",
    ],
)
def test_what_is_no_reply_ends_the_flow(data: bytes) -> None:
    driver = Driver()
    driver.client(array("GET", "a"))
    with pytest.raises(PeerError):
        driver.target(data)


def test_a_command_over_the_limit_is_refused_before_it_has_come() -> None:
    driver = Driver()
    driver.client(b"*3\r\n$3\r\nSET\r\n$4194304\r\n" + b"x" * 4194304 + b"\r\n")
    with pytest.raises(PeerError):
        driver.client(b"$4194304\r\n")


def test_nothing_behind_a_held_command_is_read() -> None:
    driver = Driver(lambda command: HOLD if command.sort == "DEL" else forward_all(command))
    driver.client(array("GET", "a") + array("DEL", "a") + array("GET", "b"))
    assert [command.sort for command in driver.commands] == ["GET", "DEL"]
    assert bytes(driver.sent[Side.TARGET]) == array("GET", "a")
    driver.target(b"$1\r\n1\r\n")
    driver.settle(driver.held[0], Forward(RULE))
    assert bytes(driver.sent[Side.TARGET]) == array("GET", "a") + array("DEL", "a") + array("GET", "b")
    driver.target(b":1\r\n$-1\r\n")
    assert bytes(driver.sent[Side.CLIENT]) == b"$1\r\n1\r\n:1\r\n$-1\r\n"


def hold_del() -> tuple[Driver, Command]:
    driver = Driver(lambda command: HOLD if command.sort == "DEL" else forward_all(command))
    driver.client(array("DEL", "a", "b c"))
    return driver, driver.held[0]


def test_a_held_command_runs_as_a_person_changed_it() -> None:
    driver, held = hold_del()
    assert held.text == 'DEL a "b c"'
    amended = driver.inspector.amend(held, 'del "b c"')
    assert amended.number == held.number
    assert amended.effects == effects_of((b"DEL", b"b c"))
    driver.settle(amended, Forward(RULE))
    assert bytes(driver.sent[Side.TARGET]) == array("del", "b c")


def test_a_refused_amendment_leaves_the_held_command_as_it_was() -> None:
    driver, held = hold_del()
    driver.inspector.amend(held, "DEL everything")
    assert driver.inspector.redact(held) == "DEL a •••"
    driver.settle(held, Forward(RULE))
    assert bytes(driver.sent[Side.TARGET]) == array("DEL", "a", "b c")


@pytest.mark.parametrize(
    "text", ["", "   ", "FLUSHALL", 'DEL "a', "DEL " + "x" * (1 << 20), "DEL " + "a " * 10_000, "DEL \ud800"]
)
def test_an_amendment_that_cannot_stand_in_is_refused(text: str) -> None:
    driver, held = hold_del()
    with pytest.raises(AmendmentError):
        driver.inspector.amend(held, text)


def test_two_equal_commands_are_two() -> None:
    driver = Driver(lambda command: HOLD if command.sort == "DEL" else forward_all(command))
    driver.client(array("DEL", "a") * 2)
    driver.settle(driver.held[0], Refuse(RULE, "no"))
    driver.settle(driver.held[0], Forward(RULE))
    driver.target(UNKNOWN + b":1\r\n")
    assert bytes(driver.sent[Side.CLIENT]) == b"-NOPERM refused by r: no\r\n:1\r\n"


def test_passwords_are_in_no_shown_text() -> None:
    driver = Driver()
    driver.client(array("AUTH", "default", "hunter2") + array("hello", "2", "AUTH", "default", "hunter2"))
    assert [command.shown for command in driver.commands] == ["AUTH •••", "HELLO •••"]


def test_values_of_a_shape_are_in_no_shown_text_also_where_it_is_cut() -> None:
    card = "4111 1111 1111 1111"
    for filling in (0, 2700, 2815, 3000, 4070, 4090, 5000):
        driver = Driver()
        driver.client(array("SET", "a", "x" * filling + " " + card, "y " * 3000))
        assert "4111" not in driver.commands[0].shown
        assert card in driver.commands[0].text
        assert len(driver.commands[0].shown) <= 4200


def test_values_of_a_shape_are_masked_wherever_they_stand() -> None:
    values = Obligations(values=(ValueMask("pan", REDACT),))
    driver = Driver(lambda _: Forward(None, values))
    driver.client(array("MGET", "a", "b") + array("GET", "c") + array("INCRBY", "d", "0") + array("GET", "e"))
    driver.target(b"*2\r\n$16\r\n4111111111111111\r\n$3\r\nabc\r\n-ERR 4111111111111111\r\n:4111111111111111\r\n:5\r\n")
    assert bytes(driver.sent[Side.CLIENT]) == (
        b"*2\r\n$4\r\n****\r\n$3\r\nabc\r\n-ERR ****\r\n-ERR the value is masked\r\n:5\r\n"
    )
    assert b"4111" not in repr(driver.answers).encode()


def test_the_targets_words_are_withheld_where_they_could_tell() -> None:
    driver = Driver(lambda _: Forward(None, Obligations(quiet=True)))
    driver.client(array("GET", "a"))
    assert driver.target(b"-ERR value is alice\r\n").startswith(b"-ERR the target's words are withheld")


def test_the_record_has_what_the_client_saw() -> None:
    driver = Driver()
    driver.client(array("GET", "user:1") + array("MGET", "a", "b"))
    driver.target(b"$5\r\nalice\r\n*2\r\n$1\r\nx\r\n$-1\r\n")
    first, second = driver.answers
    assert (first.status, first.sample, first.columns[0].masked) == ("a string", (("****",),), True)
    assert (second.status, second.sample, second.rows, second.size) == ("2 items", (("x",),), 2, 16)


def test_a_client_that_ends_behind_its_commands_still_gets_the_answers() -> None:
    driver = Driver()
    driver.client(array("PING"))
    driver.end(Side.CLIENT)
    assert driver.closed is None
    assert driver.target(b"+PONG\r\n") == b"+PONG\r\n"
    assert driver.closed == "the client ended the connection"


def test_a_target_that_ends_in_the_middle_ends_the_flow() -> None:
    driver = Driver()
    driver.client(array("GET", "a"))
    driver.target(b"$5\r\nab")
    driver.end(Side.TARGET)
    assert driver.closed == "the target ended the connection"


def test_a_large_reply_passes_in_pieces() -> None:
    driver = Driver()
    driver.client(array("GET", "a"))
    driver.target(b"$20000000\r\n")
    for _ in range(200):
        assert len(driver.target(b"x" * 100_000)) >= 100_000
    assert driver.target(b"\r\n") == b"\r\n"
    assert driver.answers[0].size == 20_000_000 + len(b"$20000000\r\n\r\n")


def test_a_string_too_large_to_be_masked_is_hidden_and_not_kept() -> None:
    driver = Driver()
    driver.client(array("GET", "user:1"))
    size = (16 << 20) + 1
    driver.target(b"$%d\r\n" % size)
    for piece in pieces(b"a" * size, 1 << 16):
        assert driver.target(piece) == b""
    assert driver.target(b"\r\n") == b"$4\r\n****\r\n"


def test_work_grows_no_faster_than_bytes() -> None:
    """Ten times the bytes in equal pieces: a reader that begins anew with each piece would take a hundred times as long."""

    def seconds(total: int) -> float:
        driver = Driver()
        value = b"x" * total
        begun = time.process_time()
        for piece in pieces(array("SET", "a", value), 64):
            driver.client(piece)
        driver.client(array("GET", "user:1") + array("LRANGE", "a", "0", "-1"))
        driver.target(b"+OK\r\n")
        for piece in pieces(b"$%d\r\n%s\r\n" % (total, value), 64):
            driver.target(piece)
        for piece in pieces(b"*%d\r\n" % (total // 8) + b"$2\r\nab\r\n" * (total // 8), 64):
            driver.target(piece)
        return time.process_time() - begun

    small = min(seconds(100_000) for _ in range(3))
    assert seconds(1_000_000) < 40 * small


def test_a_client_that_never_reads_its_answers_is_ended() -> None:
    driver = Driver()
    driver.client(array("PING") * 300_000)
    with pytest.raises(PeerError, match="without reading"):
        driver.client(array("PING"))


def test_a_client_that_does_not_wait_for_a_held_command_is_ended() -> None:
    driver, _ = hold_del()
    driver.client(b"x" * (64 << 20))
    with pytest.raises(PeerError):
        driver.client(b"x")


SHOWS = effect(Action.READ, Kind.KEY, "k", fields=frozenset({"value"}), use=Use.OUTPUT)
DERIVES = effect(Action.READ, Kind.KEY, "k", fields=frozenset({"value"}), use=Use.COMPUTE)
TESTS = effect(Action.READ, Kind.KEY, "k", fields=frozenset({"value"}), use=Use.COMPARE)
WRITES = effect(Action.UPDATE, Kind.KEY, "k", fields=frozenset({"value"}))
LASTS = effect(Action.UPDATE, Kind.KEY, "k", fields=frozenset({"about"}))
TAKES = effect(Action.CONSUME, Kind.KEY, "k", fields=frozenset({"value"}))
DELETES = effect(Action.DELETE, Kind.KEY, "k", fields=frozenset({"value"}))


@pytest.mark.parametrize(
    ("line", "effects"),
    [
        ("GET k", {SHOWS}),
        ("GETRANGE k 0 3", {DERIVES}),
        ("STRLEN k", {DERIVES}),
        ("INCRBY k 0", {WRITES, DERIVES}),
        ("SISMEMBER k x", {TESTS}),
        ("SADD k x", {WRITES, TESTS}),
        ("SET k v", {WRITES}),
        ("set k GET", {WRITES}),
        ("SET k v ex 10 get", {WRITES, SHOWS}),
        ("GETDEL k", {TAKES, SHOWS}),
        ("LPOP k 2", {TAKES, SHOWS}),
        ("DEL k", {DELETES}),
        ("EXPIRE k 3600", {LASTS}),
        ("EXPIRE k 1", {DELETES}),
        ("EXPIRE k -1", {DELETES}),
        ("PEXPIRE k 3600", {DELETES}),
        ("EXPIREAT k 1", {DELETES}),
        ("GETEX k", {SHOWS}),
        ("GETEX k PX 1", {SHOWS, DELETES}),
        ("GETEX k EXAT 1", {SHOWS, DELETES}),
        ("SSCAN k 0", {SHOWS}),
        ("SSCAN k 0 match a*", {SHOWS, DERIVES}),
        ("ZRANGE k 0 -1", {SHOWS}),
        ("ZRANGE k 1 2 BYSCORE", {SHOWS, DERIVES}),
        ("ZADD k 1 a", {WRITES, TESTS}),
        ("ZADD k GT 1 a", {WRITES, DERIVES}),
        ("FLUSHALL", {effect(Action.TRUNCATE, Kind.DATABASE, "flushall")}),
        ("config get *", {effect(Action.ADMIN, Kind.SERVER, "config")}),
        ("EVAL x 0", {effect(Action.EXEC, Kind.PROGRAM, "eval", opaque=True)}),
        ("CLIENT SETNAME x", {effect(Action.CONNECT, Kind.SESSION, "client")}),
        ("CLIENT KILL x", {effect(Action.ADMIN, Kind.SERVER, "client")}),
    ],
)
def test_what_a_command_does(line: str, effects: set[object]) -> None:
    assert effects_of(split_words(line.encode())) == effects


@pytest.mark.parametrize(
    "line",
    [
        "COPY k l", "RENAME k l", "SORT k", "DUMP k", "LMOVE k l LEFT LEFT", "BITOP NOT l k", "SUNIONSTORE l k", "GET",
        "DEL",
        "SET k v IFEQ x", "BLPOP k 0", "XREAD STREAMS k 0", "SUBSCRIBE c", "HELLO", "CLIENT REPLY SKIP", "ſET k v",
        "GET " + "k" * 20_000,
    ],
)  # fmt: skip
def test_what_could_do_more_than_the_table_says_is_unknown(line: str) -> None:
    assert [found.action for found in effects_of(split_words(line.encode()))] == [Action.UNKNOWN]


def test_every_key_of_a_command_has_its_effect() -> None:
    assert {found.thing.name for found in effects_of((b"MSET", b"a", b"1", b"b", b"2"))} == {"a", "b"}
    assert {found.thing.name for found in effects_of((b"DEL", b"a", b"b", b"\xff"))} == {"a", "b", "\\xff"}
    assert {found.thing.name for found in effects_of((b"PFCOUNT", b"a", b"b"))} == {"a", "b"}


def test_a_refusal_is_one_line_whatever_the_reason() -> None:
    verdict: Verdict = Refuse(RULE, "a\r\nb", "c\nd")
    driver = Driver(lambda _: verdict)
    driver.client(array("GET", "a"))
    assert driver.target(UNKNOWN) == b"-NOPERM refused by r: a  b; c d\r\n"

"""Sessions as conversations: bytes in, bytes out, whole and byte by byte; whatever a peer sends, events or a peer error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.decisions import FieldMask, Forward, Mask, Obligations, Refuse, Verdict
from appliance.effects import Kind, Thing
from appliance.errors import AmendmentError, PeerError
from appliance.events import Command, Finished, Left, NotUnderstood, Own, Passage
from appliance.parties import Side
from appliance.protocols.inspector import CatalogueQuestion, Question, ReadingQuestion
from appliance.protocols.postgres import messages as wire
from appliance.protocols.postgres.inspector import PostgresInspector
from appliance.protocols.postgres.readings import ReadingRoom
from appliance.settings import ClientTls, TargetTls, TlsSettings
from appliance.sql.analysis import read
from appliance.sql.catalogue import Catalogue, Relation, TableColumn
from appliance.sql.reading import SessionView
from tests.protocols.postgres.driver import ALLOW, RULE, Driver, hold, refuse
from tests.protocols.postgres.raw_client import short_all

CLIENT, TARGET = Side.CLIENT, Side.TARGET

CATALOGUE = Catalogue(
    version="1",
    server_version=150000,
    database="shop",
    role="agent",
    search_path=("public",),
    schemas=frozenset({"public", "pg_catalog"}),
    relations=(
        Relation(
            20000,
            "public",
            "customers",
            "r",
            (TableColumn(1, "id", 23), TableColumn(2, "name", 25), TableColumn(3, "card_number", 25)),
        ),
    ),
)
CARD = FieldMask(Thing(Kind.TABLE, ("public", "customers")), "card_number", Mask("redact"))
MASKED = Forward(RULE, Obligations(fields=(CARD,), quiet=True))

READY = wire.ReadyForQuery("I").build()
READY_T = wire.ReadyForQuery("T").build()
READY_E = wire.ReadyForQuery("E").build()
SYNC = wire.Sync().build()
OUR_ERROR = wire.error_response("ERROR", "42601", 'syntax error at or near "SLUICEGATE"', position=1)
TARGET_KEY = b"\0\0\1\2real"


def fields(*names: str, code: int = 0, type_oid: int = 25) -> bytes:
    return wire.RowDescription(tuple(wire.Field(name, 0, 0, type_oid, -1, -1, code) for name in names)).build()


def row(*values: str | None) -> bytes:
    return wire.DataRow(tuple(None if value is None else value.encode() for value in values)).build()


def done(tag: str) -> bytes:
    return wire.CommandComplete(tag).build()


def query(text: str) -> bytes:
    return wire.Query(text).build()


def own_query(number: int) -> bytes:
    return query(f"SLUICEGATE REFUSED COMMAND {number}")


def own_parse(number: int) -> bytes:
    return wire.Parse("sluicegate_refusal", f"SLUICEGATE REFUSED COMMAND {number}").build()


def session(
    policy: Callable[[Command], Verdict],
    catalogue: object = CATALOGUE,
    here_max: int | None = None,
    elsewhere: Callable[[str, Catalogue, SessionView], object] = read,
) -> Driver:
    """A flow that has just become a session. Texts of more than `here_max` characters are read `elsewhere`."""

    def answering(question: Question) -> object:
        if isinstance(question, ReadingQuestion):
            return elsewhere(question.text, question.catalogue, question.session)
        return catalogue if isinstance(question, CatalogueQuestion) else "agent"

    inspector = PostgresInspector(
        tls=TlsSettings(client=ClientTls.REFUSE, target=TargetTls.DISABLE),
        placeholder=None,
        random=bytes,
        own_key=b"\0\0\0\1own!",
        readings=ReadingRoom(read, here_max).of("x", "shop"),
    )
    driver = Driver(inspector, policy, answering)
    driver.receive(CLIENT, wire.StartupMessage(3, 0, (("user", "x"), ("database", "shop"))).build())
    driver.receive(
        TARGET,
        wire.AuthenticationOk().build()
        + wire.ParameterStatus("client_encoding", "UTF8").build()
        + wire.ParameterStatus("standard_conforming_strings", "on").build()
        + wire.BackendKeyData(TARGET_KEY).build()
        + READY,
    )
    if catalogue is not None:
        assert driver.taken_by_client().endswith(READY)
    driver.taken_by_target()
    driver.events.clear()
    driver.recorded.clear()
    return driver


def allow(_: Command) -> Verdict:
    return ALLOW


def refuse_customers(command: Command) -> Verdict:
    return refuse() if "customers" in command.text else ALLOW


def hold_delete(command: Command) -> Verdict:
    return hold() if "delete" in command.text else ALLOW


def mask_all(_: Command) -> Verdict:
    return MASKED


P1, P2 = wire.Parse("", "select 1").build(), wire.Parse("", "select name from customers").build()
B, X = wire.Bind("", "").build(), wire.Execute("").build()
PARSED, BOUND = wire.PARSE_COMPLETE_MESSAGE, wire.BIND_COMPLETE_MESSAGE
ONE = fields("?column?") + row("1") + done("SELECT 1")
REFUSED = "E 42501"

# Who says what; then what the other side has received by the end of it.
Transcript = tuple[Callable[[Command], Verdict], Sequence[tuple[Side, bytes]], list[str], bytes]

TRANSCRIPTS: dict[str, Transcript] = {
    "a query": (
        allow,
        [(CLIENT, query("select 1")), (TARGET, ONE + READY)],
        ["T", "D 1", "C SELECT 1", "Z I"],
        query("select 1"),
    ),
    "an empty query": (
        allow,
        [(CLIENT, query("-- nothing")), (TARGET, wire.EMPTY_QUERY_MESSAGE + READY)],
        ["I", "Z I"],
        query("-- nothing"),
    ),
    "a refused query between two": (
        refuse_customers,
        [
            (CLIENT, query("select 1") + query("delete from customers") + query("select 2")),
            (TARGET, ONE + READY + OUR_ERROR + READY + ONE + READY),
        ],
        ["T", "D 1", "C SELECT 1", "Z I", REFUSED, "Z I", "T", "D 1", "C SELECT 1", "Z I"],
        query("select 1") + own_query(2) + query("select 2"),
    ),
    "a refused Parse, what follows discarded, the next sequence answered": (
        refuse_customers,
        [
            (CLIENT, P1 + B + X + P2 + B + X + SYNC + P1 + B + X + SYNC),
            (TARGET, PARSED + BOUND + row("1") + done("SELECT 1") + OUR_ERROR + READY),
            (TARGET, PARSED + BOUND + row("1") + done("SELECT 1") + READY),
        ],
        ["1", "2", "D 1", "C SELECT 1", REFUSED, "Z I", "1", "2", "D 1", "C SELECT 1", "Z I"],
        P1 + B + X + own_parse(3) + SYNC + P1 + B + X + SYNC,
    ),
    "the target's own error discards the same way": (
        allow,
        [
            (CLIENT, P1 + B + X + SYNC),
            (TARGET, wire.error_response("ERROR", "22012", "division by zero") + READY),
            (CLIENT, query("select 1")),
            (TARGET, ONE + READY),
        ],
        ["E 22012", "Z I", "T", "D 1", "C SELECT 1", "Z I"],
        P1 + B + X + SYNC + query("select 1"),
    ),
    "an unknown statement is refused, not guessed": (
        allow,
        [(CLIENT, wire.Bind("", "nothing").build() + X + SYNC), (TARGET, OUR_ERROR + READY)],
        ["E 26000", "Z I"],
        own_parse(1) + SYNC,
    ),
    "a COPY out": (
        allow,
        [
            (CLIENT, query("copy customers to stdout")),
            (TARGET, wire.CopyResponse(wire.COPY_OUT_RESPONSE, 0, (0, 0, 0)).build() + wire.CopyData(b"1\tx\ty\n").build()),
            (TARGET, wire.CopyDone().build() + done("COPY 1") + READY),
        ],
        ["H", "d 1\tx\ty\n", "c", "C COPY 1", "Z I"],
        query("copy customers to stdout"),
    ),
    "a COPY in, and a query behind it": (
        allow,
        [
            (CLIENT, query("copy customers from stdin") + wire.CopyData(b"1\tx\ty\n").build() + wire.CopyDone().build()),
            (TARGET, wire.CopyResponse(wire.COPY_IN_RESPONSE, 0, (0, 0, 0)).build()),
            (CLIENT, query("select 1")),
            (TARGET, done("COPY 1") + READY),
            (TARGET, ONE + READY),
        ],
        ["G", "C COPY 1", "Z I", "T", "D 1", "C SELECT 1", "Z I"],
        query("copy customers from stdin")
        + wire.CopyData(b"1\tx\ty\n").build()
        + wire.CopyDone().build()
        + query("select 1"),
    ),
    "COPY data sent ahead of the server's word waits for it": (
        allow,
        [
            (CLIENT, query("copy customers from stdin") + wire.CopyData(b"1\tx\ty\n").build() + wire.CopyDone().build()),
            (TARGET, wire.error_response("ERROR", "42501", "no") + READY),
            (CLIENT, query("select 1")),
            (TARGET, ONE + READY),
        ],
        ["E 42501", "Z I", "T", "D 1", "C SELECT 1", "Z I"],
        query("copy customers from stdin")
        + wire.CopyData(b"1\tx\ty\n").build()
        + wire.CopyDone().build()
        + query("select 1"),
    ),
    "masked rows, with a NULL": (
        mask_all,
        [
            (CLIENT, query("select id, card_number from customers")),
            (TARGET, fields("id", "card_number") + row("1", "4111") + row("2", None) + done("SELECT 2") + READY),
        ],
        ["T", "D 1,****", "D 2,NULL", "C SELECT 2", "Z I"],
        query("select id, card_number from customers"),
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("way", ["whole", "byte by byte", "with trailing data", "read elsewhere"])
def test_transcript(name: str, way: str) -> None:
    policy, steps, received, sent = TRANSCRIPTS[name]
    driver = session(policy, here_max=0 if way == "read elsewhere" else None)
    for side, data in steps:
        if way == "byte by byte":
            for at in range(len(data)):
                driver.receive(side, data[at : at + 1])
        else:
            driver.receive(side, data)
    if way == "with trailing data":
        driver.receive(CLIENT, b"Q\0\0")
        driver.receive(TARGET, b"N\0\0")
    assert short_all(driver.taken_by_client()) == received
    assert driver.taken_by_target() == sent
    assert driver.closed is None


def test_a_simple_query_takes_two_events() -> None:
    driver = session(allow)
    driver.receive(CLIENT, query("select 1"))
    driver.receive(TARGET, ONE + READY)
    assert [type(event) for event in driver.events] == [Command, Finished]


def test_nothing_behind_a_held_command_is_read() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("delete from customers") + query("select 1"))
    assert short_all(driver.taken_by_client()) == ["N 01000"]
    assert driver.taken_by_target() == b""
    assert len(driver.commands()) == 1
    driver.settle(ALLOW)
    assert driver.taken_by_target() == query("delete from customers") + query("select 1")


def test_a_hold_that_expires_refuses_and_the_session_goes_on() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("delete from customers"))
    driver.taken_by_client()
    driver.settle(refuse("nobody answered within 60 seconds"))
    assert driver.taken_by_target() == own_query(1)
    driver.receive(TARGET, OUR_ERROR + READY)
    assert short_all(driver.taken_by_client()) == [REFUSED, "Z I"]


def test_a_hold_that_expires_in_a_transaction_fails_it() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("begin"))
    driver.receive(TARGET, done("BEGIN") + READY_T)
    driver.receive(CLIENT, query("delete from customers"))
    assert driver.held is not None
    assert driver.held.in_transaction
    driver.taken_by_client()
    driver.settle(refuse("nobody answered within 60 seconds"))
    driver.receive(TARGET, OUR_ERROR + READY_E)
    assert short_all(driver.taken_by_client()) == [REFUSED, "Z E"]


def test_a_cancelled_hold_says_what_the_server_says_of_a_cancel() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("delete from customers"))
    driver.taken_by_client()
    assert driver.inspector.cancel() == []  # nothing runs at the target
    driver.settle(Refuse(RULE, "the client cancelled it", withdrawn=True))
    driver.receive(TARGET, OUR_ERROR + READY)
    assert short_all(driver.taken_by_client()) == ["E 57014", "Z I"]


def test_a_client_that_leaves_a_hold_ends_the_flow_and_nothing_ran() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("delete from customers"))
    driver.taken_by_client()
    # The relay withdraws what is held before it says that the client has left.
    driver.settle(Refuse(RULE, "the client left while it waited", withdrawn=True))
    driver.end(CLIENT)
    driver.receive(TARGET, OUR_ERROR + READY)
    assert isinstance(driver.events[-1], Left)
    assert driver.closed == "the client left"
    assert driver.taken_by_target() == own_query(1) + wire.Terminate().build()


def test_an_amendment_that_the_client_would_misread_is_refused() -> None:
    driver = session(hold_delete)
    driver.receive(
        CLIENT, wire.Parse("", "delete from customers where id = $1").build() + wire.Bind("", "", (), (b"1",)).build()
    )
    assert driver.held is not None
    for text in (
        "delete from customers where id = 1",
        "delete from customers where id = $1 returning id",
        "delete from customers where id = $1; select 1",
        "begin",
        "copy customers to stdout",
        "not sql",
        "",
        "delete from customers where id = $1\0",
    ):
        with pytest.raises(AmendmentError):
            driver.inspector.amend(driver.held, text)
    driver.amend("delete from customers where id = $1 and name = 'x'")
    sent = driver.taken_by_target()
    assert b"sluicegate_2" in sent
    assert sent.count(b"delete from customers") == 2  # the Parse that may not be held, and the changed one


def test_the_answer_to_an_amended_bind_hides_our_own_messages() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, wire.Parse("", "delete from customers").build() + B + X + SYNC)
    driver.taken_by_client()
    driver.amend("delete from customers where id = 1")
    driver.receive(TARGET, PARSED + PARSED + BOUND + wire.CLOSE_COMPLETE_MESSAGE + done("DELETE 1") + READY)
    assert short_all(driver.taken_by_client()) == ["N 01000", "1", "2", "C DELETE 1", "Z I"]


def test_an_amended_bind_is_refused_where_the_target_describes_other_columns() -> None:
    driver = session(hold_delete)
    first = wire.Parse("s", "delete from customers returning id").build() + wire.Describe("S", "s").build() + SYNC
    driver.receive(CLIENT, first)
    driver.receive(TARGET, PARSED + wire.ParameterDescription(()).build() + fields("id", type_oid=23) + READY)
    driver.taken_by_client()
    driver.receive(CLIENT, wire.Bind("", "s").build() + X + SYNC)
    driver.taken_by_client()
    driver.taken_by_target()
    driver.amend("delete from customers where name = 'x' returning id")
    assert b"B" not in [bytes((code,)) for code, _ in frames(driver.taken_by_target())]
    driver.receive(TARGET, PARSED + wire.ParameterDescription(()).build() + fields("id", type_oid=25))
    assert driver.taken_by_target() == own_parse(2) + SYNC
    driver.receive(TARGET, OUR_ERROR + READY)
    assert short_all(driver.taken_by_client()) == ["N 01000", "E 0A000", "Z I"]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    framer = wire.Framer(wire.CLIENT_BOUNDS)
    framer.feed(data)
    found = []
    while (message := framer.next()) is not None:
        found.append(message)
    return found


def test_what_stands_for_a_refusal_is_an_event_of_its_own() -> None:
    driver = session(refuse_customers)
    driver.receive(CLIENT, query("delete from customers where name = 'secret'"))
    assert [event.shown for event in driver.recorded if isinstance(event, Own)] == ["SLUICEGATE REFUSED COMMAND 1"]
    assert b"secret" not in driver.taken_by_target()


def test_short_texts_are_read_here_and_long_ones_elsewhere_once() -> None:
    asked: list[str] = []

    def elsewhere(text: str, catalogue: Catalogue, view: SessionView) -> object:
        asked.append(text)
        return read(text, catalogue, view)

    driver = session(allow, here_max=20, elsewhere=elsewhere)
    long = "select 1 as a_name_that_is_long"
    driver.receive(CLIENT, query("select 1") + query(long))
    assert asked == [long]
    assert [command.text for command in driver.commands()] == ["select 1", long]
    assert driver.commands()[1].shown == long


def test_a_text_that_nobody_reads_ends_the_flow_and_does_not_run() -> None:
    driver = session(allow, here_max=0, elsewhere=lambda *_: None)
    driver.receive(CLIENT, query("select 1"))
    assert short_all(driver.taken_by_client())[-1] == "E 57P03"
    assert driver.taken_by_target() == wire.Terminate().build() or not driver.taken_by_target()
    assert driver.closed == "the gateway cannot read long statements"


def test_no_catalogue_no_session() -> None:
    driver = session(allow, catalogue=None)
    assert short_all(driver.taken_by_client())[-1] == "E 57P03"
    assert driver.closed == "the gateway cannot read the target's catalogue"


def test_a_result_with_other_columns_than_were_read_ends_the_flow() -> None:
    driver = session(mask_all)
    driver.receive(CLIENT, query("select id, card_number from customers"))
    driver.receive(TARGET, fields("card_number", "id", "extra") + row("4111", "1", "x"))
    assert b"4111" not in driver.to_client
    assert driver.closed is not None


def test_a_masked_column_that_the_reading_missed_ends_the_flow() -> None:
    driver = session(mask_all)
    driver.receive(CLIENT, query("select id from customers"))
    described = wire.RowDescription((wire.Field("id", 20000, 3, 25, -1, -1, 0),)).build()
    driver.receive(TARGET, described + row("4111"))
    assert b"4111" not in driver.to_client
    assert driver.closed is not None


def test_a_changed_pinned_setting_ends_the_flow() -> None:
    driver = session(allow)
    driver.receive(CLIENT, query("select 1"))
    driver.receive(TARGET, wire.ParameterStatus("standard_conforming_strings", "off").build())
    assert short_all(driver.taken_by_client()) == ["E 58000"]
    assert driver.closed is not None


def test_a_large_row_passes_in_pieces_without_being_held() -> None:
    driver = session(allow)
    driver.receive(CLIENT, query("select 1"))
    driver.receive(TARGET, fields("?column?"))
    large = row("x" * 1_000_000)
    driver.receive(TARGET, large[:100_000])
    assert len(driver.to_client) > 90_000
    driver.receive(TARGET, large[100_000:] + done("SELECT 1") + READY)
    assert short_all(driver.taken_by_client())[-2:] == ["C SELECT 1", "Z I"]
    assert driver.finished()[0].rows == 1


def test_a_password_in_a_session_breaks_the_protocol() -> None:
    driver = session(allow)
    driver.receive(CLIENT, wire.Password(b"x").build())
    assert isinstance(driver.events[-1], NotUnderstood)
    assert short_all(driver.taken_by_client()) == ["E 08P01"]
    assert driver.closed is not None


def test_a_target_that_answers_what_nobody_asked_breaks_the_protocol() -> None:
    driver = session(allow)
    with pytest.raises(PeerError):
        driver.receive(TARGET, ONE)


CLIENT_WORDS = st.sampled_from(
    [
        *(query("select 1"), query("delete from customers"), query("begin"), query("select card_number from customers")),
        *(
            query("copy customers from stdin"),
            query("declare c cursor for select 1"),
            query("fetch c"),
            query("prepare p as select 1"),
        ),
        *(P1, P2, B, X, SYNC, wire.Flush().build(), wire.Describe("S", "").build(), wire.Describe("P", "").build()),
        *(
            wire.CloseMessage("S", "").build(),
            wire.CopyData(b"x").build(),
            wire.CopyDone().build(),
            wire.CopyFail("x").build(),
        ),
        *(wire.FunctionCall(1, (), (), 0).build(), wire.Terminate().build(), wire.Password(b"x").build(), query("\0"[:0])),
        wire.Bind("p", "", (1,), (b"\0",), (1,)).build(),
    ]
)
TARGET_WORDS = st.sampled_from(
    [
        *(ONE, READY, READY_T, READY_E, OUR_ERROR, PARSED, BOUND, wire.CLOSE_COMPLETE_MESSAGE, wire.NO_DATA_MESSAGE),
        *(fields("a"), row("1"), row("1", "2"), done("SELECT 1"), done("BEGIN"), wire.PORTAL_SUSPENDED_MESSAGE),
        *(wire.CopyResponse(wire.COPY_IN_RESPONSE, 0, ()).build(), wire.CopyResponse(wire.COPY_OUT_RESPONSE, 1, ()).build()),
        *(wire.CopyData(b"x").build(), wire.CopyDone().build(), wire.notice_response("NOTICE", "00000", "x")),
        *(wire.NotificationResponse(1, "c", "p").build(), wire.ParameterDescription((23,)).build(), fields("a", code=1)),
    ]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(CLIENT), CLIENT_WORDS),
        st.tuples(st.just(TARGET), TARGET_WORDS),
        st.tuples(st.sampled_from(list(Side)), st.binary(max_size=12)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([allow, refuse_customers, mask_all, hold_delete]), st.booleans())
def test_any_bytes_give_events_or_a_peer_error(
    steps: list[tuple[Side, bytes]], policy: Callable[[Command], Verdict], is_settled: bool
) -> None:
    driver = session(policy)
    with suppress(PeerError):
        for side, data in steps:
            driver.receive(side, data)
            if driver.held is not None and is_settled:
                driver.settle(ALLOW)
        driver.end(CLIENT)
        driver.end(TARGET)


def test_rows_of_copy_data_are_noted_as_one_amount() -> None:
    driver = session(allow)
    driver.receive(CLIENT, query("copy customers from stdin"))
    driver.receive(TARGET, wire.CopyResponse(wire.COPY_IN_RESPONSE, 0, (0, 0, 0)).build())
    driver.receive(CLIENT, wire.CopyData(b"1\tx\ty\n").build() * 100 + wire.CopyDone().build())
    assert [event.note for event in driver.recorded if isinstance(event, Passage)] == [
        "COPY data, 600 bytes; end of COPY data"
    ]


def test_a_hold_does_not_stop_what_the_target_still_answers() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, query("select 1") + query("delete from customers"))
    driver.receive(TARGET, ONE + READY)
    assert short_all(driver.taken_by_client()) == ["N 01000", "T", "D 1", "C SELECT 1", "Z I"]


def test_a_bind_that_waited_is_not_sent_once_the_target_has_failed_before_it() -> None:
    driver = session(hold_delete)
    driver.receive(CLIENT, P1 + B + X + wire.Parse("", "delete from customers").build() + B + X + SYNC)
    assert driver.held is not None
    driver.receive(TARGET, PARSED + BOUND + wire.error_response("ERROR", "22012", "division by zero"))
    driver.taken_by_target()
    driver.settle(ALLOW)
    assert driver.taken_by_target() == SYNC
    assert [(event.number, event.status) for event in driver.finished()] == [
        (2, "ERROR 22012"),
        (3, "SKIPPED"),
        (4, "SKIPPED"),
    ]


def test_a_search_path_that_is_not_confirmed_yet_holds_back_what_it_would_change() -> None:
    driver = session(allow)
    driver.receive(CLIENT, query("set search_path = other") + query("select 1"))
    assert driver.taken_by_target() == query("set search_path = other")
    driver.receive(TARGET, done("SET") + READY)
    assert driver.taken_by_target() == query("select 1")


def test_in_the_extended_protocol_a_flush_of_ours_brings_the_confirmation() -> None:
    driver = session(allow)
    change = wire.Parse("", "set search_path = other").build() + B + X
    driver.receive(CLIENT, change + P1 + B + X + SYNC)
    assert driver.taken_by_target() == change + wire.Flush().build()
    driver.receive(TARGET, PARSED + BOUND + done("SET"))
    assert driver.taken_by_target() == P1 + B + X + SYNC


@pytest.mark.parametrize("answer", [ONE, READY, done("SELECT 1"), fields("a")])
def test_a_target_that_does_not_fail_on_what_stands_for_a_refusal_ends_the_flow(answer: bytes) -> None:
    driver = session(refuse_customers)
    driver.receive(CLIENT, query("delete from customers"))
    with pytest.raises(PeerError):
        driver.receive(TARGET, answer)
    assert driver.taken_by_client() == b""


def test_the_texts_of_prepared_statements_are_bounded_together() -> None:
    driver = session(allow)
    text = "select 1 /* " + "x" * (16 << 20) + " */"
    for number in range(4):
        driver.receive(CLIENT, wire.Parse(f"s{number}", text).build() + wire.Flush().build())
        if driver.closed is None and number < 3:
            driver.receive(TARGET, PARSED)
    driver.receive(TARGET, OUR_ERROR)
    assert "E 53400" in short_all(driver.taken_by_client())


def _origin(name: str, column: int) -> wire.Field:
    return wire.Field(name, 20000, column, 25, -1, -1, 0)


MISREAD: dict[str, tuple[str, Verdict, tuple[wire.Field, ...]]] = {
    "a column that was never judged": ("select name from customers", ALLOW, (_origin("name", 3),)),
    "a masked column in the place of a plain one": (
        "select card_number, name from customers",
        MASKED,
        (_origin("card_number", 2), _origin("name", 3)),
    ),
    "another name": ("select card_number, name from customers", MASKED, (_origin("card_number", 3), _origin("id", 1))),
    "one column less": ("select name, card_number from customers", MASKED, (_origin("name", 2),)),
    "rows where none were read": ("update customers set name = 'x'", MASKED, (_origin("name", 2),)),
}


@pytest.mark.parametrize(("text", "verdict", "described"), MISREAD.values(), ids=MISREAD)
@pytest.mark.parametrize("is_simple", [True, False])
def test_a_result_that_is_not_what_was_judged_ends_the_session(
    text: str, verdict: Verdict, described: tuple[wire.Field, ...], is_simple: bool
) -> None:
    driver = session(lambda _: verdict)
    answer = wire.RowDescription(described).build()
    secret = row(*("4111" for _ in described)) + done("SELECT 1") + READY
    if is_simple:
        driver.receive(CLIENT, query(text))
        driver.receive(TARGET, answer + secret)
    else:
        driver.receive(CLIENT, wire.Parse("", text).build() + B + wire.Describe("P", "").build() + X + SYNC)
        driver.receive(TARGET, PARSED + BOUND + answer + secret)
    assert driver.closed is not None
    assert b"4111" not in driver.taken_by_client()


def test_a_result_that_is_what_was_judged_passes() -> None:
    driver = session(lambda _: MASKED)
    driver.receive(CLIENT, query("select card_number as c, name from customers"))
    described = wire.RowDescription((_origin("c", 3), _origin("name", 2))).build()
    driver.receive(TARGET, described + row("4111", "Ann") + done("SELECT 1") + READY)
    assert driver.closed is None
    assert row("****", "Ann") in driver.taken_by_client()

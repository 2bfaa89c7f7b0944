"""Messages: what is built is read back, and whatever is not a message to the byte is a peer error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import PeerError
from appliance.protocols.postgres import messages as m

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
OID = st.integers(min_value=0, max_value=2**32 - 1)
INT32 = st.integers(min_value=-(2**31), max_value=2**31 - 1)
INT16 = st.integers(min_value=-(2**15), max_value=2**15 - 1)
FORMAT = st.integers(min_value=0, max_value=1)
VALUE = st.none() | st.binary(max_size=20)


@st.composite
def valued(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[bytes | None, ...]]:
    values = draw(st.lists(VALUE, max_size=5))
    formats = draw(st.sampled_from([0, 1, len(values)]))
    return tuple(draw(FORMAT) for _ in range(formats)), tuple(values)


def tuples(of: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(of, max_size=5).map(tuple)


CLIENT = st.one_of(
    st.builds(m.Query, TEXT),
    st.builds(m.Parse, TEXT, TEXT, tuples(OID)),
    st.builds(lambda p, s, v, r: m.Bind(p, s, v[0], v[1], r), TEXT, TEXT, valued(), tuples(FORMAT)),
    st.builds(m.Describe, st.sampled_from("SP"), TEXT),
    st.builds(m.CloseMessage, st.sampled_from("SP"), TEXT),
    st.builds(m.Execute, TEXT, INT32),
    st.just(m.Sync()),
    st.just(m.Flush()),
    st.just(m.Terminate()),
    st.builds(m.CopyData, st.binary(max_size=40)),
    st.just(m.CopyDone()),
    st.builds(m.CopyFail, TEXT),
    st.builds(lambda f, v, r: m.FunctionCall(f, v[0], v[1], r), OID, valued(), FORMAT),
    st.builds(m.LoginToken, st.binary(max_size=40)),
)
NAMED = TEXT.filter(bool)
FIELD = st.builds(m.Field, TEXT, OID, INT16, OID, INT16, INT32, FORMAT)
SERVER = st.one_of(
    st.builds(m.BackendKeyData, st.binary(min_size=8, max_size=260)),
    st.builds(m.ParameterStatus, TEXT, TEXT),
    st.builds(m.NegotiateProtocolVersion, OID, st.lists(TEXT, max_size=4).map(tuple)),
    st.builds(m.ReadyForQuery, st.sampled_from("ITE")),
    st.builds(m.CommandComplete, TEXT),
    st.builds(m.RowDescription, st.lists(FIELD, max_size=4).map(tuple)),
    st.builds(m.ParameterDescription, tuples(OID)),
    st.builds(m.DataRow, st.lists(VALUE, max_size=5).map(tuple)),
    st.builds(m.NotificationResponse, INT32, TEXT, TEXT),
)
AUTHENTICATION = st.one_of(
    st.just(m.AuthenticationOk()),
    st.just(m.AuthenticationCleartextPassword()),
    st.builds(m.AuthenticationMd5Password, st.binary(min_size=4, max_size=4)),
    st.builds(m.AuthenticationSasl, st.lists(NAMED, max_size=3).map(tuple)),
    st.builds(m.AuthenticationSaslContinue, st.binary(max_size=40)),
    st.builds(m.AuthenticationSaslFinal, st.binary(max_size=40)),
    st.builds(m.AuthenticationOther, st.sampled_from([2, 6, 7, 8, 9, 99]), st.binary(max_size=10)),
)
FIRST = st.one_of(
    st.just(m.SslRequest()),
    st.just(m.GssRequest()),
    st.builds(m.CancelRequest, st.binary(min_size=8, max_size=260)),
    st.builds(
        m.StartupMessage,
        st.just(3),
        st.integers(min_value=0, max_value=65535),
        st.lists(st.tuples(NAMED, TEXT), max_size=4).map(tuple),
    ),
)


@given(CLIENT)
def test_a_client_message_is_read_as_it_was_built(message: m.ClientMessage) -> None:
    framer = m.Framer(m.CLIENT_BOUNDS, message.build())
    found = framer.next()
    assert found is not None
    assert m.read_client(*found) == message
    assert len(framer) == 0


@given(SERVER)
def test_a_server_message_is_read_as_it_was_built(message: m.ParameterStatus) -> None:
    found = m.Framer(m.TARGET_BOUNDS, message.build()).next()
    assert found is not None
    assert type(message).read(found[1]) == message


@given(AUTHENTICATION)
def test_an_authentication_message_is_read_as_it_was_built(message: m.Authentication) -> None:
    found = m.Framer(m.TARGET_BOUNDS, message.build()).next()
    assert found is not None
    assert m.read_authentication(found[1]) == message


@given(st.sampled_from([m.COPY_IN_RESPONSE, m.COPY_OUT_RESPONSE]), FORMAT, tuples(FORMAT))
def test_a_copy_response_is_read_as_it_was_built(code: int, overall: int, formats: tuple[int, ...]) -> None:
    message = m.CopyResponse(code, overall, formats)
    found = m.Framer(m.TARGET_BOUNDS, message.build()).next()
    assert found is not None
    assert m.CopyResponse.read(*found) == message


@given(st.builds(m.SaslInitialResponse, TEXT, VALUE))
def test_a_sasl_initial_response_is_read_as_it_was_built(message: m.SaslInitialResponse) -> None:
    assert m.SaslInitialResponse.read(message.build()[5:]) == message


@given(FIRST, st.binary(max_size=10))
def test_a_first_packet_is_read_as_it_was_built_and_not_before_it_is_whole(packet: m.FirstPacket, behind: bytes) -> None:
    data = packet.build()
    for end in range(len(data)):
        assert m.read_first(data[:end]) is None
    assert m.read_first(data + behind) == (packet, len(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_first_packet_or_a_peer_error(data: bytes) -> None:
    for start in (data, b"\0\0\0" + data, len(data).to_bytes(4, "big") + data[4:]):
        try:
            m.read_first(start)
        except PeerError:
            continue


@given(st.sampled_from(sorted(m.CLIENT_BOUNDS)), st.binary(max_size=60))
def test_any_payload_of_a_client_is_a_message_or_a_peer_error(code: int, payload: bytes) -> None:
    try:
        message = m.read_client(code, payload)
    except PeerError:
        return
    assert message.build() == m.frame(code, payload)


@given(st.binary(max_size=60))
def test_any_payload_of_a_server_is_a_message_or_a_peer_error(payload: bytes) -> None:
    readers = [
        m.BackendKeyData.read,
        m.ParameterStatus.read,
        m.NegotiateProtocolVersion.read,
        m.ReadyForQuery.read,
        m.CommandComplete.read,
        m.RowDescription.read,
        m.ParameterDescription.read,
        m.DataRow.read,
        m.NotificationResponse.read,
        m.Report.read,
        m.read_authentication,
        m.Password.read,
        m.SaslInitialResponse.read,
        lambda data: m.CopyResponse.read(m.COPY_IN_RESPONSE, data),
    ]
    for reader in readers:
        try:
            reader(payload)
        except PeerError:
            continue


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (m.QUERY, b"select 1"),
        (m.QUERY, b"select 1\0drop table t\0"),
        (m.QUERY, b"select '\xff'\0"),
        (m.SYNC, b"\0"),
        (m.PARSE, b"s\0select 1\0\0\x01"),
        (m.PARSE, b"s\0select 1\0\0\0x"),
        (m.BIND, b"\0\0\0\x01\0\x02\0\0\0\0"),
        (m.BIND, b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        (m.BIND, b"\0\0\0\x02\0\0\0\0\0\x01\xff\xff\xff\xff\0\0"),
        (m.BIND, b"\0\0\0\0\0\x01\0\0\0\x05abcd"),
        (m.DESCRIBE, b"Xname\0"),
        (m.CLOSE, b""),
        (m.EXECUTE, b"p\0\0\0\0"),
        (m.COPY_DONE, b"x"),
        (m.COPY_FAIL, b"x"),
    ],
)
def test_what_breaks_a_message_by_one_byte_is_a_peer_error(code: int, payload: bytes) -> None:
    with pytest.raises(PeerError):
        m.read_client(code, payload)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\0" * 8,
        b"\0\0\0\x07",
        b"\0\0\x27\x15",
        b"\0\0\0\x09\x04\xd2\x16\x2f\0",
        b"\0\0\0\x0b\x04\xd2\x16\x2eabc",
        b"\0\0\0\x0d\0\x03\0\0user\0",
        b"\0\0\0\x0a\0\x03\0\0\0\0",
    ],
)
def test_what_is_no_first_packet_is_a_peer_error(data: bytes) -> None:
    with pytest.raises(PeerError):
        m.read_first(data)


def test_an_oversized_message_ends_the_flow_at_its_header() -> None:
    for code, bound in m.CLIENT_BOUNDS.items():
        framer = m.Framer(m.CLIENT_BOUNDS)
        framer.feed(bytes((code,)) + (bound + 5).to_bytes(4, "big"))
        with pytest.raises(PeerError):
            framer.next()
        within = m.Framer(m.CLIENT_BOUNDS, bytes((code,)) + (bound + 4).to_bytes(4, "big"))
        assert within.next() is None
        assert within.peek() == (code, bound)


@pytest.mark.parametrize("header", [b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"W\0\0\0\x04", b"\0\0\0\0\x08"])
def test_a_header_that_cannot_be_is_a_peer_error(header: bytes) -> None:
    with pytest.raises(PeerError):
        m.Framer(m.CLIENT_BOUNDS, header).next()


@given(st.lists(CLIENT, max_size=6), st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=5))
def test_cuts_do_not_change_the_messages(conversation: list[m.ClientMessage], sizes: list[int]) -> None:
    data = b"".join(message.build() for message in conversation)
    framer = m.Framer(m.CLIENT_BOUNDS)
    found = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        framer.feed(data[at : at + size])
        at, turn = at + size, turn + 1
        while (message := framer.next()) is not None:
            found.append(m.read_client(*message))
    assert found == conversation


def test_a_large_message_is_read_in_parts_and_what_follows_it_whole() -> None:
    row = m.frame(m.DATA_ROW, bytes(range(256)) * 1000)
    framer = m.Framer(m.TARGET_BOUNDS)
    framer.feed(row[:100])
    assert framer.peek() == (m.DATA_ROW, 256_000)
    assert framer.begin() == (m.DATA_ROW, 256_000)
    parts = [framer.part(1000)]
    assert len(parts[0]) == 95
    assert framer.part(1000) == b""
    assert framer.next() is None
    framer.feed(row[100:] + m.ReadyForQuery("I").build())
    while framer.left:
        parts.append(framer.part(4096))
    assert b"".join(parts) == row[5:]
    assert framer.next() == (m.READY_FOR_QUERY, b"I")


def test_a_run_of_rows_is_taken_as_it_came_and_stops_at_the_first_other_message() -> None:
    rows = [m.DataRow((b"%d" % number, None)).build() for number in range(5)]
    complete = m.CommandComplete("SELECT 5").build()
    framer = m.Framer(m.TARGET_BOUNDS)
    framer.feed(b"".join(rows) + complete[:-1])
    assert framer.take_run(m.DATA_ROW, 1 << 20) == (b"".join(rows), len(rows))
    assert framer.take_run(m.DATA_ROW, 1 << 20) == (b"", 0)
    framer.feed(complete[-1:])
    assert framer.next() == (m.COMMAND_COMPLETE, b"SELECT 5\0")
    framer.feed(b"".join(rows)[:-1])
    assert framer.take_run(m.DATA_ROW, 0) == (rows[0], 1)
    assert framer.take_run(m.DATA_ROW, 1 << 20) == (b"".join(rows[1:-1]), len(rows) - 2)
    assert framer.next() is None


def test_a_run_does_not_pass_a_message_over_its_bound() -> None:
    framer = m.Framer(m.TARGET_BOUNDS, b"T" + (m.DESCRIPTION_SIZE_MAX + 5).to_bytes(4, "big"))
    assert framer.take_run(m.ROW_DESCRIPTION, 1 << 30) == (b"", 0)
    with pytest.raises(PeerError):
        framer.next()


def test_an_error_says_everything_once_and_never_breaks_on_a_nul() -> None:
    data = m.error_response("FATAL", "28000", "no\0entry", "rule", "ask", 7)
    report = m.Report.read(data[5:])
    assert data[:1] == b"E"
    assert (report.severity, report.sqlstate, report.message) == ("FATAL", "28000", "no?entry")
    assert (report.field("D"), report.field("H"), report.field("P"), report.field("X")) == ("rule", "ask", "7", None)
    assert m.notice_response("NOTICE", "00000", "hello")[:1] == b"N"

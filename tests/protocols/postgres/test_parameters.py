"""What a bound parameter says, held against the server's own binary forms."""

from __future__ import annotations

import pytest

from appliance.protocols.postgres.messages import Bind
from appliance.protocols.postgres.parameters import TYPE_NAMES, decoded
from tests.scratch_postgres import ScratchPostgres

# A value, and the system's function that sends it in binary.
VALUES = [
    ("bool", "true", "boolsend"),
    ("int2", "-7", "int2send"),
    ("int4", "2147483647", "int4send"),
    ("int8", "-9223372036854775808", "int8send"),
    ("float8", "0.1", "float8send"),
    ("numeric", "-12345.6700", "numeric_send"),
    ("text", 'it\'s "quoted" \\ ü', "textsend"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "uuid_send"),
    ("jsonb", '{"a": 1}', "jsonb_send"),
    ("date", "2026-11-21", "date_send"),
    ("date", "0001-01-01", "date_send"),
    ("date", "9999-12-31", "date_send"),
    ("date", "infinity", "date_send"),
    ("date", "-infinity", "date_send"),
    ("timestamp", "1999-12-31 23:59:59.999999", "timestamp_send"),
    ("timestamp", "-infinity", "timestamp_send"),
    ("timestamptz", "2026-11-21 04:05:06+02", "timestamptz_send"),
    ("_int4", "{1,NULL,-3}", "array_send"),
    ("_int8", "{}", "array_send"),
    ("_text", '{"a,b","c\\"d","e\\\\f",NULL,"NULL",""}', "array_send"),
    ("_uuid", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "array_send"),
]
OIDS = {name: oid for oid, name in TYPE_NAMES.items()}


def text_of(server: ScratchPostgres, type_name: str, value: str, send: str) -> str | None:
    quoted = value.replace("'", "''")
    ((binary,),) = server.run(f"select {send}('{quoted}'::{type_name})")
    assert isinstance(binary, bytes)
    (parameter,) = decoded(Bind("", "", (1,), (binary,), ()), (OIDS[type_name],))
    return parameter.text


@pytest.mark.parametrize(("type_name", "value", "send"), VALUES)
def test_a_binary_value_is_decoded_to_a_text_that_means_the_same(
    type_name: str, value: str, send: str, scratch_postgres: ScratchPostgres
) -> None:
    text = text_of(scratch_postgres, type_name, value, send)
    assert text is not None
    given, found = value.replace("'", "''"), text.replace("'", "''")
    assert scratch_postgres.run(f"select '{found}'::{type_name} is not distinct from '{given}'::{type_name}") == [(True,)]
    assert not text.startswith("\\x")


@pytest.mark.parametrize(
    ("type_name", "value", "send"),
    [
        ("date", "4713-01-01 BC", "date_send"),
        ("timestamp", "10000-01-01", "timestamp_send"),
        ("_int4", "{{1},{2}}", "array_send"),
        ("_int4", "[0:1]={1,2}", "array_send"),
    ],
)
def test_what_is_written_in_another_way_is_shown_as_its_bytes(
    type_name: str, value: str, send: str, scratch_postgres: ScratchPostgres
) -> None:
    assert str(text_of(scratch_postgres, type_name, value, send)).startswith("\\x")


@pytest.mark.parametrize("oid", [oid for oid in TYPE_NAMES if oid not in (0, 17)])
@pytest.mark.parametrize("value", [b"", b"\x00", b"\x7f" * 11, b"\xff" * 24, b"\x00\x00\x00\x01" * 9])
def test_bytes_that_are_no_value_of_their_type_are_shown_and_break_nothing(oid: int, value: bytes) -> None:
    (parameter,) = decoded(Bind("", "", (1,), (value,), ()), (oid,))
    assert parameter.text is not None

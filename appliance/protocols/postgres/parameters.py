"""What a bound parameter says, decoded from its wire format for a person."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from appliance.effects import Parameter
from appliance.protocols.postgres.messages import Bind
from appliance.sql.redaction import redact_text

# A card number has thirteen digits at least; what has fewer is told by its separators.
_TELLING_DIGITS: Final = 13

# pg_type.dat; others are shown by number.
TYPE_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "",
        16: "bool",
        17: "bytea",
        19: "name",
        20: "int8",
        21: "int2",
        23: "int4",
        25: "text",
        26: "oid",
        114: "json",
        700: "float4",
        701: "float8",
        705: "unknown",
        1005: "_int2",
        1007: "_int4",
        1009: "_text",
        1015: "_varchar",
        1016: "_int8",
        1042: "bpchar",
        1043: "varchar",
        1082: "date",
        1114: "timestamp",
        1184: "timestamptz",
        1700: "numeric",
        2950: "uuid",
        2951: "_uuid",
        3802: "jsonb",
    }
)


def type_name(oid: int) -> str:
    """The type's name where it is a common one of the system, its OID as text otherwise."""
    return TYPE_NAMES.get(oid, str(oid))


def decoded(bind: Bind, types: tuple[int, ...]) -> tuple[Parameter, ...]:
    """The parameters of a Bind. A value whose type is not known, or is not one that we can read, is shown as hex digits."""
    parameters: list[Parameter] = []
    for index, value in enumerate(bind.values):
        oid = types[index] if index < len(types) else 0
        text = None if value is None else _text(value, oid, bind.format_of(index))
        parameters.append(Parameter(index + 1, type_name(oid), text, None if text is None else redact_text(text)))
    return tuple(parameters)


def shown_value(value: bytes, oid: int, code: int) -> str:
    """What a person may see of one value: the `shown` of its Parameter."""
    text = _text(value, oid, code)
    # Nothing that is looked for is so short and all digits, and most keys are.
    return text if len(text) < _TELLING_DIGITS and text.isascii() and text.isdigit() else redact_text(text)


def _text(value: bytes, oid: int, code: int) -> str:
    if code == 0:
        return value.decode("utf-8", "backslashreplace")
    read = _READERS.get(oid)
    if read is not None:
        try:
            return read(value)
        except (struct.error, UnicodeDecodeError, ValueError):
            pass  # not a value of its type; the server will say so, and a person sees its bytes
    return "\\x" + value.hex()


def _number(layout: str) -> Callable[[bytes], str]:
    return lambda value: str(struct.unpack(layout, value)[0])


def _bool(value: bytes) -> str:
    return {b"\x00": "false", b"\x01": "true"}.get(value) or "\\x" + value.hex()


def _jsonb(value: bytes) -> str:
    if value[:1] != b"\x01":
        raise ValueError("a jsonb version we do not know")
    return value[1:].decode("utf-8")


def _numeric(value: bytes) -> str:
    """Digits in base 10000 (utils/adt/numeric.c, numeric_send)."""
    count, weight, sign, scale = struct.unpack_from("!HhHH", value)
    if sign == 0xC000:
        return "NaN"
    if sign in (0xD000, 0xF000):
        return "Infinity" if sign == 0xD000 else "-Infinity"
    digits = struct.unpack(f"!{count}H", value[8:])
    if count == 0:
        return "0"
    # Written as a whole number of 10 000ths and then scaled, so that weight and scale, which the peer chooses, cost nothing.
    whole = "".join(f"{digit:04d}" for digit in digits)
    point = (weight + 1) * 4
    if not -_SCALE_MAX <= point <= _SCALE_MAX:
        raise ValueError("a number too long to write out")
    if point <= 0:
        whole = "0" * (4 - point) + whole
        point = 4
    whole = whole.ljust(point, "0")
    text = whole[:point].lstrip("0") or "0"
    fraction = whole[point:][:scale].ljust(min(scale, _SCALE_MAX), "0")
    return ("-" if sign == 0x4000 else "") + text + ("." + fraction if fraction else "")


def _date(value: bytes) -> str:
    """Days since 2000 (utils/adt/date.c, date_send)."""
    (days,) = struct.unpack("!i", value)
    if days in (-(2**31), 2**31 - 1):
        return "infinity" if days > 0 else "-infinity"
    if not _DAYS_MIN <= days <= _DAYS_MAX:
        raise ValueError("a date that is written in another way")
    return (_EPOCH + timedelta(days=days)).date().isoformat()


def _timestamp(zone: str) -> Callable[[bytes], str]:
    """Microseconds since 2000 (utils/adt/timestamp.c, timestamp_send), of a time in UTC where it has a zone."""

    def read(value: bytes) -> str:
        (microseconds,) = struct.unpack("!q", value)
        if microseconds in (-(2**63), 2**63 - 1):
            return "infinity" if microseconds > 0 else "-infinity"
        if not _DAYS_MIN <= microseconds // _DAY <= _DAYS_MAX:
            raise ValueError("a time that is written in another way")
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(" ") + zone

    return read


_EPOCH: Final = datetime(2000, 1, 1)  # of whatever zone the value is in
_DAY: Final = 86_400_000_000
# The years 1 to 9999; others need words (BC).
_DAYS_MIN: Final = -730_119
_DAYS_MAX: Final = 2_921_939


def _array(value: bytes) -> str:
    """One dimension, counted from 1, of values that we can read (utils/adt/arrayfuncs.c, array_send)."""
    dimensions, _, element = struct.unpack_from("!iiI", value)
    if dimensions == 0:
        return "{}"
    count, first = struct.unpack_from("!ii", value, 12)
    read = _READERS.get(element)
    if dimensions != 1 or first != 1 or read is None or read is _array or not 0 < count <= _ELEMENTS_MAX:
        raise ValueError("an array that is written in another way")
    parts: list[str] = []
    at = 20
    for _ in range(count):
        (length,) = struct.unpack_from("!i", value, at)
        at += 4
        if length == -1:
            parts.append("NULL")
            continue
        if length < 0 or at + length > len(value):
            raise ValueError("an array that ends early")
        text = read(value[at : at + length])
        parts.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
        at += length
    return "{" + ",".join(parts) + "}"


_ELEMENTS_MAX: Final = 10_000

# Longer numbers are shown as hex digits: nobody reads them.
_SCALE_MAX: Final = 1_000

_READERS: Final[Mapping[int, Callable[[bytes], str]]] = MappingProxyType(
    {
        16: _bool,
        19: lambda value: value.decode("utf-8"),
        20: _number("!q"),
        21: _number("!h"),
        23: _number("!i"),
        25: lambda value: value.decode("utf-8"),
        26: _number("!I"),
        114: lambda value: value.decode("utf-8"),
        700: _number("!f"),
        701: _number("!d"),
        705: lambda value: value.decode("utf-8"),
        1005: _array,
        1007: _array,
        1009: _array,
        1015: _array,
        1016: _array,
        1042: lambda value: value.decode("utf-8"),
        1043: lambda value: value.decode("utf-8"),
        1082: _date,
        1114: _timestamp(""),
        1184: _timestamp("+00"),
        1700: _numeric,
        2950: lambda value: str(uuid.UUID(bytes=value)),
        2951: _array,
        3802: _jsonb,
    }
)

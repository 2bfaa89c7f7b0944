"""What a bound parameter says, decoded from its wire format for a person."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
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
        1042: "bpchar",
        1043: "varchar",
        1082: "date",
        1114: "timestamp",
        1184: "timestamptz",
        1700: "numeric",
        2950: "uuid",
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
        1042: lambda value: value.decode("utf-8"),
        1043: lambda value: value.decode("utf-8"),
        1700: _numeric,
        2950: lambda value: str(uuid.UUID(bytes=value)),
        3802: _jsonb,
    }
)

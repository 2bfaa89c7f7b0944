"""Where sensitive values stand in a text or a binary value, told by their shape and their check digits.

A detector is the second line: columns are masked by where their values come from, and what slips past that is caught
here where it still looks like what it is. It finds card numbers (PAN), e-mail addresses, social security numbers and
an operator's own patterns, also with Unicode digits and dashes, and inside bytea written in hexadecimal. It cannot find
what was encoded otherwise (base64, reversed, split over rows, JSON's \\u escapes): a trace, not a guard.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Generator, Iterator
from enum import IntEnum
from functools import cache
from re import _constants, _parser  # type: ignore[attr-defined]  # the parse tree is the only exact word on a pattern
from typing import Any, Final

import hyperscan

from appliance.decisions import Mask, ValueMask
from appliance.masking import masks

KNOWN: Final = frozenset({"pan", "email", "ssn"})  # detectors that need no pattern

# No decision about a text looks further than this many characters to either side of where a value begins, so that a text
# may be cut there. An own pattern has at most 256 and may look as far again on, an address has at most 64 + 1 + 254.
REACH_MAX: Final = 640

PATTERN_LENGTH_MAX: Final = 500  # characters of an own pattern, so that its tree is small
PATTERN_WIDTH_MAX: Final = 256  # characters one match of it may have; REACH_MAX counts on it
PATTERN_WAYS_MAX: Final = 10_000  # ways to try at one place of the text, so that no text makes it run away

Span = tuple[int, int, Mask]

# One of these may stand between two digits: space, hyphen, dot, and what Unicode has that looks or works like them,
# with the invisible ones (soft hyphen, zero width space, word joiner, byte order mark).
_SEPARATORS: Final = " .\\-\u00a0\u00ad\u2000-\u200d\u2010-\u2015\u202f\u205f\u2060\u2212\u3000\ufe58\ufe63\uff0d\ufeff"
_IS_SEPARATOR: Final = re.compile(f"[{_SEPARATORS}]").match
_GROUP: Final = re.compile(r"\d+")
_THIRTEEN_DIGITS: Final = re.compile(rf"\d(?:[{_SEPARATORS}]?\d){{12}}")
_THIRTEEN_ASCII_DIGITS: Final = re.compile(r"[0-9](?:[ .\-]?[0-9]){12}")
_ODD: Final = re.compile(rf"(?:(?![0-9])\d)|[{_SEPARATORS[4:]}\uff20\ufe6b]")


class _Sign(IntEnum):
    """What there must be where a value is."""

    PAN = 0
    SSN = 1
    AT = 2
    ENCODED = 3
    ODD = 4


# The first look goes over whole runs of rows and must cost next to nothing: what every value that is looked for must have
# is searched for by Hyperscan, at a gigabyte a second, and nearly always is not there (docs/decisions/0007-rows-in-bulk.md).
# What stands between two values of a run (their lengths) can only make more places suspicious.
_ODD_IN_BYTES: Final = (  # every character that _ODD finds, in UTF-8, and some others
    rb"\xc2[\xa0\xad]|\xd9[\xa0-\xa9]|\xdb[\xb0-\xb9]|\xdf[\x80-\x89]|[\xe0\xe1\xef][\x80-\xbf]|\xea[\x80-\xaf]"
    rb"|\xe2(?:\x80[\x80-\x8d\x90-\x95\xaf]|\x81[\x9f\xa0]|\x88\x92)|\xe3\x80\x80|\xf0[\x90-\x9f]"
)
_LOOKED_FOR: Final[dict[_Sign, bytes]] = {
    # What _SCHEMES begin with; or 3, of a digit in hexadecimal.
    _Sign.PAN: rb"[2-6](?:[ .\-]?[0-9]){12}",
    _Sign.SSN: rb"[0-9]{3}[ \-][0-9]{2}[ \-][0-9]{4}",
    # An @ between what an address may have there; the bytes from 0x80 on are those of other letters than the ASCII ones.
    _Sign.AT: rb"[\w.!#$%&'+/=?^`{|}~\x80-\xff\-]@[0-9A-Za-z\x80-\xff]",
    _Sign.ENCODED: rb"\\x",
    _Sign.ODD: _ODD_IN_BYTES,
}
_PLACES: Final[dict[int, re.Pattern[bytes]]] = {kind: re.compile(pattern) for kind, pattern in _LOOKED_FOR.items()}
# To find the places of numbers, bytes are made alike and a fixed string is searched for, which is thirty times as fast as a
# regular expression: what a number in groups consists of becomes 0, all else 1.
_NUMBER_ALIKE: Final = bytes(0x30 if code in b"0123456789 .-" else 0x31 for code in range(256))
_NUMBER_SHORTEST: Final = b"0" * 11
_PAN_DIGITS_MIN: Final = 13
_SHORTEST: Final = 6  # bytes of the shortest value that has no own pattern: a@b.co

# Issuer prefixes and the lengths their numbers have (ISO/IEC 7812; the schemes' published ranges).
_SCHEMES: Final[tuple[tuple[int, int, frozenset[int]], ...]] = (
    (2221, 2720, frozenset({16})),  # Mastercard
    (3000, 3059, frozenset({14, 16})),  # Diners
    (3095, 3095, frozenset({14, 16})),
    (3400, 3499, frozenset({15})),  # American Express
    (3528, 3589, frozenset({16, 17, 18, 19})),  # JCB
    (3600, 3699, frozenset({14, 16})),
    (3700, 3799, frozenset({15})),
    (3800, 3999, frozenset({14, 16})),
    (4000, 4999, frozenset({13, 16, 19})),  # Visa
    (5000, 5099, frozenset(range(13, 20))),  # Maestro
    (5100, 5599, frozenset({16})),
    (5600, 5899, frozenset(range(13, 20))),
    (6011, 6011, frozenset({16, 17, 18, 19})),  # Discover
    (6200, 6299, frozenset({16, 17, 18, 19})),  # UnionPay
    (6304, 6304, frozenset(range(13, 20))),
    (6440, 6599, frozenset({16, 17, 18, 19})),
    (6759, 6759, frozenset(range(13, 20))),
    (6761, 6763, frozenset(range(13, 20))),
    (6000, 6999, frozenset({16})),  # Maestro and others; other lengths would take one in ten of all long ids
)

# How people write a card number in groups. Anything else in groups counts only if it stands alone (see _is_pan_alone).
_GROUPINGS: Final = frozenset(
    {
        (4, 4, 4, 4),
        (4, 4, 4, 4, 1),
        (4, 4, 4, 4, 2),
        (4, 4, 4, 4, 3),
        (4, 6, 5),
        (4, 6, 4),
        (4, 5, 6),
        (4, 4, 4, 1),
        (4, 4, 4, 2),
        (4, 4, 4, 3),
        (4, 4, 5),
        (4, 3, 3, 3),
        (8, 8),
        (6, 10),
        (6, 13),
        (4, 12),
        (12, 4),
    }
)
_GROUPS_MAX: Final = 19  # the most groups one number can have: one digit each
_DIGEST_LENGTHS: Final = frozenset({24, 32, 40, 48, 56, 64, 96, 128})  # object ids, MD5, SHA-1 … SHA-512 in hexadecimal
_WORD: Final = re.compile(r"[0-9A-Za-z]*")
_HEX_WITH_LETTER: Final = re.compile(r"(?=.*[A-Fa-f])[0-9A-Fa-f]+")
_UUID: Final = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f])")

# That no digit goes before is asked in code: a look behind at the front would make every search ten times slower.
_SSN: Final = re.compile(r"(\d{3})([ \-\u00a0\u2010-\u2015\u2212\uff0d])(\d{2})\2(\d{4})(?!\d)")
_ASCII_SSN: Final = re.compile(r"([0-9]{3})([ \-])([0-9]{2})\2([0-9]{4})(?![0-9])")

_LOCAL: Final = re.compile(r"[\w.!#$%&'+/=?^`{|}~-]+\Z")
_LOCAL_MAX: Final = 64  # RFC 5321, 4.5.3.1.1
_DOMAIN: Final = re.compile(r"(?:[^\W_](?:[\w-]{0,62})\.){1,8}(?:xn--[a-zA-Z0-9-]{2,59}|[^\W\d_]{2,24})")
_DOMAIN_MAX: Final = 254  # RFC 5321, 4.5.3.1.2, with a dot at the end
_AT: Final = re.compile("[@\uff20\ufe6b]")
# Names that follow an @ and a dot in files and units, and are no top-level domain.
_NO_DOMAIN: Final = frozenset({"png", "jpg", "jpeg", "gif", "webp", "svg", "service", "socket", "timer", "mount"})

_HEX: Final = re.compile(r"\\x((?:[0-9A-Fa-f]{2})+)")
# Digits written as the hexadecimal of their codes, which need no mark to be told: hardly any other number looks so.
_HEX_OF_DIGITS: Final = re.compile(r"(?<![0-9A-Fa-f])((?:3[0-9]){13,19})(?![0-9A-Fa-f])")
_HEX_OF_DIGITS_SHORTEST: Final = 26
_HEX_SHORTEST: Final = 12  # hexadecimal digits; no value that is looked for is shorter than six bytes

_TEXT_TYPES: Final = frozenset({18, 19, 25, 142, 1042, 1043, 2275})  # "char", name, text, xml, bpchar, varchar, cstring
_JSON: Final = 114
_JSONB: Final = 3802
_BYTEA: Final = 17
# bool, int2, int4, oid, float4, date, time, timestamp, timestamptz, interval, timetz, uuid: too small or of fixed meaning.
_INNOCENT_TYPES: Final = frozenset({16, 21, 23, 26, 700, 1082, 1083, 1114, 1184, 1186, 1266, 2950})
_ELEMENT_TYPES: Final = {1016: 20, 1022: 701, 1231: 1700, 1001: 17, 199: 114, 3807: 3802}
_RECORD: Final = 2249
_ROW_ARRAYS: Final = frozenset({2287, 3905, 3907, 3927, 6150, 6151, 6157})  # of records, ranges and multiranges
_RANGES: Final = {3904: 23, 3906: 1700, 3926: 20}
_MULTIRANGES: Final = {4451: 3904, 4532: 3906, 4536: 3926}
_FIRST_USER_OID: Final = 16_384  # FirstNormalObjectId (access/transam.h)
_NESTING_MAX: Final = 16  # rows within rows; what is deeper is nulled
_ARRAY_ELEMENTS_MAX: Final = 1 << 20  # elements looked at one by one; a larger array is nulled
_LENGTH_WORD: Final = re.compile(rb"(\x00\x00[\x00-\xff])[0-9]")


class Detectors:
    """The value masks of one verdict, ready to run over many values."""

    __slots__ = ("_finders", "_has_own", "_has_pan", "_has_ssn", "_wanted", "is_empty")

    def __init__(self, values: tuple[ValueMask, ...]) -> None:
        finders: list[tuple[Callable[[str, int, int], Iterator[tuple[int, int]]], Mask]] = []
        names = set()
        for each in values:
            if each.pattern is not None:
                finders.append((_own_finder(each.pattern), each.mask))
                names.add("own")
            else:
                finders.append((_FINDERS[each.detector], each.mask))
                names.add(each.detector)
        self._finders = tuple(finders)
        self._has_pan = "pan" in names
        self._has_ssn = "ssn" in names
        # Of the kinds whose places a pattern finds; hexadecimal and other digits than the ASCII ones may be in any value.
        self._wanted = frozenset((_Sign.ENCODED, _Sign.ODD, *((_Sign.AT,) if "email" in names else ())))
        self._has_own = "own" in names
        self.is_empty = not finders

    def clean(self, data: bytes) -> bytes:
        """Text (UTF-8, or bytes that pass for it) with every value found hidden; the same object where none is."""
        return self._clean(data)[0]

    def _clean(self, data: bytes) -> tuple[bytes, list[Span]]:
        if not self.may_hold(data):
            return data, []
        text = data.decode("utf-8", "surrogateescape")
        spans = self.spans(text)
        if not spans:
            return data, spans
        return self.hide(text, spans, 0, len(text)).encode("utf-8", "surrogateescape"), spans

    def clean_text(self, type_oid: int, value: bytes) -> bytes | None:
        """A value in text format, hidden so that it is still a value of its type; None (NULL) where that cannot be."""
        if type_oid in _INNOCENT_TYPES:
            return value
        if type_oid in _WRITTEN_OTHERWISE and self._finds(_WRITTEN_OTHERWISE[type_oid](value)):
            return None
        cleaned, spans = self._clean(value)
        if not spans:
            return value
        if spans[0][2].kind == "null" and spans[0][1] - spans[0][0] == len(value):
            return None
        if type_oid in _TEXT_TYPES or type_oid == _BYTEA:
            return cleaned
        if type_oid in (_JSON, _JSONB):
            return cleaned if _is_json(cleaned) else None
        # Arrays, composites and types we do not know keep their shape where the text of an element is replaced by stars,
        # which need no quoting; numbers do not.
        return None if type_oid in (20, 701, 790, 1700) or type_oid in _ELEMENT_TYPES else cleaned

    def clean_binary(self, type_oid: int, value: bytes) -> bytes | None:
        """A value in binary format, hidden so that it is still a value of its type; None (NULL) where that cannot be."""
        if self.is_empty or type_oid in _INNOCENT_TYPES:
            return value
        if type_oid in _TEXT_TYPES:
            return self.clean(value)
        if type_oid == _JSON:
            return self.clean_text(_JSON, value)
        if type_oid == _JSONB:
            if value[:1] != b"\x01":
                return None
            cleaned = self.clean_text(_JSON, value[1:])
            return (
                None
                if cleaned is None
                else value
                if len(cleaned) == len(value) - 1 and value.endswith(cleaned)
                else b"\x01" + cleaned
            )
        return None if self._is_in_binary(type_oid, value) else value

    def spans(self, text: str) -> list[Span]:
        """Where values stand in a text, in order and without overlap."""
        return apart(self.found(text, self.starts(), len(text))[0], 0)

    def starts(self) -> tuple[int, ...]:
        """Where to look from at the beginning of a text: one place for each finder, then again for hexadecimal."""
        return (0,) * (2 * len(self._finders))

    def found(self, text: str, starts: tuple[int, ...], stop: int) -> tuple[list[Span], tuple[int, ...]]:
        """What each finder finds to begin between its start and `stop`, in no order; and where each has to go on.

        Text before and behind is looked at, not reported.
        """
        spans: list[Span] = []
        count = len(self._finders)
        reached = [max(start, stop) for start in starts]
        for index, (finder, mask) in enumerate(self._finders):
            for at, end in finder(text, starts[index], stop):
                spans.append((at, end, mask))
                reached[index] = max(reached[index], end)
        encoded = [*_HEX.finditer(text)] if "\\x" in text else []
        if self._has_pan and len(text) >= _HEX_OF_DIGITS_SHORTEST:
            encoded += _HEX_OF_DIGITS.finditer(text)
        for run in encoded:
            begin, close = run.span(1)
            if close - begin < _HEX_SHORTEST or begin >= stop:
                continue
            # One character for each byte, so that places in the two texts correspond.
            plain = bytes.fromhex(run.group(1)).decode("latin-1")
            last = (min(close, stop) - begin + 1) // 2
            for index, (finder, mask) in enumerate(self._finders, count):
                first = max(0, starts[index] - begin + 1) // 2
                for at, end in finder(plain, first, last) if first < last else ():
                    spans.append((begin + 2 * at, begin + 2 * end, _HexMask(mask.kind, mask.keep)))
                    reached[index] = max(reached[index], begin + 2 * end)
        return spans, tuple(reached)

    def hide(self, text: str, spans: list[Span], start: int, stop: int) -> str:
        """text[start:stop] with its spans hidden; a span that begins there is hidden whole."""
        parts: list[str] = []
        at = start
        for begin, end, mask in spans:
            parts.append(text[at:begin])
            parts.append(self._hidden(text, begin, end, mask))
            at = end
        parts.append(text[at:stop])
        return "".join(parts)

    def _hidden(self, text: str, begin: int, end: int, mask: Mask) -> str:
        if isinstance(mask, _HexMask):
            decoded = bytes.fromhex(text[begin:end])
            masked = masks.apply(Mask(mask.kind, mask.keep), decoded)
            if masked is None or self._finds(masked.decode("utf-8", "replace")):
                masked = masks.REDACTED
            return masked.hex()
        masked = masks.apply(mask, text[begin:end].encode("utf-8", "surrogateescape"))
        # A mask that leaves a value of the shape it was to hide has hidden nothing.
        if masked is None or (self.may_hold(masked) and self._finds(masked.decode("utf-8", "replace"))):
            masked = masks.REDACTED
        return masked.decode("utf-8")

    def _finds(self, text: str) -> bool:
        return any(next(finder(text, 0, len(text)), None) is not None for finder, _ in self._finders)

    def may_hold(self, data: bytes) -> bool:
        """Whether a closer look is worth while. Never False where `spans` would find something."""
        return bool(self.suspects(data))

    def must_see(self, type_oid: int, format_code: int) -> bool:
        """Whether values of this type and format (0 text, 1 binary) may hold something where their bytes do not look so,
        so that `suspects` says nothing about them and each must be cleaned by itself."""
        if self.is_empty:
            return False
        if format_code == 0:
            return type_oid in _WRITTEN_OTHERWISE
        return type_oid in _CODED or type_oid >= _FIRST_USER_OID

    def suspects(self, run: bytes) -> list[tuple[int, int]]:
        """Where a run of values must be looked at more closely, as places from and to, in order; nowhere, usually.

        A run is one value, or many with something between them, such as rows as they came. Every value in it in which
        `spans` would find something overlaps one of these places. Says nothing about values that `must_see` names.
        """
        if self.is_empty or not run:
            return []
        if self._has_own:
            return [(0, len(run))]
        if len(run) < _SHORTEST:
            return []
        kinds: list[int] = []
        _scanner().scan(run, match_event_handler=_note, context=kinds)
        if not kinds:
            return []
        places: list[tuple[int, int]] = []
        for kind in kinds:
            if kind in self._wanted:
                places += [match.span() for match in _PLACES[kind].finditer(run)]
        if (self._has_pan and _Sign.PAN in kinds) or (self._has_ssn and _Sign.SSN in kinds):
            places += self._numbers(run)
        places.sort()
        return places

    def _numbers(self, run: bytes) -> Iterator[tuple[int, int]]:
        alike = run.translate(_NUMBER_ALIKE) + b"1"
        begin = alike.find(_NUMBER_SHORTEST)
        while begin >= 0:
            end = alike.find(b"1", begin)
            if (self._has_pan and _PLACES[_Sign.PAN].search(run, begin, end)) or (
                self._has_ssn and _PLACES[_Sign.SSN].search(run, begin, end)
            ):
                yield begin, end
            begin = alike.find(_NUMBER_SHORTEST, end)

    def _is_in_binary(self, type_oid: int, value: bytes, depth: int = 0) -> bool:
        if type_oid in _INNOCENT_TYPES:
            return False
        if type_oid in _ELEMENT_TYPES:
            elements = _elements(value)
            if elements is None:
                return True
            return any(self._is_in_binary(_ELEMENT_TYPES[type_oid], element) for element in elements)
        parts = _parts(type_oid, value)
        if parts is not None:
            if depth >= _NESTING_MAX or len(parts) > _ARRAY_ELEMENTS_MAX:
                return True
            return any(self._is_in_binary(oid, part, depth + 1) for oid, part in parts)
        number = _NUMBERS.get(type_oid)
        if number is not None:
            written = number(value)
            if written is not None and len(written) < _PAN_DIGITS_MIN and not self._has_own:
                return False
            return written is None or self._finds(written)
        if type_oid == _JSONB:
            value = value[1:]
        plain = value.decode("utf-8", "surrogateescape")
        if self.spans(plain):
            return True
        # In arrays and composites a length word stands before each element, and its last byte may look like a digit.
        apart = _LENGTH_WORD.sub(b"\\1\0", value)
        if apart == value:
            return False
        plain = apart.decode("utf-8", "surrogateescape")
        return len(self.spans(plain)) > 0


def prepare() -> None:
    """Build what all detectors share, which takes a tenth of a second, before somebody waits for it."""
    _scanner()


@cache
def _scanner() -> hyperscan.Database:
    """Tells of each kind of thing that is looked for at most once, however often it is there."""
    database = hyperscan.Database()
    database.compile(
        expressions=list(_LOOKED_FOR.values()),
        ids=list(_LOOKED_FOR),
        elements=len(_LOOKED_FOR),
        flags=[hyperscan.HS_FLAG_SINGLEMATCH] * len(_LOOKED_FOR),
    )
    return database


def _note(kind: int, _begin: int, _end: int, _flags: int, kinds: object) -> None:
    assert isinstance(kinds, list)
    kinds.append(kind)


def is_innocent(type_oid: int) -> bool:
    """Whether no value of this type can hold anything that is looked for, in either format."""
    return type_oid in _INNOCENT_TYPES


def apart(spans: list[Span], floor: int) -> list[Span]:
    """Spans in order and without overlap, none before `floor`. Where two share characters the first one's mask counts,
    and what the other has beyond it becomes stars."""
    kept: list[Span] = []
    for at, end, mask in sorted(spans, key=lambda span: (span[0], -span[1])):
        if at >= floor:
            kept.append((at, end, mask))
        elif end > floor:
            kept.append((floor, end, _STARS_IN_HEX if isinstance(mask, _HexMask) else _STARS))
        floor = max(floor, end)
    return kept


class _HexMask(Mask):
    """A mask for a value written in hexadecimal; what replaces it is written so too."""

    __slots__ = ()


_STARS: Final = Mask("redact")
_STARS_IN_HEX: Final = _HexMask("redact")


def pattern_fault(pattern: str) -> str | None:
    """What is wrong with an own pattern, or None. A pattern must have an end, match something, and be quick on any text."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        return f"a pattern of {len(pattern)} characters; at most {PATTERN_LENGTH_MAX} are allowed"
    try:
        tree = _parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"no regular expression: {error}"
    shortest, longest = tree.getwidth()
    if shortest < 1:
        return "a pattern that matches nothing at all, which is everywhere"
    if longest > PATTERN_WIDTH_MAX:
        return f"a pattern without a bound; write {{1,40}} for +, so that a match has at most {PATTERN_WIDTH_MAX} characters"
    ways = _ways(tree)
    if ways is None:
        return "a pattern with a back reference or a conditional, which may take for ever"
    if ways > PATTERN_WAYS_MAX:
        return f"a pattern with more than {PATTERN_WAYS_MAX} ways to try at one place; make its repetitions shorter or fewer"
    return None


_UNBOUNDED: Final = (
    _constants.GROUPREF,
    _constants.GROUPREF_EXISTS,
    _constants.ATOMIC_GROUP,
    _constants.POSSESSIVE_REPEAT,
)


def _ways(tree: Any) -> int | None:
    """How many ways there are to match at one place at most; None where that cannot be said."""
    total = 1
    for operation, argument in tree:
        ways: int | None = 1
        if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            least, most, item = argument
            inner = _ways(item)
            if inner is None or most > PATTERN_WIDTH_MAX:
                return None
            ways = 0
            for count in range(least, most + 1):  # at most PATTERN_WIDTH_MAX rounds
                ways += inner**count
                if ways > PATTERN_WAYS_MAX:
                    break
        elif operation is _constants.SUBPATTERN:
            ways = _ways(argument[3])
        elif operation is _constants.BRANCH:
            ways = 0
            for branch in argument[1]:
                inner = _ways(branch)
                if inner is None:
                    return None
                ways += inner
        elif operation in (_constants.ASSERT, _constants.ASSERT_NOT):
            ways = None if argument[1].getwidth()[1] > PATTERN_WIDTH_MAX else _ways(argument[1])
        elif operation in _UNBOUNDED:
            return None
        if ways is None:
            return None
        total *= ways
        if total > PATTERN_WAYS_MAX:
            return total
    return total


def _own_finder(pattern: str) -> Callable[[str, int, int], Iterator[tuple[int, int]]]:
    fault = pattern_fault(pattern)
    if fault is not None:
        raise ValueError(fault)
    compiled = re.compile(pattern)

    def find(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        for match in compiled.finditer(text, start):
            if match.start() >= stop:
                return
            if match.end() > match.start():
                yield match.span()

    return find


# --- card numbers -----------------------------------------------------------------------------------------------------


def _find_pans(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    shape = _THIRTEEN_ASCII_DIGITS if text.isascii() else _THIRTEEN_DIGITS
    at = start
    while (run := shape.search(text, at)) is not None and run.start() < stop:
        at = yield from _pans_in_run(text, run.start(), start, stop)


def _pans_in_run(text: str, at: int, start: int, stop: int) -> Generator[tuple[int, int], None, int]:
    """The card numbers in the digits that begin at `at`, as far as single separators join them; answers their end."""
    groups: list[tuple[int, int]] = []
    reached = start
    for match in _GROUP.finditer(text, at):
        begin, end = match.span()
        if begin > at and not (begin - at == 1 and _IS_SEPARATOR(text, at)):
            break
        at = end
        if begin == start and start > 0 and text[start - 1].isdecimal():
            continue  # the rest of a number that begins before
        groups.append((begin, end))
        if len(groups) >= 4 * _GROUPS_MAX:
            # A long list of numbers: what begins early in it is settled, the rest may yet go on.
            for found in _pans_among(text, groups, reached, min(stop, groups[2 * _GROUPS_MAX][0])):
                reached = found[1]
                yield found
            groups = [group for group in groups[2 * _GROUPS_MAX :] if group[0] >= reached]
            if groups and groups[0][0] >= stop:
                return at
    yield from _pans_among(text, groups, reached, stop)
    return at


def _pans_among(text: str, groups: list[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    index = 0
    while index < len(groups):
        begin = groups[index][0]
        if begin >= stop:
            return
        last = _pan_from(text, groups, index) if begin >= start else None
        if last is None:
            index += 1
        else:
            yield begin, groups[last][1]
            index = last + 1


def _pan_from(text: str, groups: list[tuple[int, int]], index: int) -> int | None:
    """The index of the group with which a card number that begins at groups[index] ends, or None."""
    sizes: list[int] = []
    total = 0
    for last in range(index, min(index + _GROUPS_MAX, len(groups))):
        size = groups[last][1] - groups[last][0]
        sizes.append(size)
        total += size
        if total > 19:
            return None
        if total >= 13 and _is_grouping(text, groups, index, last, sizes):
            digits = [int(text[at]) for begin, end in groups[index : last + 1] for at in range(begin, end)]
            if is_pan(digits) and not _is_something_else(text, groups[index][0], groups[last][1], digits, len(sizes)):
                return last
    return None


def _is_grouping(text: str, groups: list[tuple[int, int]], index: int, last: int, sizes: list[int]) -> bool:
    if len(sizes) == 1:
        return True
    if tuple(sizes) in _GROUPINGS:
        return True
    # Other groups of one size, the last perhaps shorter: only with one separator, and where no number goes before or
    # after, because lists of numbers look like that.
    if any(size != sizes[0] for size in sizes[:-1]) or sizes[-1] > sizes[0]:
        return False
    if len({text[begin - 1] for begin, _ in groups[index + 1 : last + 1]}) != 1 or text[groups[index][1]] == ".":
        return False
    return not _is_joined_before(text, groups[index][0]) and not _is_joined_after(text, groups[last][1])


def _is_joined_before(text: str, at: int) -> bool:
    return at >= 2 and _IS_SEPARATOR(text, at - 1) is not None and text[at - 2].isdecimal()


def _is_joined_after(text: str, at: int) -> bool:
    return at + 1 < len(text) and _IS_SEPARATOR(text, at) is not None and text[at + 1].isdecimal()


@cache
def _lengths_of(head: int) -> frozenset[int]:
    """How many digits card numbers have that begin with these four; none, where no issuer does."""
    return frozenset().union(*(lengths for low, high, lengths in _SCHEMES if low <= head <= high))


def is_pan(digits: list[int]) -> bool:
    """Whether these digits are a card number by issuer, length and check digit (ISO/IEC 7812, Luhn)."""
    if len(digits) not in _lengths_of(digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3]):
        return False
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (doubled + sum(digits[-1::-2])) % 10 == 0 and len(set(digits)) > 1


def _is_something_else(text: str, begin: int, end: int, digits: list[int], groups: int) -> bool:
    """Whether what passes for a card number by its digits is another thing by what it is or stands in."""
    if groups == 1:
        if begin >= 2 and text[begin - 1] == "." and text[begin - 2].isdecimal():
            return True  # the fraction of a number
        if len(digits) == 13 and ((begin >= 1 and text[begin - 1] == "+") or _is_article_number(digits)):
            return True  # cards of 13 digits are no longer issued; telephone and article numbers are
        left = begin
        while left > 0 and begin - left <= 128 and text[left - 1].isascii() and text[left - 1].isalnum():
            left -= 1
        word = _WORD.match(text, left, end + 129)
        if word is not None and word.end() - left in _DIGEST_LENGTHS and _HEX_WITH_LETTER.fullmatch(word.group()):
            return True
    # A UUID has 36 characters, so one that holds this begins at most 35 before it.
    around = _UUID.finditer(text, max(0, begin - 36), end + 36)
    return any(match.start() <= begin and end <= match.end() for match in around)


def _is_article_number(digits: list[int]) -> bool:
    """An EAN-13 by its check digit (GS1 General Specifications, 7.9)."""
    return (sum(digits[0::2]) + 3 * sum(digits[1::2])) % 10 == 0


# --- social security numbers --------------------------------------------------------------------------------------------


def _find_ssns(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    at = start
    shape = _ASCII_SSN if text.isascii() else _SSN
    while (match := shape.search(text, at)) is not None and match.start() < stop:
        begin, end = match.span()
        area, separator, group, serial = match.groups()
        if (
            int(area) not in (0, 666)
            and int(area) < 900
            and int(group) != 0
            and int(serial) != 0
            and not (begin >= 1 and text[begin - 1].isdecimal())
            and not (begin >= 2 and text[begin - 1] == separator and text[begin - 2].isdecimal())
            and not (end + 1 < len(text) and text[end] == separator and text[end + 1].isdecimal())
        ):
            yield begin, end
            at = end
        else:
            at = begin + 1


# --- e-mail addresses ----------------------------------------------------------------------------------------------------


def _find_emails(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    reached = start
    for sign in _AT.finditer(text, start):
        at = sign.start()
        if at - _LOCAL_MAX >= stop:
            return
        if at < reached:
            continue
        floor = max(reached, at - _LOCAL_MAX)
        local = _LOCAL.search(text, floor, at)
        # Behind one address ends, another may begin (a@b.com@x.org): its local part is already hidden.
        if local is None and not (at == reached > 0 and text[at - 1].isalpha()):
            continue
        begin = at if local is None else local.start()
        domain = _DOMAIN.match(text, at + 1, at + 1 + _DOMAIN_MAX)
        if domain is None or begin >= stop:
            continue
        labels = domain.group().split(".")
        if labels[-1].lower() in _NO_DOMAIN or (labels[0].isdecimal() and labels[1].isdecimal()):
            continue  # a file, a unit, or a version
        reached = domain.end()
        yield begin, reached


_FINDERS: Final[dict[str, Callable[[str, int, int], Iterator[tuple[int, int]]]]] = {
    "pan": _find_pans,
    "ssn": _find_ssns,
    "email": _find_emails,
}


# --- binary values -------------------------------------------------------------------------------------------------------


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _elements(value: bytes) -> list[bytes] | None:
    """The elements of a binary array that are not NULL, or None where it is not one."""
    if len(value) < 12:
        return None
    dimensions = int.from_bytes(value[:4], "big")
    at = 12 + 8 * dimensions
    elements: list[bytes] = []
    while at < len(value):
        size = int.from_bytes(value[at : at + 4], "big", signed=True)
        at += 4 + max(size, 0)
        if size < -1 or at > len(value) or len(elements) >= _ARRAY_ELEMENTS_MAX:
            return None
        if size >= 0:
            elements.append(value[at - size : at])
    return elements


def _parts(type_oid: int, value: bytes) -> list[tuple[int, bytes]] | None:
    """The values inside a row, a range, a multirange or an array of these or of a type that we do not know, with their
    types; None where it is none of them (rowtypes.c record_send, rangetypes.c range_send, multirangetypes.c)."""
    if type_oid in _RANGES:
        # Of the flags in the first byte we need none: what is there says how long it is.
        return _sized(value[1:], _RANGES[type_oid])
    if type_oid in _MULTIRANGES:
        return _sized(value[4:], _MULTIRANGES[type_oid])
    if type_oid != _RECORD and type_oid not in _ROW_ARRAYS and type_oid < _FIRST_USER_OID:
        return None
    if type_oid not in _ROW_ARRAYS:
        fields = _fields(value)
        if fields is not None:
            return fields
    if len(value) < 12 or int.from_bytes(value[4:8], "big") > 1 or not 1 <= int.from_bytes(value[:4], "big") <= 6:
        return None
    return _sized(value[12 + 8 * int.from_bytes(value[:4], "big") :], int.from_bytes(value[8:12], "big"))


def _sized(value: bytes, type_oid: int) -> list[tuple[int, bytes]] | None:
    """Values of one type, each behind its length; None where they are not."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(value):
        size = int.from_bytes(value[at : at + 4], "big", signed=True)
        at += 4 + max(size, 0)
        if size < -1 or at > len(value):
            return None
        if size >= 0:
            found.append((type_oid, value[at - size : at]))
    return found


def _fields(value: bytes) -> list[tuple[int, bytes]] | None:
    """The fields of a row that are not NULL; None where it is not one."""
    found: list[tuple[int, bytes]] = []
    count, at = int.from_bytes(value[:4], "big"), 4
    if len(value) < 4 or count > len(value) // 8:
        return None
    for _ in range(count):
        size = int.from_bytes(value[at + 4 : at + 8], "big", signed=True)
        type_oid = int.from_bytes(value[at : at + 4], "big")
        at += 8 + max(size, 0)
        if type_oid <= 1 or size < -1 or at > len(value):
            return None  # no type has such a number; in an array the flags stand there, which are 0 or 1
        if size >= 0:
            found.append((type_oid, value[at - size : at]))
    return found if at == len(value) else None


def _whole_float(value: bytes) -> str:
    """The digits of a float in text format that is written with an exponent."""
    if b"e" not in value:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return str(int(number)) if abs(number) < 1e20 else ""


def _whole_money(value: bytes) -> str:
    """The digits of an amount of money in text format, before its point, without what groups them."""
    return "".join(chr(code) for code in value.partition(b".")[0] if 0x30 <= code <= 0x39)


def _int8(value: bytes) -> str | None:
    return str(int.from_bytes(value, "big", signed=True)) if len(value) == 8 else None


def _float8(value: bytes) -> str | None:
    if len(value) != 8:
        return None
    number: float = struct.unpack("!d", value)[0]
    return str(int(number)) if number == number and abs(number) < 1e20 else ""


def _numeric(value: bytes) -> str | None:
    """The integer part of a numeric (src/backend/utils/adt/numeric.c, numeric_send)."""
    if len(value) < 8:
        return None
    count, weight, sign, _ = struct.unpack_from("!hhHH", value)
    if count < 0 or len(value) != 8 + 2 * count:
        return None
    if sign not in (0x0000, 0x4000) or weight > 5:
        return ""  # not a number, infinite, or longer than any value that is looked for
    digits = struct.unpack_from(f"!{count}H", value, 8)
    return "".join(f"{digits[at] if at < count else 0:04d}" for at in range(weight + 1)).lstrip("0")


_WRITTEN_OTHERWISE: Final[dict[int, Callable[[bytes], str]]] = {701: _whole_float, 790: _whole_money}
_NUMBERS: Final[dict[int, Callable[[bytes], str | None]]] = {20: _int8, 701: _float8, 1700: _numeric}
# Types whose binary form is not the bytes of a text.
_CODED: Final = frozenset({*_NUMBERS, *_ELEMENT_TYPES, *_RANGES, *_MULTIRANGES, *_ROW_ARRAYS, _RECORD, _JSONB})

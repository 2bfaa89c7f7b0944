"""Which parts of an SQL text or a bound value a person may not see, and what is shown in their place.

The text is cut with the server's own scanner, so that a literal is found whatever it looks like: escapes, Unicode escapes,
dollar quotes, continued strings, bit strings, numbers in any base. What is hidden is shown as HIDDEN. The result is
for reading only: it need not be SQL any more, and it is never sent to a target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pglast.parser import ParseError, scan

from appliance.decisions import Mask, ValueMask
from appliance.masking.detectors import Detectors
from appliance.sql.reading import TEXT_LENGTH_MAX

HIDDEN = "•••"

_NUMBERS = frozenset({"ICONST", "FCONST"})
_STRINGS = frozenset({"SCONST", "USCONST", "BCONST", "XCONST"})
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})

# The scanner takes a run of operator characters again for each sign or comment in it, so that a run of n costs n² steps,
# some 3·10⁸ a second. A run without + and /* is one token, or a comment to the end of its line, and taken once.
_SCAN_STEPS_MAX = 20_000_000
_OPERATORS = re.compile(r"[-~!@#^&|`?+*/%<>=]{64,}")

# Where none of these is, every token stands for a part of itself, quotes inside it apart: escapes, bit strings, Unicode
# escapes, numbers in other bases, with underscores or an exponent, and strings that go on on another line.
_WRITTEN_OTHERWISE = re.compile(
    r"""[\\\0]|&['"]|(?<![A-Za-z_])[bBxX]'|(?<![0-9A-Za-z_$])[0-9][0-9.]*[_xXoObBeE]|'\s*(?:--|[\n\r])"""
)

# No token shorter than this stands for anything that is looked for ("a@b.co").
_TELLING_LENGTH_MIN = 6

# A number with a longer exponent has no digits of its own in its value, and writing it out would cost as much as it says.
_EXPONENT_MAX = 40


@dataclass(frozen=True, slots=True)
class _Part:
    """A token or the white space before one: its text, and the grammar's name for it ("" for white space)."""

    name: str
    text: str


def redact(text: str, hide_literals: bool) -> str:
    """`text` as a person or an export may see it. Never raises.

    Card numbers (by Luhn), e-mail addresses and social security numbers are always hidden, inside literals, comments,
    identifiers and across them. With `hide_literals` every constant and comment is hidden, whatever it holds; a text
    that the scanner cannot cut then keeps its first word only, and so does one that is too long to be read.
    """
    if len(text) > TEXT_LENGTH_MAX:
        return _opening_word(text)
    if not hide_literals and _is_innocent(text):
        return text
    parts = _cut(text)
    if parts is None:
        return _opening_word(text) if hide_literals else redact_text(text)
    shown: list[str] = []
    for number, part in enumerate(parts):
        if hide_literals and (part.name in _STRINGS or part.name in _NUMBERS or part.name in _COMMENTS):
            shown.append(_cover(part))
        else:
            shown.append(_show(part, _escape_character(parts, number)))
    return _clean("".join(shown))


def redact_literals(pieces: Sequence[str], literals: Sequence[str]) -> str:
    """What `redact` without hide_literals shows of a text that is cut into plain strings and decimal numbers and what stands
    between them, if it hides nothing in the tokens of what stands between."""
    shown = [pieces[0]]
    for literal, piece in zip(literals, pieces[1:], strict=True):
        shown += [_show(_Part("SCONST" if literal[0] == "'" else "FCONST", literal), "\\"), piece]
    return _clean("".join(shown))


def redact_text(value: str) -> str:
    """A bound parameter's text, or any other single value, with what is shaped like a secret hidden. Never raises."""
    cleaned = _clean(value)
    return HIDDEN if any(_is_shaped(form) for form in _other_forms(cleaned)) else cleaned


def may_hold_shape(data: bytes) -> bool:
    """Whether a text, or any part of it as it is written, may hold what `redact` always hides. Quick, and never False
    where a card number, an address or a social security number stands in plain digits and letters."""
    return _detectors().may_hold(data)


def is_costly_to_scan(text: str) -> bool:
    """Whether the server's scanner would take longer over that text than anybody should wait for; neither it nor the
    grammar may then be given the text."""
    steps = 0
    for run in _OPERATORS.finditer(text):
        if "+" in run[0] or "/*" in run[0]:
            steps += (run.end() - run.start()) ** 2
    return steps > _SCAN_STEPS_MAX


def _is_innocent(text: str) -> bool:
    """Whether it can be told without the scanner that nothing is hidden in that text: what is looked for is nowhere in the
    whole of it, and so in no token, because none stands for anything else than what is written."""
    if _WRITTEN_OTHERWISE.search(text):
        return False
    try:
        return not may_hold_shape(text.encode())
    except UnicodeEncodeError:
        return False


def tokens_of(text: str) -> list[tuple[str, str]] | None:
    """All parts of the text in order as the server's scanner cuts it: the grammar's name for each token, "" for white space,
    and what stands there. None where it does not cover the text, or would take too long over it."""
    parts = _cut(text)
    return None if parts is None else [(part.name, part.text) for part in parts if part.text]


def _cut(text: str) -> list[_Part] | None:
    """The text's tokens with the white space between them, or None where the scanner does not cover it whole."""
    if is_costly_to_scan(text):
        return None
    try:
        tokens = scan(text)
    except (ParseError, ValueError):
        return None
    parts: list[_Part] = []
    position = 0
    for token in tokens:
        # The scanner stops at a NUL: what it passed over must be white space, or nothing is certain.
        if token.start < position or text[position : token.start].strip(" \t\n\r\f\v"):
            return None
        if token.start > position:
            parts.append(_Part("", text[position : token.start]))
        parts.append(_Part(token.name, text[token.start : token.end + 1]))
        position = token.end + 1
    if text[position:].strip(" \t\n\r\f\v"):
        return None
    parts.append(_Part("", text[position:]))
    return parts


def _opening_word(text: str) -> str:
    word = re.match(r"\s*([A-Za-z]{1,20})(?![A-Za-z0-9_])", text)
    return f"{word.group(1)} {HIDDEN}" if word else HIDDEN


def _cover(part: _Part) -> str:
    """A constant or comment with nothing left of it but what sort it is."""
    if part.name == "SQL_COMMENT":
        return f"-- {HIDDEN}"
    if part.name == "C_COMMENT":
        return f"/* {HIDDEN} */"
    if part.name in _NUMBERS:
        return HIDDEN
    return f"'{HIDDEN}'"


def _show(part: _Part, escape: str) -> str:
    """A token with secret shapes hidden: in place where it is written plainly, whole where the shape is behind escapes."""
    quoted = part.name in _STRINGS or part.name in _NUMBERS or part.text[:1] == '"' or part.name == "UIDENT"
    if not quoted or len(part.text) < _TELLING_LENGTH_MIN:
        return part.text
    cleaned = _clean(part.text)
    if any(_is_shaped(form) for form in _meanings(_Part(part.name, cleaned), escape)):
        return _cover(part) if part.name in _STRINGS or part.name in _NUMBERS else f'"{HIDDEN}"'
    return cleaned


def _escape_character(parts: list[_Part], number: int) -> str:
    """The escape character of a U& literal: what a UESCAPE after it says, or a backslash."""
    if parts[number].name not in ("USCONST", "UIDENT"):
        return "\\"
    following = [part for part in parts[number + 1 : number + 8] if part.name and part.name not in _COMMENTS][:2]
    if len(following) == 2 and following[0].name == "UESCAPE" and len(following[1].text) == 3:
        return following[1].text[1]
    return "\\"


def _meanings(part: _Part, escape: str) -> Iterator[str]:
    """What a token stands for, where that may differ from what is written."""
    text = part.text
    if part.name in _NUMBERS:
        yield from _number_forms(text)
    elif part.name in ("BCONST", "XCONST"):
        yield from _bit_forms(text)
    elif part.name in ("USCONST", "UIDENT"):
        value = _unicode_unescaped(_unquoted(text[2:]), escape)
        yield value
        yield from _other_forms(value)
    elif part.name == "SCONST":
        if text[:1] in "eE":
            value = _backslash_unescaped(_unquoted(text[1:]))
        elif text[:1] == "$":
            value = text.strip("$")
        else:
            value = _unquoted(text)
        yield value
        yield from _other_forms(value)
    elif text[:1] == '"':
        yield text[1:-1].replace('""', '"')


def _unquoted(text: str) -> str:
    """The inside of a quoted string: pieces that continue one another joined, doubled quotes single."""
    return re.sub(r"'\s*[\n\r]\s*(?:--[^\n\r]*[\n\r]\s*)*'", "", text)[1:-1].replace("''", "'")


_BACKSLASHED = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)


def _backslash_unescaped(text: str) -> str:
    def meant(match: re.Match[str]) -> str:
        hexadecimal, octal, short, long, other = match.groups()
        if other is not None:
            return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(other, other)
        return _character(int(octal, 8) & 0xFF if octal else int(hexadecimal or short or long, 16))

    return _BACKSLASHED.sub(meant, text)


def _unicode_unescaped(text: str, escape: str) -> str:
    mark = re.escape(escape)
    return re.sub(
        rf"{mark}(?:\+([0-9A-Fa-f]{{6}})|([0-9A-Fa-f]{{4}})|{mark})",
        lambda match: _character(int(match[1] or match[2], 16)) if match[1] or match[2] else escape,
        text,
    )


def _character(code: int) -> str:
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"


def _number_forms(text: str) -> Iterator[str]:
    """A number written out in decimal: without underscores, from another base, without its exponent and point."""
    plain = text.replace("_", "").lower()
    if plain[:2] in ("0x", "0o", "0b"):
        # More digits than an int8 or a card number has: its value is none, and writing out a huge number costs squared time.
        # What was hidden in it already is no number any more.
        if len(plain) <= 66 and plain[2:].isalnum():
            yield str(int(plain, 0))
        return
    yield plain
    mantissa, _, exponent = plain.partition("e")
    digits, _, fraction = mantissa.partition(".")
    if fraction or exponent:
        shift = int(exponent) if re.fullmatch(r"[+-]?\d{1,4}", exponent) else 0
        if abs(shift) <= _EXPONENT_MAX:
            point = len(digits) + shift
            every = digits + fraction
            yield every[: max(point, 0)] + "0" * max(point - len(every), 0)
        yield digits + fraction


def _bit_forms(text: str) -> Iterator[str]:
    """A bit string read as bytes, and as a number where it is no longer than one."""
    digits = re.sub(r"[^0-9A-Fa-f]", "", text[1:])
    if text[:1] in "bB":
        if len(digits) <= 64 and set(digits) <= {"0", "1"} and digits:
            yield str(int(digits, 2))
        digits = (
            "".join(f"{int(digits[at : at + 8], 2):02x}" for at in range(0, len(digits) - 7, 8))
            if set(digits) <= {"0", "1"}
            else ""
        )
    elif 0 < len(digits) <= 16:
        yield str(int(digits, 16))
    yield _from_hex(digits)


def _other_forms(value: str) -> Iterator[str]:
    """What a value stands for where it is written as the server writes bytes: \\x and hexadecimal digits."""
    for match in re.finditer(r"\\x((?:[0-9A-Fa-f]{2})+)", value):
        yield _from_hex(match[1])


def _from_hex(digits: str) -> str:
    return bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1")


def _clean(text: str) -> str:
    # A lone surrogate cannot be recorded as text either; both ways it becomes a question mark.
    return _detectors().clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _is_shaped(value: str) -> bool:
    data = value.encode("utf-8", "replace")
    return _detectors().clean(data) != data


@cache
def _detectors() -> Detectors:
    """The detectors of every value shape that policy knows by name, each hiding all it finds."""
    return Detectors(tuple(ValueMask(name, Mask("redact")) for name in ("pan", "email", "ssn")))

"""How recorded texts become part of a page: every character seen for what it is, statements coloured, effects in words.

What agents send is read by somebody who is about to decide about it. So whatever would be invisible, would change the
direction of writing or would pass for a Latin letter is shown by its number (Trojan Source, CVE-2021-42574).
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from markupsafe import Markup, escape
from pygments.lexers.data import YamlLexer
from pygments.token import Comment, Literal, Name, Punctuation, _TokenType

from appliance.sql.redaction import HIDDEN, tokens_of

# What is longer is shown in one colour: cutting it into tokens would take long, and nobody reads it all.
COLOURED_CHARACTERS_MAX: Final = 20_000
SHOWN_CHARACTERS_MAX: Final = 200_000
# Of a text with marks in it: each takes a hundred characters of markup, and time.
MARKED_CHARACTERS_MAX: Final = 40_000
LINE_CHARACTERS_MAX: Final = 160
# Of a listed text no more than this is looked at.
LISTED_CHARACTERS_MAX: Final = 4_000
# Markup is many times as long as a text with much to mark in it, so only that of short ones is kept.
KEPT_CHARACTERS_MAX: Final = 4_000
KEPT_MAX: Final = 1024
# Vietnamese and Hebrew put two on one letter; more of them grow over the lines above and below.
STACKED_MARKS_MAX: Final = 3

_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
# Format characters aside, these have no ink of their own or look like a space that is none.
_BLANK: Final = frozenset(
    "\u00a0\u115f\u1160\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u2800\u3000\u3164\uffa0"
)
_PLAIN = re.compile(r"[\x20-\x7e\n\t]*\Z")
_WHITE = re.compile(r"[ \t\n]+")
_SPACES = re.compile(r"[ \t]+")
_VARIATION: Final = range(0xFE00, 0xFE10)
_MARKS: Final = re.compile(re.escape(HIDDEN))

_HIDDEN_MARK: Final = Markup('<span class="hidden-value" title="a sensitive value is not shown here">{}</span>').format(
    HIDDEN
)
_NEW_LINE: Final = Markup('<span class="new-line" title="a new line"> ↵ </span>')

# The scanner's names; whatever else begins with a letter is a word of the language.
_KINDS: Final = (
    dict.fromkeys(("SQL_COMMENT", "C_COMMENT"), "comment")
    | dict.fromkeys(("SCONST", "USCONST", "BCONST", "XCONST"), "string")
    | dict.fromkeys(("ICONST", "FCONST", "PARAM"), "number")
    | dict.fromkeys(("IDENT", "UIDENT", ""), "")
)
_COLOURS: Final = frozenset({"comment", "keyword", "number", "string"})
_YAML = YamlLexer(stripnl=False, ensurenl=False)
_YAML_CLASSES: Final[tuple[tuple[_TokenType, str], ...]] = (
    (Name.Tag, "keyword"),
    (Comment, "comment"),
    (Literal.Scalar, ""),
    (Punctuation, "mark"),
)


def visible(text: object) -> Markup:
    """The text as markup, with everything visible in it that a browser would hide or act upon."""
    return _marked("" if text is None else str(text), is_name=False)


def _marked(text: str, *, is_name: bool) -> Markup:
    if _PLAIN.match(text):
        return escape(text)
    return _HIDDEN_MARK.join(_shown(part, is_name) for part in _MARKS.split(text))


def _shown(text: str, is_name: bool) -> Markup:
    """Runs of what needs no mark, and each of the others by itself, or how often it stands there."""
    shown = []
    for (sort, character), run in groupby(zip(_sorts(text, is_name), text, strict=True), key=_sort_and_character):
        letters = "".join(letter for _, letter in run)
        if sort:
            shown.append(_mark(sort, character, len(letters)))
        else:
            shown.append(escape(letters))
    return Markup("").join(shown)


def _sort_and_character(one: tuple[str, str]) -> tuple[str, str]:
    return one if one[0] else ("", "")


def _sorts(text: str, is_name: bool) -> Iterator[str]:
    """For each character "unseen" (shown by its number), "foreign" (shown as it is, with a mark) or ""."""
    stacked = 0
    for character in text:
        if " " <= character <= "~" or character in "\n\t":
            stacked = 0
            yield ""
            continue
        category = unicodedata.category(character)
        stacked = stacked + 1 if category == "Mn" else 0
        if (
            category in _UNSEEN
            or character in _BLANK
            or ord(character) in _VARIATION
            # What is drawn over or around the letters before it: struck out by the text itself.
            or category == "Me"
            or unicodedata.combining(character) == 1
            or stacked > STACKED_MARKS_MAX
        ):
            yield "unseen"
        else:
            yield "foreign" if is_name else ""


def spelled(text: object) -> str:
    """The text for an attribute, which has no room for marks: what would be unseen in it is written out as its number."""
    whole = "" if text is None else str(text)
    if _PLAIN.match(whole):
        return whole
    pairs = zip(_sorts(whole, is_name=False), whole, strict=True)
    return "".join(f"[U+{ord(character):04X}]" if sort else character for sort, character in pairs)


@lru_cache(maxsize=KEPT_MAX)
def _mark(sort: str, character: str, times: int) -> Markup:
    number = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character")
    told = character * times if sort == "foreign" else number if times == 1 else f"{number} ×{times}"
    return Markup('<span class="{}" title="{} {}">{}</span>').format(sort, number, name, told)


def statement(text: str) -> Markup:
    """A statement, coloured, each line in an element of its own so that lines can be numbered."""
    return _statement(text) if len(text) > KEPT_CHARACTERS_MAX else _kept_statement(text)


@lru_cache(maxsize=KEPT_MAX)
def _kept_statement(text: str) -> Markup:
    return _statement(text)


def _statement(text: str) -> Markup:
    cut = text[:SHOWN_CHARACTERS_MAX]
    if not _PLAIN.match(cut):
        cut = text[:MARKED_CHARACTERS_MAX]
    lines: list[list[Markup]] = [[]]
    for kind, part in _joined(_tokens(cut)):
        for number, piece in enumerate(part.replace("\r\n", "\n").split("\n")):
            if number:
                lines.append([])
            if piece:
                lines[-1].append(_piece(kind, piece))
    body = Markup("\n".join(f'<span class="line">{"".join(line)}</span>' for line in lines))
    if len(text) > len(cut):
        body += Markup('\n<span class="cut">and {} characters more</span>').format(f"{len(text) - len(cut):,}")
    return body


def _piece(kind: str, text: str) -> Markup:
    return _coloured(kind, _marked(text, is_name=kind not in ("comment", "string")))


def _coloured(kind: str, shown: Markup) -> Markup:
    """In the colour of its kind, where that has one. Both arguments are our own."""
    return shown if kind not in _COLOURS else Markup(f'<span class="q-{kind}">{shown}</span>')


def _joined(tokens: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Neighbours of one kind as one: the mark of a hidden value is several tokens to a grammar that does not know it."""
    for kind, parts in groupby(tokens, key=lambda token: token[0]):
        yield kind, "".join(part for _, part in parts)


@lru_cache(maxsize=KEPT_MAX)
def yaml(text: str) -> Markup:
    """A rule's source, coloured."""
    if len(text) > COLOURED_CHARACTERS_MAX:
        return visible(text)
    shown = []
    for _, token, part in _YAML.get_tokens_unprocessed(text):
        kind = next((name for one, name in _YAML_CLASSES if token in one), "")
        shown.append(_coloured(kind, visible(part)))
    return Markup("").join(shown)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kinds and parts, as the server's own scanner cuts the text: what passes for a comment or a string to another reader,
    and runs at the server, would deceive whoever reads. Where that is not certain the text has no kinds at all."""
    parts = None if len(text) > COLOURED_CHARACTERS_MAX else tokens_of(text)
    if parts is None:
        yield "", text
        return
    for name, part in parts:
        yield _KINDS.get(name, "keyword" if part[0].isalpha() else ""), part


def one_line(text: object) -> Markup:
    """The beginning of a text on one line, coloured where it is a statement."""
    whole = "" if text is None else str(text)
    return _one_line(whole) if len(whole) <= KEPT_CHARACTERS_MAX else _one_line(whole[:LISTED_CHARACTERS_MAX] + "…")


@lru_cache(maxsize=KEPT_MAX)
def _one_line(text: str) -> Markup:
    shown: list[Markup] = []
    left = LINE_CHARACTERS_MAX
    before = ""
    parts = list(_joined(_tokens(text.strip(" \t\n"))))
    for kind, part in parts:
        # On one line a comment would seem to go on over what stands on the next, and runs.
        is_telling = before == "comment" or len(parts) == 1
        flat = _SPACES.sub(" ", part) if is_telling else _WHITE.sub(" ", part)
        pieces = [_piece(kind, piece.strip(" ")) for piece in flat[:left].split("\n")]
        shown.append(_NEW_LINE.join(pieces) if len(pieces) > 1 else _piece(kind, flat[:left]))
        left -= len(flat)
        before = kind
        if left <= 0:
            break
    more = "…" if left < 0 else ""
    return Markup('<span class="line">{}{}</span>').format(Markup("").join(shown), more) if shown else Markup("")


# Effects.

_EFFECT = re.compile(
    r"(?P<action>[a-z]+) (?P<kind>[a-z]+) (?P<name>[^()\[\]]*?)"
    r"(?: \((?P<fields>[^()\[\]]*)\))?(?: as (?P<use>output|compare|compute))?(?: \[(?P<attributes>[^()\[\]]*)\])?"
)
_VERBS: Final[dict[str, tuple[str, str]]] = {
    "read": ("Reads", "calm"),
    "insert": ("Adds rows to", "change"),
    "update": ("Changes", "change"),
    "delete": ("Deletes from", "danger"),
    "truncate": ("Empties", "danger"),
    "create": ("Creates", "change"),
    "alter": ("Alters", "danger"),
    "drop": ("Drops", "danger"),
    "grant": ("Changes rights on", "danger"),
    "call": ("Calls", "change"),
    "connect": ("Uses", "calm"),
    "publish": ("Publishes to", "change"),
    "consume": ("Consumes from", "calm"),
    "upload": ("Uploads to", "danger"),
    "download": ("Downloads from", "danger"),
    "forward": ("Opens a way to", "danger"),
    "exec": ("Runs a program in", "danger"),
    "scale": ("Scales", "change"),
    "admin": ("Administers", "danger"),
    "unknown": ("Could not be understood:", "danger"),
}
_ICONS: Final = {"danger": "!", "change": "±", "calm": "·"}
_USES: Final = {"output": "", "compare": "tested for equality", "compute": "in expressions"}
# Of the others, what looks like fields is part of a name.
_WITH_FIELDS: Final = frozenset({"read", "insert", "update", "alter", "grant", "unknown"})
_RULE = re.compile(r"(.*) \(([^()]+:[0-9]+)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShownEffect:
    """An effect as a person reads it. `level` is calm, change or danger; `text` the recorded words."""

    level: str
    icon: str
    verb: str
    name: str
    kind: str
    fields: tuple[str, ...]
    use: str
    notes: tuple[str, ...]
    text: str


def effect(text: str) -> ShownEffect:
    """A recorded effect in words. One whose names could pass for its other parts is shown as it was recorded."""
    found = _EFFECT.fullmatch(text)
    word = text.split(" ", 1)[0]
    verb, level = _VERBS.get(word, ("", "danger"))
    has_parts = found is not None and (found["fields"] is None or word in _WITH_FIELDS)
    has_parts = has_parts and found is not None and (found["use"] is None or word == "read")
    if found is None or not verb or not has_parts or " as " in found["name"]:
        return ShownEffect(level, _ICONS[level], "", text, "", (), "", (), text)
    notes = tuple(part.replace("=", ": ").replace("_", " ") for part in (found["attributes"] or "").split(", ") if part)
    fields = tuple(part for part in (found["fields"] or "").split(", ") if part)
    return ShownEffect(
        level, _ICONS[level], verb, found["name"], found["kind"], fields, _USES.get(found["use"] or "", ""), notes, text
    )


def effects(texts: list[str]) -> list[ShownEffect]:
    """All of a command's, the gravest first."""
    order = {"danger": 0, "change": 1, "calm": 2}
    return sorted((effect(text) for text in texts), key=lambda one: order[one.level])


def gravest(texts: list[str]) -> str:
    """The level of the gravest effect."""
    return effects(texts)[0].level if texts else "calm"


def rule_id(text: str) -> str:
    """The id of a rule that is named with its place."""
    found = _RULE.fullmatch(text)
    return found[1] if found else text


def rule_place(text: str) -> str:
    """Its file and line, or ""."""
    found = _RULE.fullmatch(text)
    return found[2] if found else ""


# Times and sizes.


def moment(seconds: float | int | None) -> Markup:
    """A time element: the page's script shows it relative to now, and this text stands where there is no script."""
    if seconds is None:
        return Markup("")
    # Records count nanoseconds, the desk seconds.
    value = float(seconds) / 1e9 if float(seconds) > 1e14 else float(seconds)
    try:
        at = datetime.datetime.fromtimestamp(value, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return Markup("unknown")
    told = at.strftime("%Y-%m-%d %H:%M:%S")
    return Markup(f'<time datetime="{at.isoformat(timespec="milliseconds")}" title="{told} UTC">{told}</time>')


def clock_time(seconds: float | int | None) -> Markup:
    """The same, for a line of a timeline: the time of day with milliseconds, which stays as it is."""
    if seconds is None:
        return Markup("")
    value = float(seconds) / 1e9 if float(seconds) > 1e14 else float(seconds)
    try:
        at = datetime.datetime.fromtimestamp(value, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return Markup("unknown")
    told = at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03d}"
    return Markup('<time class="fixed" datetime="{}" title="{} UTC">{}</time>').format(
        at.isoformat(timespec="milliseconds"), at.strftime("%Y-%m-%d %H:%M:%S"), told
    )


def duration(seconds: float | int | None) -> str:
    """So long, in words as short as a clock's."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    if whole >= 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: int | None) -> str:
    """Bytes, in the unit that reads best."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def count(value: Any) -> str:
    """A number with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) and not isinstance(value, bool) else str(value)


def finalize(value: Any) -> Any:
    """What a template writes for a value: every text with its unseen characters made visible, so that none is forgotten."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

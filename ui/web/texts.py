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
from pygments.lexers.sql import PostgresLexer
from pygments.token import Comment, Keyword, Literal, Name, Number, Operator, Punctuation, String, _TokenType

from appliance.sql.redaction import HIDDEN

# What is longer is shown in one colour: cutting it into tokens would take long, and nobody reads it all.
COLOURED_CHARACTERS_MAX: Final = 20_000
SHOWN_CHARACTERS_MAX: Final = 200_000
LINE_CHARACTERS_MAX: Final = 160

_UNSEEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
# Format characters aside, these have no ink of their own or look like a space that is none.
_BLANK: Final = frozenset(
    "\u00a0\u115f\u1160\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u2800\u3000\u3164\uffa0"
)
_PLAIN = re.compile(r"[\x20-\x7e\n\t]*\Z")
_VARIATION: Final = range(0xFE00, 0xFE10)
_MARKS: Final = re.compile(re.escape(HIDDEN))

_CLASSES: Final[tuple[tuple[_TokenType, str], ...]] = (
    (Comment, "comment"),
    (Keyword, "keyword"),
    (Number, "number"),
    (String, "string"),
    (Literal, "string"),
    (Name.Builtin, "builtin"),
    (Name, "name"),
    (Operator, "operator"),
    (Punctuation, "mark"),
)
_COLOURS: Final = frozenset({"comment", "keyword", "number", "string", "builtin"})
_LEXER = PostgresLexer(stripnl=False, ensurenl=False)
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
    return Markup("").join(_character(one, is_name) for one in _grouped(text, is_name))


def _grouped(text: str, is_name: bool) -> Iterator[str]:
    """Runs of what needs no mark, and each of the others by itself."""
    run: list[str] = []
    for character in text:
        if _needs_mark(character, is_name):
            if run:
                yield "".join(run)
                run = []
            yield character
        else:
            run.append(character)
    if run:
        yield "".join(run)


def _needs_mark(character: str, is_name: bool) -> bool:
    if character in "\n\t":
        return False
    if unicodedata.category(character) in _UNSEEN or character in _BLANK or ord(character) in _VARIATION:
        return True
    return is_name and not character.isascii()


def _character(text: str, is_name: bool) -> Markup:
    if len(text) > 1 or not _needs_mark(text, is_name):
        return _with_hidden_values(text)
    number = f"U+{ord(text):04X}"
    name = unicodedata.name(text, "control character")
    if unicodedata.category(text) in _UNSEEN or text in _BLANK or ord(text) in _VARIATION:
        return Markup('<span class="unseen" title="{} {}">{}</span>').format(number, name, number)
    return Markup('<span class="foreign" title="{} {}">{}</span>').format(number, name, text)


def _with_hidden_values(text: str) -> Markup:
    if HIDDEN not in text:
        return escape(text)
    mark = Markup('<span class="hidden-value" title="a sensitive value is not shown here">{}</span>').format(HIDDEN)
    return mark.join(escape(part) for part in _MARKS.split(text))


@lru_cache(maxsize=1024)
def statement(text: str) -> Markup:
    """A statement, coloured, each line in an element of its own so that lines can be numbered."""
    cut = text[:SHOWN_CHARACTERS_MAX]
    lines: list[list[Markup]] = [[]]
    for kind, part in _joined(_tokens(cut)):
        for number, piece in enumerate(part.replace("\r\n", "\n").split("\n")):
            if number:
                lines.append([])
            if piece:
                shown = _marked(piece, is_name=kind in ("name", "builtin", "keyword"))
                lines[-1].append(_coloured(kind, shown))
    body = Markup("\n".join(f'<span class="line">{"".join(line)}</span>' for line in lines))
    if len(text) > len(cut):
        body += Markup('\n<span class="cut">and {} characters more</span>').format(f"{len(text) - len(cut):,}")
    return body


def _coloured(kind: str, shown: Markup) -> Markup:
    """In the colour of its kind, where that has one. Both arguments are our own."""
    return shown if kind not in _COLOURS else Markup(f'<span class="q-{kind}">{shown}</span>')


def _joined(tokens: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Neighbours of one kind as one: the mark of a hidden value is several tokens to a grammar that does not know it."""
    for kind, parts in groupby(tokens, key=lambda token: token[0]):
        yield kind, "".join(part for _, part in parts)


@lru_cache(maxsize=1024)
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
    if len(text) > COLOURED_CHARACTERS_MAX:
        yield "", text
        return
    for _, token, part in _LEXER.get_tokens_unprocessed(text):
        yield next((name for kind, name in _CLASSES if token in kind), ""), part


def one_line(text: object) -> Markup:
    """The beginning of a text on one line, coloured where it is a statement."""
    flat = " ".join(("" if text is None else str(text))[: LINE_CHARACTERS_MAX * 4].split())
    cut = flat[:LINE_CHARACTERS_MAX]
    return statement(cut + ("…" if len(flat) > len(cut) else "")) if cut else Markup("")


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

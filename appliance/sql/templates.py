"""Which literals of a statement its reading does not depend on, so that one reading serves all texts that differ in them.

A text is cut into literals of the plainest kinds and what stands between them, the skeleton. That a cut is the server's own
is shown once, on a text of that skeleton, with the server's scanner; then it holds for every text of the skeleton, because
the scanner meets each literal in the same state, behind the same characters, and leaves it before the same character:

- a number is decimal digits, with or without a point and more digits, and neither begins nor ends beside a letter, a
  digit, a dollar sign, an underscore or a point;
- a string stands in plain quotes, quotes in it are doubled, and it holds no backslash and no NUL
  (standard_conforming_strings is pinned on).

Which of them are mere values is asked of the grammar: every literal is exchanged for one that nothing else looks like, and
only those that turn up at a place of a short list (below) are mere values. Everything else stays part of what a reading is
kept under: limits, offsets, ordinals, arguments of functions, type modifiers, output columns, settings, names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from pglast.enums import A_Expr_Kind
from pglast.error import Error as GrammarError
from pglast.parser import scan

from appliance.effects import Action
from appliance.sql.reading import Reading, Statement
from appliance.sql.redaction import is_costly_to_scan, may_hold_shape, redact, redact_literals
from appliance.sql.tree import ast, children, parse, strings

# A text with more literals is a bulk load. Each takes some 5 µs when its template is made and some tenths of one after.
LITERALS_MAX: Final = 4_000

# A shorter text is never costly to scan (redaction.is_costly_to_scan) or nested too deeply to be parsed (analysis), whatever
# stands in its literals; a longer one is asked about again, or read in full where it was not asked about before.
_UNASKED_LENGTH: Final = 4_000

# It begins with a set of characters because the engine leaps from one of these to the next; what each begins is asked after.
_STRING_BODY: Final = r"(?<=')[^'\\\0]*(?:''[^'\\\0]*)*'(?!')"
_NUMBER_BODY: Final = r"(?<=[0-9])(?<![\w$.].)[0-9]*(?:\.[0-9]+)?(?![\w$.])"
_LITERAL: Final = re.compile(f"(['0-9](?:{_STRING_BODY}|{_NUMBER_BODY}))")

# Kinds of literals, one letter each: the scanner and the grammar take all of one kind alike. A number's size is part of it,
# because it decides the number's type, and that decides which operator or function a name means.
_STRING: Final = "s"
_INT4: Final = "i"
_INT8: Final = "l"
_NUMERIC: Final = "n"
_FRACTION: Final = "f"

_INT4_MAX: Final = 2**31 - 1
_INT8_MAX: Final = 2**63 - 1
INT4_DIGITS: Final = 9
"""As many are never more than _INT4_MAX."""
_INT8_DIGITS_MAX: Final = 40  # leading zeros included; a longer number is not worth a look at its value

_TOKENS: Final = {_STRING: "SCONST", _INT4: "ICONST", _INT8: "FCONST", _NUMERIC: "FCONST", _FRACTION: "FCONST"}


@dataclass(frozen=True, slots=True)
class Cut:
    """A text in parts: `skeleton` is what stands between the literals, a NUL in the place of each, then the letters of their
    kinds; `literals` are their exact texts, in order, at least one."""

    text: str
    skeleton: str
    literals: tuple[str, ...]


def cut(text: str) -> Cut | None:
    """The parts of a text; None where it has no literal of these kinds, too many, or a NUL.

    What it answers is a guess until `kept_literals` has tried a text of the same skeleton on the scanner.
    """
    parts = _LITERAL.split(text)
    literals = parts[1::2]
    if not 0 < len(literals) <= LITERALS_MAX or "\0" in text:
        return None
    kinds = [
        _STRING if each[0] == "'" else _INT4 if len(each) <= INT4_DIGITS and each.isdigit() else _kind(each)
        for each in literals
    ]
    return Cut(text, "\0".join(parts[::2]) + "\0" + "".join(kinds), tuple(literals))


def around_number(text: str) -> tuple[str, str] | None:
    """What stands before and behind the only literal of a text, where it is a whole number of up to INT4_DIGITS digits: any
    text with another such number between the same is cut alike. None for other texts."""
    parts = cut(text)
    if parts is None or len(parts.literals) != 1 or parts.skeleton[-1] != _INT4 or len(parts.literals[0]) > INT4_DIGITS:
        return None
    before, behind = parts.skeleton[:-1].split("\0")[:2]
    return before, behind


def _kind(literal: str) -> str:
    if "." in literal:
        return _FRACTION
    if len(literal) > _INT8_DIGITS_MAX:
        return _NUMERIC
    value = int(literal)
    return _INT4 if value <= _INT4_MAX else _INT8 if value <= _INT8_MAX else _NUMERIC


# --- which literals are mere values

# Statements in which there are places for mere values at all.
_STATEMENTS: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"})

# Operators that compare or reckon; what they are given is a value and no text of another language (a path, a pattern of
# regular expressions, a query of words).
_OPERATORS: Final = frozenset(
    {"=", "<>", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "~~", "!~~", "~~*", "!~~*"}
)
_OPERATIONS: Final = frozenset(
    {
        A_Expr_Kind.AEXPR_OP,
        A_Expr_Kind.AEXPR_OP_ANY,
        A_Expr_Kind.AEXPR_OP_ALL,
        A_Expr_Kind.AEXPR_DISTINCT,
        A_Expr_Kind.AEXPR_NOT_DISTINCT,
        A_Expr_Kind.AEXPR_IN,
        A_Expr_Kind.AEXPR_LIKE,
        A_Expr_Kind.AEXPR_ILIKE,
        A_Expr_Kind.AEXPR_BETWEEN,
        A_Expr_Kind.AEXPR_NOT_BETWEEN,
        A_Expr_Kind.AEXPR_BETWEEN_SYM,
        A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM,
    }
)
_BETWEEN: Final = frozenset(
    {
        A_Expr_Kind.AEXPR_BETWEEN,
        A_Expr_Kind.AEXPR_NOT_BETWEEN,
        A_Expr_Kind.AEXPR_BETWEEN_SYM,
        A_Expr_Kind.AEXPR_NOT_BETWEEN_SYM,
    }
)

# Types whose values name nothing and hold no text that anything runs.
_TYPES: Final = frozenset(
    {
        "bool",
        "bpchar",
        "bytea",
        "date",
        "float4",
        "float8",
        "inet",
        "int2",
        "int4",
        "int8",
        "interval",
        "json",
        "jsonb",
        "numeric",
        "text",
        "time",
        "timestamp",
        "timestamptz",
        "timetz",
        "uuid",
        "varchar",
    }
)

# Functions that a literal anywhere in the text may tell the reading something about (commands.only_setting).
_TELLING: Final = frozenset({"set_config", "current_setting"})

# What no text that is tried may hold, because it tells our own literals from the text's.
_MARK_NUMBER: Final = "70000"
_MARK_WORD: Final = "sluicegate's"


def kept_literals(parts: Cut) -> tuple[int, ...] | None:
    """Which literals of a text of that skeleton, by their places, its reading may depend on; None: the skeleton has no
    template, because it was not cut as the server would or is not one statement of those that have values.

    The text must have been read already (sql.analysis.read) without a problem.
    """
    if not _is_cut_well(parts):
        return None
    pieces = parts.skeleton.split("\0")
    kinds = pieces.pop()
    if any(_MARK_NUMBER in piece or _MARK_WORD in piece for piece in pieces):
        return None
    marks = [_mark(kind, place) for place, kind in enumerate(kinds)]
    tried = pieces[0] + "".join(mark + piece for mark, piece in zip(marks, pieces[1:], strict=True))
    try:
        parsed = parse(tried)
    except (GrammarError, ValueError, RecursionError, MemoryError):
        return None
    if len(parsed) != 1 or type(parsed[0].stmt).__name__ not in _STATEMENTS:
        return None
    places = {mark: place for place, mark in enumerate(marks)}
    everywhere = _constants(parsed[0].stmt)
    if everywhere is None:
        return None
    values = {place for constant in _mere_values(parsed[0].stmt) if (place := places.get(_written(constant))) is not None}
    times = [0] * len(marks)
    for constant in everywhere:
        place = places.get(_written(constant))
        if place is not None:
            times[place] += 1
    return tuple(place for place in range(len(marks)) if place not in values or times[place] != 1)


def _is_cut_well(parts: Cut) -> bool:
    """Whether every literal is a token of its own to the server's scanner, and of its kind."""
    try:
        tokens = {token.start: (token.end + 1, token.name) for token in scan(parts.text)}
    except (GrammarError, ValueError):
        return False
    pieces = parts.skeleton.split("\0")
    kinds = pieces.pop()
    start = 0
    for piece, literal, kind in zip(pieces, parts.literals, kinds, strict=False):
        start += len(piece)
        end = start + len(literal)
        if tokens.get(start) != (end, _TOKENS[kind]):
            return False
        start = end
    return True


def _mark(kind: str, place: int) -> str:
    match kind:
        case "s":
            return f"'{_MARK_WORD.replace(chr(39), chr(39) * 2)} {place}'"
        case "i":
            return f"{_MARK_NUMBER}{place:04}"
        case "l":
            return f"{_MARK_NUMBER}0000000{place:04}"
        case "n":
            return f"{_MARK_NUMBER}0000000000000000{place:04}"
        case _:
            return f"{_MARK_NUMBER}0{place:04}.5"


def _written(constant: Any) -> str:
    """A constant as `_mark` writes it; a sign before a number is the grammar's to take in."""
    value = constant.val
    kind = type(value)
    if kind is ast.String:
        doubled: str = value.sval.replace("'", "''")
        return f"'{doubled}'"
    if kind is ast.Integer:
        return str(abs(value.ival or 0))
    if kind is ast.Float:
        return str(value.fval).lstrip("-")
    return ""


def _constants(tree: Any) -> list[Any] | None:
    """All constants of a statement; None where something in it makes mere values of none of them."""
    found: list[Any] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is ast.A_Const:
            found.append(node)
            continue
        if kind is ast.FuncCall and strings(node.funcname)[-1] in _TELLING:
            return None
        waiting.extend(children(node))
    return found


def _mere_values(statement: Any) -> list[Any]:
    """The constants of a statement that stand where nothing but their value matters: below it by attributes of `_BELOW`,
    operators of `_OPERATORS` and casts to `_TYPES` alone."""
    found: list[Any] = []
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is tuple:
            waiting.extend(node)
        elif kind is ast.A_Const:
            found.append(node)
        elif kind is ast.TypeCast:
            if _is_plain_type(node.typeName):
                waiting.append(node.arg)
        elif kind is ast.A_Expr:
            if node.kind in _OPERATIONS and _is_plain_operator(node):
                waiting += [node.lexpr, node.rexpr]
        else:
            waiting += [getattr(node, name) for name in _BELOW.get(kind, ())]
            if kind is ast.InsertStmt and node.selectStmt is not None:
                waiting.append(node.selectStmt.valuesLists)
    return found


# What holds values, or what holds them in turn. A node that is not here is left alone, with all that is below it. VALUES
# that are rows of their own, not of an INSERT, are left out: they are output columns.
_BELOW: Final[dict[type[Any], tuple[str, ...]]] = {
    ast.SelectStmt: ("withClause", "fromClause", "whereClause", "havingClause", "larg", "rarg"),
    ast.InsertStmt: ("withClause", "selectStmt", "onConflictClause"),
    ast.UpdateStmt: ("withClause", "targetList", "fromClause", "whereClause"),
    ast.DeleteStmt: ("withClause", "usingClause", "whereClause"),
    ast.WithClause: ("ctes",),
    ast.CommonTableExpr: ("ctequery",),
    ast.JoinExpr: ("larg", "rarg", "quals"),
    ast.RangeSubselect: ("subquery",),
    ast.OnConflictClause: ("targetList", "whereClause"),
    ast.ResTarget: ("val",),
    ast.BoolExpr: ("args",),
    ast.SubLink: ("testexpr", "subselect"),
    ast.A_ArrayExpr: ("elements",),
    ast.RowExpr: ("args",),
    ast.CoalesceExpr: ("args",),
    ast.MinMaxExpr: ("args",),
}


def _is_plain_operator(node: Any) -> bool:
    names = strings(node.name)
    if node.kind in _BETWEEN:  # the grammar writes BETWEEN where other nodes have an operator
        return len(names) == 1
    return names[-1] in _OPERATORS and names[:-1] in ((), ("pg_catalog",))


def _is_plain_type(node: Any) -> bool:
    names = strings(node.names)
    is_named = names[-1] in _TYPES and names[:-1] in ((), ("pg_catalog",))
    return is_named and not (node.typmods or node.pct_type or node.setof)


# --- one reading for many texts


class Template:
    """What the readings of all texts of one skeleton, with the same literals where they were kept, have in common."""

    __slots__ = ("_head", "_is_clean", "_reading", "_statement", "_tail", "_was_asked", "hidden")

    def __init__(self, parts: Cut, reading: Reading, kept: tuple[int, ...]) -> None:
        """Made of a text and its reading. Raises ValueError where the statement in the reading is not the text's."""
        (self._statement,) = reading.statements
        self._reading = reading
        pieces = _LITERAL.split(self._statement.text)[::2]
        skeleton = parts.skeleton.split("\0")[:-1]
        self._head = len(skeleton[0]) - len(pieces[0])
        self._tail = len(skeleton[-1]) - len(pieces[-1])
        if self._head < 0 or self._tail < 0 or pieces[1:-1] != skeleton[1:-1]:
            raise ValueError("the statement is not the text that was cut")
        self._was_asked = len(parts.text) > _UNASKED_LENGTH
        neutral = [each if place in kept else "''" if each[0] == "'" else "0" for place, each in enumerate(parts.literals)]
        fixed = skeleton[0] + "".join(literal + piece for literal, piece in zip(neutral, skeleton[1:], strict=True))
        self._is_clean = redact(fixed, hide_literals=False) == fixed
        self.hidden = redact(fixed, hide_literals=True)
        """Every text of the template with all its literals hidden."""

    def shows_whole(self, data: bytes) -> bool:
        """Whether a text of the template, in UTF-8, is surely shown as it is. Answers no where it would have to be read."""
        return self._is_clean and len(data) <= _UNASKED_LENGTH and not may_hold_shape(data)

    def read(self, parts: Cut) -> Reading | None:
        """The reading of another text of the template, itself read by nobody; None where it has to be read in full."""
        text = parts.text
        if len(text) > _UNASKED_LENGTH and (not self._was_asked or is_costly_to_scan(text)):
            return None
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return None
        # Where the fixed part hides nothing and nothing is found in the whole, nothing is hidden in any part of it.
        if not self._is_clean:
            shown = redact(text, hide_literals=False)
        elif may_hold_shape(data):
            shown = redact_literals(parts.skeleton.split("\0")[:-1], parts.literals)
        else:
            shown = text
        known, own = self._reading, self._statement
        part = text[self._head : len(text) - self._tail]
        statement = Statement(own.sort, part, own.effects, own.outputs)
        return Reading((statement,), known.effects, shown, shown != text, known.parameters)


def is_eligible(reading: Reading) -> bool:
    """Whether a reading may serve other texts: one statement, understood whole, that changes nothing about the session."""
    if reading.problem is not None or len(reading.statements) != 1:
        return False
    (statement,) = reading.statements
    return (
        statement.change is None
        and statement.copies is None
        and statement.sort in _STATEMENTS
        and not any(effect.action is Action.UNKNOWN for effect in reading.effects)
    )


def proved(kept: tuple[int, ...], earlier: tuple[str, Reading], now: tuple[Cut, Reading]) -> Template | None:
    """The template of two texts that were both read in full; None where it would not have answered the same for both.

    They have the same skeleton and the same literals at the places `kept` (of `kept_literals`).
    """
    (text, reading), (parts, its_reading) = earlier, now
    if not (is_eligible(reading) and is_eligible(its_reading)):
        return None
    try:
        template = Template(parts, its_reading, kept)
    except ValueError:
        return None
    first = cut(text)
    alike = first is not None and (template.read(first), template.read(parts)) == (reading, its_reading)
    return template if alike else None

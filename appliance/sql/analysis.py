"""What a text of PostgreSQL SQL does, by the server's own grammar: the one door to everything else in this room."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from pglast import ast
from pglast.enums import AlterTableType
from pglast.error import Error as GrammarError
from pglast.parser import scan

from appliance.effects import Effect, unknown
from appliance.sql.catalogue import Catalogue
from appliance.sql.commands import Commands
from appliance.sql.definitions import Found
from appliance.sql.names import State, TroubleError
from appliance.sql.reading import (
    NAMELESS,
    TEXT_LENGTH_MAX,
    ChangeCatalogue,
    Deallocate,
    DeclareCursor,
    DiscardAll,
    Prepare,
    Problem,
    Reading,
    SessionView,
    SetSearchPath,
    Statement,
    Transaction,
)
from appliance.sql.redaction import is_costly_to_scan, redact
from appliance.sql.tree import parse

# Servers older than this speak a grammar whose differences from the one used here have not been gone through.
SERVER_VERSION_MIN = 140_000

# Numbers in other bases or with underscores (0xff, 1_000) came with PostgreSQL 16; before, their tail was a name of its own.
_NEWER_NUMBER = re.compile(r"0[xXoObB][0-9a-fA-F_]|[0-9]+_[0-9]|[0-9]*\.[0-9]*_")

# The grammar's tree is built by recursion in C, which at some 10,000 levels of nesting runs out of stack and takes the
# process along. A level costs at least two characters of text, so that a text this short cannot get near there.
_SHORT_MAX = 4_000

# In longer texts what may nest is counted first. A fourth of what a stack of 8 MB was seen to bear.
_NESTING_MAX = 2_000

# Tokens that add no level by themselves: names, constants, and words that only stand beside one that counts.
_FLAT = frozenset(
    {
        "ALL",
        "AS",
        "ASC",
        "ASCII_46",
        "BCONST",
        "BY",
        "DESC",
        "FCONST",
        "ICONST",
        "IDENT",
        "NULL_P",
        "PARAM",
        "SCONST",
        "UIDENT",
        "USCONST",
        "XCONST",
    }
)

# Levels that a bracket adds: a subscript is an expression in a node in a list.
_OPENING = {"ASCII_40": 1, "ASCII_91": 3, "CASE": 2}

# After one of these any word is a name.
_BEFORE_NAMES = frozenset({"AS", "ASCII_46"})

# What stands on both sides of these is side by side in the tree, whatever follows.
_BESIDE = frozenset({"ASCII_44", "ASCII_59", "AND", "ELSE", "OR", "THEN", "WHEN"})

# What comes before one of these in the same brackets may end up below it (a SELECT below UNION, a table below JOIN).
_ABOVE = frozenset(
    {
        "EXCEPT",
        "FROM",
        "GROUP_P",
        "HAVING",
        "INTERSECT",
        "JOIN",
        "LIMIT",
        "OFFSET",
        "ON",
        "ORDER",
        "RETURNING",
        "SELECT",
        "SET",
        "UNION",
        "USING",
        "VALUES",
        "WHERE",
    }
)

_MIXED = "the text changes the meaning of its own later part"


def read(text: str, catalogue: Catalogue, session: SessionView) -> Reading:
    """What that text would do, sent as one simple Query or Parse in a session in that state.

    Never raises: what cannot be parsed, resolved or understood has an `unknown` effect, and a `problem` where the server
    would refuse it.
    """
    problem = _unfit(text, catalogue)
    if problem is not None:
        return _failed(text, problem)
    try:
        parsed = parse(text)
    except GrammarError as error:
        return _failed(text, _syntax(error))
    except (ValueError, RecursionError, MemoryError):
        return _failed(text, Problem("42601", "syntax error"))
    state = State(catalogue, session)
    statements: list[Statement] = []
    effects: set[Effect] = set()
    parameters = 0
    sensitive = False
    mixed = False
    settled = session.settled
    for raw in parsed:
        start = raw.stmt_location or 0
        part = text[start : start + raw.stmt_len] if raw.stmt_len else text[start:]
        reader = Commands(state)
        found = Found()
        sort = type(raw.stmt).__name__
        try:
            found = reader.command(raw.stmt, part)
        except TroubleError as trouble:
            problem = problem or trouble.problem
            reader.unknown(_in_words(trouble.problem))
        except RecursionError:
            problem = problem or Problem("54001", "statement too complex")
            reader.unknown("the text is nested too deeply")
        if mixed and sort not in NAMELESS:
            reader.unknown(_MIXED)
        if isinstance(found.change, ChangeCatalogue) and reader.poison and not _tells_all(raw.stmt):
            found.change = replace(found.change, unclear=True)
        own = reader.touched.finished()
        effects |= own
        parameters = max(parameters, reader.parameters)
        sensitive |= found.sensitive
        copying = (found.copies, found.copies_binary, found.copies_oddly)
        statements.append(Statement(sort, part.strip(), own, found.outputs, found.change, *copying))
        settled &= found.change is None or isinstance(found.change, Transaction | Prepare | Deallocate)
        mixed |= reader.poison or not _carried(found, state, catalogue, settled)
    if sensitive:
        shown = redact(text, hide_literals=True)
    else:
        shown = redact(text, hide_literals=False)
        sensitive = shown != text
    return Reading(tuple(statements), frozenset(effects), shown, sensitive, parameters, problem)


def redact_values(text: str) -> str:
    """The text with every literal hidden, for one that touches masked columns."""
    return redact(text, hide_literals=True)


def _carried(found: Found, state: State, catalogue: Catalogue, settled: bool) -> bool:
    """Make the state that the next statement of the text meets; False where that cannot be told. `settled`: neither this
    text nor what is open before it has changed what names mean."""
    change = found.change
    if change is None:
        return True
    if isinstance(change, SetSearchPath):
        state.path = catalogue.search_path if change.path is None else change.path
        return True
    if isinstance(change, Prepare):
        state.prepared[change.name] = change.text
        return True
    if isinstance(change, Deallocate):
        if change.name is None:
            state.prepared.clear()
        else:
            state.prepared.pop(change.name, None)
        return True
    if isinstance(change, DeclareCursor):
        state.cursors[change.name] = change.outputs
        return True
    if isinstance(change, ChangeCatalogue):
        for key in change.dropped:
            state.made[key] = None
        for relation in change.created:
            state.made[(relation.schema, relation.name)] = relation
        return True
    if isinstance(change, DiscardAll):
        state.path = catalogue.search_path
        state.prepared.clear()
        state.cursors.clear()
        for key in [key for key in state.made if key[0] == "pg_temp"]:
            state.made[key] = None
        return True
    assert isinstance(change, Transaction)
    # The end of a transaction undoes what was set or made in it, some of which may be older than this text.
    return settled or change.sort in ("begin", "savepoint", "release")


def _tells_all(node: Any) -> bool:
    """Whether a statement that changes what exists has effects on everything that it gives another meaning to: what an
    ALTER TABLE changes keeps its name, save where it is put below another table."""
    if type(node) is not ast.AlterTableStmt:
        return False
    moving = (AlterTableType.AT_AddInherit, AlterTableType.AT_AttachPartition)
    return not any(command.subtype in moving for command in node.cmds or ())


def _unfit(text: str, catalogue: Catalogue) -> Problem | None:
    """Why the text must not be given to the grammar, or None."""
    if len(text) > TEXT_LENGTH_MAX:
        said = f"the statement is longer than the gateway reads ({TEXT_LENGTH_MAX} characters); send it in parts or use COPY"
        return Problem("54000", said)
    if catalogue.server_version < SERVER_VERSION_MIN:
        return Problem("0A000", f"servers before {SERVER_VERSION_MIN // 10_000} are not supported")
    if "\0" in text:
        return Problem("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    if is_costly_to_scan(text):
        return Problem("54001", "statement too complex")
    if catalogue.server_version < 160_000 and _NEWER_NUMBER.search(text) and _has_newer_number(text):
        return Problem("42601", "trailing junk after numeric literal")
    if len(text) > _SHORT_MAX and _nests_too_deeply(text):
        return Problem("54001", "statement too complex")
    return None


def _has_newer_number(text: str) -> bool:
    try:
        return any(
            token.name in ("ICONST", "FCONST", "PARAM") and _NEWER_NUMBER.match(text, token.start) for token in scan(text)
        )
    except GrammarError:
        return False  # The grammar's own scanner will say so too.


def _nests_too_deeply(text: str) -> bool:
    """Whether a long text may nest too deeply: an upper bound of the nesting, counted without recursion."""
    try:
        tokens = scan(text)
    except GrammarError:
        return False  # The grammar's own scanner will say so too.
    brackets: list[tuple[str, int, int, bool]] = []
    # In the brackets we are in: where the level begins, the highest that it was, and whether an AND belongs to BETWEEN.
    base, top, between = 0, 0, False
    level = 0
    before = ""
    for token in tokens:
        name = token.name
        if name in _FLAT or (before in _BEFORE_NAMES and name not in ("ASCII_40", "ASCII_41", "ASCII_91", "ASCII_93")):
            before = name
            continue
        before = name
        if name in _OPENING:
            brackets.append((name, base, top, between))
            level += _OPENING[name]
            base, top, between = level, level, False
        elif name in ("ASCII_41", "ASCII_93"):
            # A CASE that is still open was a name.
            kind = "CASE"
            while kind == "CASE" and brackets:
                level = max(level, top)
                kind, base, top, between = brackets.pop()
        elif name == "END_P":
            if brackets and brackets[-1][0] == "CASE":  # Otherwise it is a name.
                level = max(level, top)
                _, base, top, between = brackets.pop()
        elif name == "AND" and between:
            between = False
        elif name in _BESIDE:
            top = max(top, level)
            level = base
        elif name in _ABOVE:
            level = max(level, top) + 1
            base, top, between = level, level, False
        else:
            between |= name == "BETWEEN"
            level += 1
        if level > _NESTING_MAX:
            return True
    return False


def _syntax(error: GrammarError) -> Problem:
    message = str(error.args[0]) if error.args else "syntax error"
    location = error.args[1] if len(error.args) > 1 else None
    return Problem("42601", message, location + 1 if isinstance(location, int) else 0)


def _in_words(problem: Problem) -> str:
    words = {
        "42P01": "a relation is not known",
        "42703": "a column is not known",
        "42702": "a column is ambiguous",
        "42883": "a function or operator is not known",
        "42704": "a type is not known",
        "26000": "a prepared statement is not known",
        "34000": "a cursor is not known",
        "54000": "the text is longer than the gateway reads",
        "54001": "the text is nested too deeply",
    }
    return words.get(problem.sqlstate, f"the text cannot be run ({problem.sqlstate})")


def _failed(text: str, problem: Problem) -> Reading:
    effect = unknown("the text cannot be parsed" if problem.sqlstate == "42601" else _in_words(problem))
    shown = redact(text, hide_literals=False)
    return Reading((), frozenset({effect}), shown, shown != text, 0, problem)

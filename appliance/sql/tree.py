"""The tree of the server's grammar, as pglast builds it.

Its nodes are untyped here on purpose: which attributes are set depends on the text in ways that no stub tells.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pglast.ast
from pglast import parse_sql
from pglast.error import Error as GrammarError

ast: Any = pglast.ast

_ATTRIBUTES: dict[type[Any], tuple[str, ...]] = {}


def parse(text: str) -> tuple[Any, ...]:
    """The statements of a text, each in its RawStmt. Raises pglast's Error for what is no SQL; ValueError, RecursionError or
    MemoryError for what cannot be given to the grammar or taken from it."""
    _unburden()
    statements: tuple[Any, ...] = parse_sql(text)
    return statements


@cache
def _unburden() -> None:
    """Take from pglast's nodes the checks of what is put into them. They are for trees that programs build, and take two
    thirds of the time that parsing takes; what the grammar builds passes them all as it is, but for the value of a Boolean
    constant, which they make a bool of an int."""
    if "__setattr__" in vars(ast.Node):
        del ast.Node.__setattr__


def children(node: Any) -> list[Any]:
    """Every node directly below that one, whatever attribute it hangs on."""
    kind = type(node)
    names = _ATTRIBUTES.get(kind)
    if names is None:
        names = _ATTRIBUTES[kind] = tuple(node.__slots__)
    found: list[Any] = []
    for name in names:
        value = getattr(node, name)
        if isinstance(value, ast.Node):
            found.append(value)
        elif type(value) is tuple:
            _flatten(value, found)
    return found


def _flatten(values: tuple[Any, ...], into: list[Any]) -> None:
    for value in values:
        if isinstance(value, ast.Node):
            into.append(value)
        elif type(value) is tuple:  # The grammar nests lists two deep (VALUES, ROWS FROM).
            into.extend(item for item in value if isinstance(item, ast.Node))
            into.extend(item for inner in value if type(inner) is tuple for item in inner if isinstance(item, ast.Node))


def strings(names: Any) -> tuple[str, ...]:
    """The texts of a qualified name."""
    return tuple(name.sval for name in names)


def parse_body(text: str) -> Any:
    """The statements of a text that stands in the catalogue; None where it cannot be parsed."""
    try:
        return parse(text)
    except (GrammarError, ValueError):
        return None

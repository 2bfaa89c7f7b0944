"""What PostgreSQL's own functions, operators, types, relations and settings may be used for: the shipped allow-lists.

The lists stand in `appliance/sql/system/*.txt`, each with its reasons in its header. They go by name: a name is on a list
only if everything of that name in pg_catalog deserves it, in every version from 13 to 18. What is on no list is not
allowed. Whether a name in a text means the system's object at all, and not a user's of the same name, is for the caller to
settle first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal, cast

SettingClass = Literal["harmless", "search_path", "role", "pinned", "other"]

_FOLDER = "system"


def is_system_function(name: str) -> bool:
    """Whether pg_catalog of PostgreSQL 13 to 18 has, in any of them, a function of that bare name."""
    return name in _names("system_functions.txt")


def is_safe_function(name: str) -> bool:
    """Whether every pg_catalog function of that name may be called with any arguments (functions.txt says what that means).

    Names of information_schema carry their schema ("information_schema._pg_expandarray"). Types are not judged here:
    a function that builds a value of a type (json_populate_record) runs that type's input function and checks.
    """
    return name in _names("functions.txt")


def is_safe_extension_function(extension: str, name: str) -> bool:
    """Whether every function of that name that belongs to that extension, and is not written in SQL, is like those of
    is_safe_function."""
    return f"{extension}.{name}" in _names("extensions.txt")


def is_safe_operator(name: str) -> bool:
    """Whether pg_catalog has operators of that name; each of them is backed by a safe function."""
    return name in _names("operators.txt")


def is_safe_type(name: str) -> bool:
    """Whether that is a type of pg_catalog, by its name in pg_type ("int4", "_text"); none of these runs a user's code."""
    return name in _names("types.txt")


def is_readable_column(schema: str, relation: str, column: str) -> bool:
    """Whether that column of a readable relation may be used: one relation has a secret in a column of its own."""
    return (schema, relation, column) != ("pg_catalog", "pg_subscription", "subconninfo")


def is_readable_relation(schema: str, name: str) -> bool:
    """Whether that relation of pg_catalog or information_schema holds definitions and counts only."""
    return f"{schema}.{name}" in _names("relations.txt")


def setting_class(name: str) -> SettingClass:
    """What it means to set a setting; names are case-insensitive. `pinned`: only the values in PINNED may be set."""
    found = _settings().get(name.lower())
    return "other" if found is None else found[0]


def is_readable_setting(name: str) -> bool:
    """Whether a setting's value may be shown (SHOW, current_setting)."""
    return name.lower() in _names("readable_settings.txt")


class _Pinned(Mapping[str, frozenset[str]]):
    """The pinned settings, read when first asked for, because importing does nothing."""

    def __getitem__(self, name: str) -> frozenset[str]:
        kind, values = _settings()[name]
        if kind != "pinned":
            raise KeyError(name)
        return values

    def __iter__(self) -> Iterator[str]:
        return (name for name, (kind, _) in _settings().items() if kind == "pinned")

    def __len__(self) -> int:
        return sum(1 for _ in self)


# For each pinned setting, in lower case, the values that may be set, in lower case, every spelling the server accepts.
PINNED: Mapping[str, frozenset[str]] = _Pinned()


def _lines(file: str) -> list[list[str]]:
    """The entries of a list, as words. Comments end at the first empty line, because `#` is an operator's name too."""
    text = files("appliance.sql").joinpath(_FOLDER, file).read_text(encoding="utf-8")
    _, _, body = text.partition("\n\n")
    return [line.split(" ") for line in body.splitlines() if line]


@cache
def _names(file: str) -> frozenset[str]:
    return frozenset(words[0] for words in _lines(file))


@cache
def _settings() -> Mapping[str, tuple[SettingClass, frozenset[str]]]:
    return MappingProxyType(
        {words[1]: (cast(SettingClass, words[0]), frozenset(words[2:])) for words in _lines("settings.txt")}
    )

"""What a client may ask of its session before it has one: the parameters of a StartupMessage, accepted or refused.

What is accepted goes to the target as parameters of their own, built anew from what was understood here, never as the
text of `options`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from appliance.protocols.postgres.messages import StartupMessage
from appliance.sql.system import PINNED, setting_class

_NAME_BYTES_MAX: Final = 63  # NAMEDATALEN - 1; the server would cut a longer name, and then it is another one
_FALSE: Final = frozenset({"false", "fals", "fal", "fa", "f", "off", "of", "no", "n", "0"})
_TEMPORARY: Final = re.compile(r"pg_(toast_)?temp")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A FATAL error for the client."""

    sqlstate: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """A startup message that may be carried out.

    `parameters` are settings without user, database, client_encoding and search_path; `search_path` is None where the
    client gave none, and may hold "$user". `unknown_options` are protocol options to be negotiated away.
    """

    user: str
    database: str
    parameters: tuple[tuple[str, str], ...]
    search_path: tuple[str, ...] | None
    unknown_options: tuple[str, ...]


def read_wishes(message: StartupMessage) -> Wishes | Refusal:
    """Judge a StartupMessage of protocol 3."""
    own: dict[str, str] = {}
    settings: dict[str, str] = {}
    unknown: list[str] = []
    for name, value in message.parameters:
        if name.startswith("_pq_."):
            unknown.append(name)
        elif name in ("user", "database", "options", "replication"):
            if name in own:
                return _given_twice(name)
            own[name] = value
        elif not _put(settings, name, value):
            return _given_twice(name)
    if own.get("replication", "off").lower() not in _FALSE:
        return Refusal("0A000", "replication is not available through the gateway")
    if not own.get("user"):
        return Refusal("28000", "no PostgreSQL user name specified in startup packet")
    switched = _read_switches(split_options(own.get("options", "")))
    if isinstance(switched, Refusal):
        return switched
    for name, value in switched:
        if not _put(settings, name, value):
            return _given_twice(name)
    search_path = None
    accepted: list[tuple[str, str]] = []
    for name, value in settings.items():
        if name == "search_path":
            search_path = read_search_path(value)
            if search_path is None:
                return Refusal("42501", "search_path cannot be set so: it has to be a list of schemas by their names")
        elif name == "client_encoding":
            # Asked for or not, the target is told UTF8. SQL_ASCII means "bytes as they are" and is what psql asks for in
            # the C locale; the ParameterStatus tells the client what it got.
            if re.sub("[^a-z0-9]", "", value.lower()) not in ("utf8", "unicode", "sqlascii"):
                return Refusal(
                    "42501",
                    "client_encoding cannot be set to anything but UTF8",
                    "Set PGCLIENTENCODING=UTF8 and connect again.",
                )
        else:
            refusal = _judge(name, value)
            if refusal is not None:
                return refusal
            accepted.append((name, value))
    user = own["user"]
    return Wishes(user, own.get("database") or user, tuple(accepted), search_path, tuple(unknown))


def _put(settings: dict[str, str], name: str, value: str) -> bool:
    key = name.lower()  # the server compares names of settings without case
    if key in settings:
        return False
    settings[key] = value
    return True


def _given_twice(name: str) -> Refusal:
    return Refusal("08P01", f"the startup packet gives {_shown(name)} twice")


def _shown(name: str) -> str:
    return '"' + "".join(letter if letter.isprintable() else "?" for letter in name[:_NAME_BYTES_MAX]) + '"'


def _judge(name: str, value: str) -> Refusal | None:
    match setting_class(name):
        case "harmless":
            return None
        case "pinned":
            if value.strip().lower() in PINNED[name]:
                return None
            accepted = ", ".join(sorted(PINNED[name]))
            return Refusal("42501", f"parameter {_shown(name)} cannot be set to that value", f"Accepted: {accepted}.")
        case _:
            return Refusal("42501", f"parameter {_shown(name)} cannot be set through the gateway", "Leave it out.")


def split_options(text: str) -> list[str]:
    """The words of `options`, as the server splits them (pg_split_opts): white space parts, a backslash keeps."""
    words: list[str] = []
    word: list[str] | None = None
    is_kept = False
    for letter in text:
        if not is_kept and letter in " \t\n\v\f\r":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        if letter == "\\" and not is_kept:
            is_kept = True
        else:
            word.append(letter)
            is_kept = False
    if word is not None:
        words.append("".join(word))
    return words


def _read_switches(words: list[str]) -> list[tuple[str, str]] | Refusal:
    found: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        if word == "-c":
            assignment = next(rest, "")
        elif word.startswith(("-c", "--")):
            assignment = word[2:]
        else:
            return Refusal("42501", "options may hold -c name=value and --name=value only")
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            return Refusal("08P01", "options with a setting that has no value")
        found.append((name.replace("-", "_"), value))
    return found


def read_search_path(text: str) -> tuple[str, ...] | None:
    """The schemas of a search_path as the server reads it (SplitIdentifierString), or None where it is not one that we
    read the same way."""
    names: list[str] = []
    at = 0
    if not text.strip(" \t\n\r\f\v"):
        return ()
    token = re.compile(r'[ \t\n\r\f\v]*(?:"((?:[^"]|"")+)"|([^\s",]+))[ \t\n\r\f\v]*(,|\Z)')
    while True:  # each round takes at least one character of a packet that is bounded
        match = token.match(text, at)
        if match is None:
            return None
        quoted, bare, ending = match.groups()
        # Unquoted names are folded; beyond ASCII that depends on the server's locale.
        if bare is not None and not bare.isascii():
            return None
        name = quoted.replace('""', '"') if quoted is not None else bare.lower()
        if len(name.encode("utf-8")) > _NAME_BYTES_MAX or _TEMPORARY.match(name):
            return None
        names.append(name)
        at = match.end()
        if not ending:
            return tuple(names)


def write_search_path(names: tuple[str, ...]) -> str:
    """The same list as a value of search_path."""
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)

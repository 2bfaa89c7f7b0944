"""How people's YAML files are read: text to plain data with line numbers, held against a JSON Schema, faults in words.

Scalars follow the core schema of YAML 1.2 (so `no` and `12:30` are texts, as JSON has them). Anchors, aliases, tags and
repeated keys are faults: the first two let a small file stand for a huge one, the last lets a reader see another rule
than the program does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import yaml

from appliance.errors import SettingError, SettingErrors

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Path: TypeAlias = tuple[str | int, ...]
Data: TypeAlias = "bool | int | float | str | list[Data] | dict[str, Data] | None"

# A policy of a thousand rules is about 300 KiB; parsing a MiB takes PyYAML some seconds, bearable at a reload.
TEXT_CHARACTERS_MAX = 1 << 20
# The deepest legal document has nine levels.
DEPTH_MAX = 24
# What a fault repeats of a value; a value may be long, and a message is for one line.
_SHOWN_CHARACTERS_MAX = 60

_NULL = re.compile(r"\A(?:~|null|Null|NULL|)\Z")
_TRUE = re.compile(r"\A(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"\A(?:false|False|FALSE)\Z")
_INTEGER = re.compile(r"\A[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"\A[-+]?(?:\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{0,18})?)(?:[eE][-+]?[0-9]{1,2})?\Z")


@dataclass(frozen=True)
class Document:
    """One file, read. `lines` has the line (from 1) of every key, item and of the whole, by its path in `data`."""

    file: str
    data: Data
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of what is at `path`, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return 1

    def error(self, path: Path, found: str, expected: str) -> SettingError:
        """A fault of what is at `path`."""
        return SettingError(self.file, self.line(path), found, expected)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen. `key` is the key of a mapping whose value comes next."""

    path: Path
    value: list[Data] | dict[str, Data]
    key: str | None = None


def read_document(file: str, text: str) -> Document:
    """Read one YAML document. Raises SettingErrors (one fault: after the first, what follows means nothing)."""
    try:
        return _read(file, text)
    except SettingError as error:
        raise SettingErrors((error,)) from None


def check_document(document: Document, schema: Mapping[str, Any]) -> tuple[SettingError, ...]:
    """Every way in which a document breaks the schema (draft 2020-12), in the order of its lines."""
    # Only here: it takes longer to import than a file without a schema takes to read.
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(cast("dict[str, Any]", schema))
    found: list[SettingError] = []
    for violation in validator.iter_errors(document.data):
        found += _faults(document, violation)
    return tuple(sorted(set(found), key=lambda error: (error.line, str(error))))


def read_checked(file: str, text: str, schema: Mapping[str, Any]) -> Document:
    """Read a document that keeps to the schema. Raises SettingErrors with every fault."""
    document = read_document(file, text)
    if faults := check_document(document, schema):
        raise SettingErrors(faults)
    return document


def join_words(words: Iterable[str], last: str = "and") -> str:
    """ "a, b and c"."""
    listed = list(words)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} {last} {listed[-1]}"


def suggest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean x?)" where a known word is close, else nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


# Reading


def _read(file: str, text: str) -> Document:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise SettingError(file, 0, f"{len(text)} characters", f"at most {TEXT_CHARACTERS_MAX}")
    lines: dict[Path, int] = {}
    top: list[Data] = []
    stack: list[_Open] = []
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            _take(file, event, stack, top, lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.problem, error.context) if part)
        raise SettingError(
            file, mark.line + 1 if mark else 1, f"YAML that cannot be read ({said})", "well-formed YAML"
        ) from None
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        raise SettingError(
            file, text.count("\n", 0, position) + 1, "a character that may not stand in YAML", "printable text"
        ) from None
    lines.setdefault((), 1)
    return Document(file, top[0] if top else None, lines)


def _take(file: str, event: yaml.Event, stack: list[_Open], top: list[Data], lines: dict[Path, int]) -> None:
    line = event.start_mark.line + 1 if event.start_mark else 1
    match event:
        case yaml.DocumentStartEvent():
            if top:
                raise SettingError(file, line, "a second document", "one document in a file")
        case yaml.AliasEvent():
            raise SettingError(file, line, f"the alias *{event.anchor}", "the value itself, written out")
        case yaml.NodeEvent(anchor=str(anchor)):
            raise SettingError(file, line, f"the anchor &{anchor}", "no anchors")
        case yaml.ScalarEvent(tag=str(tag)) | yaml.CollectionStartEvent(tag=str(tag)):
            raise SettingError(file, line, f"the tag {tag}", "no tags")
        case yaml.ScalarEvent():
            if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
                _open_key(file, stack[-1], event.value, lines, line)
            else:
                _place(_scalar(event), stack, top, lines, line)
        case yaml.CollectionStartEvent():
            if len(stack) >= DEPTH_MAX:
                raise SettingError(file, line, f"more than {DEPTH_MAX} levels", "a flatter file")
            if stack and isinstance(stack[-1].value, dict) and stack[-1].key is None:
                raise SettingError(file, line, "a key that is a list or a mapping", "keys that are plain texts")
            value: list[Data] | dict[str, Data] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            stack.append(_Open(_place(value, stack, top, lines, line), value))
        case yaml.CollectionEndEvent():
            stack.pop()


def _open_key(file: str, mapping: _Open, key: str, lines: dict[Path, int], line: int) -> None:
    path = (*mapping.path, key)
    if path in lines:
        raise SettingError(
            file, line, f"the key {_quoted(key)} for the second time", f"each key once (the first is on line {lines[path]})"
        )
    lines[path] = line
    mapping.key = key


def _place(value: Data, stack: list[_Open], top: list[Data], lines: dict[Path, int], line: int) -> Path:
    """Put a value where it belongs; answers its path."""
    if not stack:
        top.append(value)
        lines[()] = line
        return ()
    around = stack[-1]
    if isinstance(around.value, list):
        path = (*around.path, len(around.value))
        around.value.append(value)
        lines[path] = line
        return path
    assert around.key is not None
    path = (*around.path, around.key)
    around.value[around.key] = value
    around.key = None
    return path


def _scalar(event: yaml.ScalarEvent) -> Data:
    text: str = event.value
    if event.style is not None:  # quoted or a block: always text
        return text
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


# Faults in words

_TYPE_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _faults(document: Document, violation: ValidationError) -> list[SettingError]:
    path: Path = tuple(violation.absolute_path)
    schema: Mapping[str, Any] = violation.schema if isinstance(violation.schema, Mapping) else {}
    found = _found(violation.instance, schema)
    limit = cast("Any", violation.validator_value)
    instance = cast("Any", violation.instance)
    if "propertyNames" in violation.relative_schema_path:
        path = (*path, str(instance))
        found = f"the key {_quoted(str(instance))}"
    match violation.validator:
        case "additionalProperties":
            return _unknown_keys(document, path, violation.instance, schema)
        case "required":
            # jsonschema gives one violation for each missing key; the key is the first word of its message.
            key = next(key for key in limit if violation.message.startswith(repr(key)))
            return [document.error(path, f"no key {key}", _key_words(key, schema))]
        case "oneOf" | "anyOf":
            return _branches(document, violation, schema, found)
        case "enum":
            known = [str(value) for value in limit]
            return [
                document.error(path, found, f"one of {', '.join(known)}{suggest(str(violation.instance), known)}"),
            ]
        case "dependentRequired":
            return [
                document.error((*path, key), f"the key {key} without {needed}", f"{key} beside {needed} only")
                for key, wanted in limit.items()
                if key in instance
                for needed in wanted
                if needed not in instance
            ]
        case "const":
            expected = _plain(limit)
        case "type":
            expected = schema.get("description") or join_words(
                (_TYPE_WORDS[name] for name in ([limit] if isinstance(limit, str) else limit)), "or"
            )
        case "minItems":
            expected = f"at least {limit} item{'s' if limit > 1 else ''}"
        case "maxItems":
            expected = f"at most {limit} items"
        case "uniqueItems":
            found, expected = "the same item twice", "each item once"
        case "minProperties":
            expected = schema.get("description") or f"at least {limit} key{'s' if limit > 1 else ''}"
        case "minLength":
            expected = "a text that is not empty" if limit == 1 else f"at least {limit} characters"
        case "maxLength":
            expected = f"at most {limit} characters"
        case "minimum":
            expected = f"{limit} or more"
        case "maximum":
            expected = f"{limit} or less"
        case "exclusiveMinimum":
            expected = f"more than {limit}"
        case "pattern":
            expected = schema.get("description") or f"a text of the form {limit}"
        case _:
            expected = schema.get("description") or violation.message
    return [document.error(path, found, expected)]


def _unknown_keys(document: Document, path: Path, instance: Any, schema: Mapping[str, Any]) -> list[SettingError]:
    known = list(schema.get("properties", {}))
    patterns = [re.compile(pattern) for pattern in schema.get("patternProperties", {})]
    return [
        document.error((*path, key), f"the key {_quoted(key)}", f"one of {', '.join(known)}{suggest(key, known)}")
        for key in instance
        if key not in known and not any(pattern.search(key) for pattern in patterns)
    ]


def _key_words(key: str, schema: Mapping[str, Any]) -> str:
    about = schema.get("properties", {}).get(key, {}).get("description")
    return f"the key {key}: {about}" if about else f"the key {key}"


def _branches(document: Document, violation: ValidationError, schema: Mapping[str, Any], found: str) -> list[SettingError]:
    """Which of several shapes was meant: the one whose type fits, where it is one; its own faults say more."""
    depth = len(violation.absolute_path)
    inner: dict[int, list[ValidationError]] = {}
    for error in violation.context or ():
        inner.setdefault(cast("int", error.schema_path[0]), []).append(error)
    meant = [
        errors
        for errors in inner.values()
        if not any(
            len(error.absolute_path) == depth and error.validator in {"type", "enum", "const", "required"}
            for error in errors
        )
    ]
    if len(meant) == 1:
        return [fault for error in meant[0] for fault in _faults(document, error)]
    is_mapping = isinstance(violation.instance, Mapping)
    shapes = cast("Any", violation.validator_value)
    if not is_mapping and all(isinstance(shape, Mapping) and set(shape) == {"required"} for shape in shapes):
        # A choice between keys; that something else stands where a mapping should is another fault.
        return []
    if is_mapping:
        found = f"the keys {join_words(cast('Any', violation.instance))}" if violation.instance else "no keys"
    expected = schema.get("description") or "another shape"
    return [document.error(tuple(violation.absolute_path), found, expected)]


def _found(value: Any, schema: Mapping[str, Any]) -> str:
    # A value that may be a secret is named by its sort alone: messages go to terminals and logs.
    if schema.get("writeOnly") and not isinstance(value, Mapping | Sequence):
        return "a value"
    match value:
        case None:
            return "nothing"
        case str():
            return "a text" if schema.get("writeOnly") else f"the text {_quoted(value)}"
        case bool() | int() | float():
            return _plain(value)
        case list():
            return "an empty list" if not value else "a list"
        case dict():
            return "an empty mapping" if not value else "a mapping"
        case _:
            return type(value).__name__


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS_MAX else text[: _SHOWN_CHARACTERS_MAX - 1] + "…"
    return f"'{shown}'"

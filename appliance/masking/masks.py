"""How one value is hidden: the kinds of mask that a policy may name, and what each leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from appliance.decisions import Mask

REDACTED: Final = b"****"

_STAR: Final = 0x2A
_ALNUM: Final = bytes(code for code in range(128) if chr(code).isalnum())
_SIGNIFICANT: Final = frozenset((*_ALNUM, _STAR))  # of ASCII
_INSIGNIFICANT: Final = bytes(code for code in range(128) if code not in _SIGNIFICANT)
_STARRED: Final = bytes.maketrans(_ALNUM, b"*" * len(_ALNUM))

# What a person writing a policy may choose from, with what the client gets to see.
KINDS: Final[dict[str, str]] = {
    "redact": "**** whatever the value was, so that not even its length is told",
    "null": "NULL; inside a longer text, where there is no NULL, ****",
    "keep_last": "the last `keep` letters and digits; the others become *, and all do where more than half would be left",
    "email": "****@****, so that it is still seen to be an address",
}


def is_known_kind(name: str) -> bool:
    """Whether a policy may name this kind of mask."""
    return name in KINDS


def apply(mask: Mask, value: bytes) -> bytes | None:
    """What the client sees in place of a value in text format (UTF-8); None stands for NULL.

    A kind that is not known, or a value that is not text, is hidden entirely.
    """
    return applying(mask)(value)


def is_fixed(mask: Mask) -> bool:
    """Whether `apply` gives the same for every value."""
    return mask.kind != "keep_last"


def applying(mask: Mask) -> Callable[[bytes], bytes | None]:
    """`apply` for many values under one mask."""
    match mask.kind:
        case "null":
            return _null
        case "email":
            return _email
        case "keep_last":
            return partial(_keep_last, mask.keep)
        case _:
            return _redact


def _null(_: bytes) -> None:
    return None


def _email(_: bytes) -> bytes:
    return b"****@****"


def _redact(_: bytes) -> bytes:
    return REDACTED


def _keep_last(keep: int, value: bytes) -> bytes:
    if value.isalnum() and len(value) >= 2 * keep > 0:
        hidden = len(value) - keep
        return b"*" * hidden + value[hidden:]
    if not value.isascii():
        return _keep_last_of_text(value, keep)
    significant = len(value.translate(None, _INSIGNIFICANT))
    if keep <= 0 or significant < 2 * keep:
        return value.translate(_STARRED)
    kept, left = len(value), keep
    while left:
        kept -= 1
        left -= value[kept] in _SIGNIFICANT
    return value[:kept].translate(_STARRED) + value[kept:]


def _keep_last_of_text(value: bytes, keep: int) -> bytes:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return REDACTED
    # A star counts as the letter it stands for, so that masking twice leaves what masking once left; and not everything
    # that carries meaning is alphanumeric to Unicode (combining marks, emoji, symbols), so what is not ASCII counts too.
    significant = sum(map(_is_significant, text))
    hidden = significant - keep if keep > 0 and significant >= 2 * keep else significant
    kept: list[str] = []
    for letter in text:
        if not _is_significant(letter):
            kept.append(letter)
            continue
        kept.append(letter if hidden <= 0 and letter.isalnum() else "*")
        hidden -= 1
    return "".join(kept).encode("utf-8")


def _is_significant(letter: str) -> bool:
    return letter.isalnum() or letter == "*" or not letter.isascii()

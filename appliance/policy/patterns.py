"""What an own pattern of sensitive values may be: a regular expression that no text can make slow.

Python's engine backtracks, and the texts come from a target's rows. So the language is cut down until the work at each
position is bounded: repetitions have an upper bound, groups are not repeated, nothing looks around or refers back.
"""

from __future__ import annotations

import re

# A shape of personal data is short; what is longer would slow every value.
REPEAT_MAX = 64
# How many ways a pattern may have to match at one position: the product of the spans of its repetitions.
WAYS_MAX = 4096

_TOKEN = re.compile(
    r"(?P<class>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<escape>\\[dDwWsSbBtnr]|\\[^A-Za-z0-9])"
    r"|(?P<open>\((?:\?:)?(?!\?))"
    r"|(?P<close>\))"
    r"|(?P<repeat>\{(?P<least>[0-9]{1,3})(?:,(?P<most>[0-9]{1,3}))?\})"
    r"|(?P<maybe>\?)"
    r"|(?P<or>\|)"
    r"|(?P<plain>[^\\\[\](){}*+?|])",
    re.DOTALL,
)


def check_pattern(pattern: str) -> None:
    """Raises ValueError, saying what was found, where the pattern is not one we run on a target's values."""
    ways = 1
    before = ""
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise ValueError(f"'{pattern[at : at + 8]}', which is not among what an own pattern may have")
        sort = token.lastgroup or ""
        sort = "repeat" if token["repeat"] else sort
        match sort:
            case "repeat":
                least, most = int(token["least"]), int(token["most"] or token["least"])
                if before not in {"class", "escape", "plain"}:
                    raise ValueError(f"the repetition {token[0]} of something other than one character")
                if most > REPEAT_MAX:
                    raise ValueError(f"the repetition {token[0]}, more than {REPEAT_MAX} times")
                ways *= max(1, most - least + 1)
            case "maybe":
                if before not in {"class", "escape", "plain", "close"}:
                    raise ValueError("a ? that makes nothing optional")
                ways *= 2
            case "or":
                ways *= 2
        if ways > WAYS_MAX:
            raise ValueError(f"more than {WAYS_MAX} ways to match at one place")
        before = sort
        at = token.end()
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression ({error.msg})") from None
    if compiled.match(""):
        raise ValueError("a pattern that matches the empty text")

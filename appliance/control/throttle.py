"""How fast anybody may guess: each failure for a name, or from an address, makes the next attempt wait longer.

Attempts are counted before they are judged, so that many at once count as many. Pure: the clock is an argument.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

FREE_ATTEMPTS = 5
"""Failures without a wait: people mistype."""

NAME_SECONDS_MAX = 30.0
"""Somebody who knows a name must not be able to keep its owner out for long."""

ADDRESS_SECONDS_MAX = 900.0
FORGET_SECONDS = 3600.0
"""Without an attempt, after which nothing is remembered."""

ENTRIES_MAX = 10_000
"""Names and addresses remembered; the one that was quiet for longest goes first."""

_IPV6_NEIGHBOURS_BITS = 64  # one customer has them all (RFC 6177)


@dataclass(slots=True)
class _Entry:
    failures: int = 0
    until: float = 0.0
    last: float = 0.0


class Throttle:
    """Who has failed lately. `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def attempt(self, name: str, address: str, now: float) -> float:
        """Seconds to wait first; 0.0: go on, and it counts as a failure until `succeed` says otherwise. Without an address,
        where that is known to be the person's own browser, only the name counts."""
        limited = {("name", name): NAME_SECONDS_MAX}
        if address:
            limited["address", _neighbourhood(address)] = ADDRESS_SECONDS_MAX
        # Who is refused is not remembered anew, or could make us forget others with names at no cost.
        wait = max(self._entries[key].until - now if key in self._entries else 0.0 for key in limited)
        if wait > 0:
            return wait
        for key, seconds_max in limited.items():
            entry = self._entry(key, now)
            entry.failures += 1
            entry.last = now
            # The exponent is bounded, so that no count of failures makes a number too large.
            beyond = min(entry.failures - FREE_ATTEMPTS, 20)
            entry.until = now + min(2.0**beyond, seconds_max) if beyond >= 0 else 0.0
        return 0.0

    def succeed(self, name: str, address: str) -> None:
        """The last attempt was good. The address keeps what it did before: its next guess is for another name."""
        self._entries.pop(("name", name), None)
        entry = self._entries.get(("address", _neighbourhood(address)))
        if entry is not None:
            entry.failures -= 1
            entry.until = 0.0
            if entry.failures <= 0:
                del self._entries[("address", _neighbourhood(address))]

    def _entry(self, key: tuple[str, str], now: float) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= ENTRIES_MAX:
                self._entries.popitem(last=False)
            entry = self._entries[key] = _Entry()
        elif now - entry.last > FORGET_SECONDS and now >= entry.until:
            entry.failures = 0
        self._entries.move_to_end(key)
        return entry


def _neighbourhood(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((int(known), _IPV6_NEIGHBOURS_BITS), strict=False))
    return str(known)

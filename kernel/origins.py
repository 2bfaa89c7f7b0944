"""How a caught connection is accepted, and where the kernel keeps what it was meant to reach.

Gateway mode: TPROXY hands the connection to a transparent listener untouched, so the accepted socket's own name is the
destination the client asked for (Linux, Documentation/networking/tproxy.rst). No translation, no connection tracking.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from appliance.parties import Endpoint, Origin

# From linux/in6.h; the socket module lacks both.
_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75


def transparent_sockets(port: int) -> tuple[socket.socket, ...]:
    """Open one worker's sockets, IPv4 and IPv6, bound and non-blocking. Needs CAP_NET_ADMIN, in the network namespace of the
    rules. OSError if the port is somebody else's.

    The worker itself calls listen(), which takes no privilege: until it does, the kernel gives it no connections, so while
    no worker is ready clients are refused instead of kept waiting.

    They are bound to loopback: redirect.nft leads there, and nobody on a network can address it. SO_REUSEPORT lets each
    worker have its own pair; the kernel spreads connections over those that listen.
    """
    opened: list[socket.socket] = []
    try:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            listener = socket.socket(family, socket.SOCK_STREAM)
            opened.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET:
                listener.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            else:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            listener.bind((address, port))
            listener.setblocking(False)
    except OSError:
        for listener in opened:
            listener.close()
        raise
    return tuple(opened)


def origin_of(connection: socket.socket) -> Origin:
    """Who is calling and what they wanted to reach, of an accepted connection. OSError if the client is gone already."""
    return Origin(source=_endpoint(connection.getpeername()), destination=_endpoint(connection.getsockname()))


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(_address(name[0]), name[1])


# The same few addresses come again and again, and each flow would keep texts of its own.
@lru_cache(maxsize=4_096)
def _address(name: str) -> str:
    address = ip_address(name.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)

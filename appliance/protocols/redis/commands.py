"""What each Redis command does to which keys: a table after Redis 7's COMMAND INFO. What is not in it is unknown.

How a reply or an effect depends on a value is part of what a command does: where only whole values are shown they can be
masked, where a value is tested for equality it can be guessed, and everything else would give a masked value away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from appliance.effects import Action, Effect, Kind, Use, effect, unknown

# Keys are names that rules, people and records have to carry.
_KEY_BYTES_MAX = 16 << 10
# A key that ends within a minute is gone before anybody could have it back, so to say so is to delete it.
_LIFE_SECONDS_MIN = 60
_VALUE = frozenset({"value"})
_ELEMENTS = frozenset({"elements"})
_NAMES = frozenset({"names"})
_ABOUT = frozenset({"about"})


class _Deed(Enum):
    """What is done to a key, as the effects it has."""

    SHOW = ((Action.READ, _VALUE, Use.OUTPUT),)
    ABOUT = ((Action.READ, _ABOUT, Use.OUTPUT),)  # whether it is there, its type, its end, how many elements
    TEST = ((Action.READ, _VALUE, Use.COMPARE),)
    DERIVE = ((Action.READ, _VALUE, Use.COMPUTE),)  # a part, a length, an order, a range, a pattern
    MEET = (*SHOW, *TEST)
    WRITE = ((Action.UPDATE, _VALUE, None),)
    WRITE_SHOWING = (*WRITE, *SHOW)
    WRITE_TESTING = (*WRITE, *TEST)
    WRITE_DERIVING = (*WRITE, *DERIVE)
    TAKE = ((Action.CONSUME, _VALUE, None), *SHOW)
    REMOVE = ((Action.DELETE, _ELEMENTS, None),)
    REMOVE_TESTING = (*REMOVE, *TEST)
    DELETE = ((Action.DELETE, _VALUE, None),)
    LAST = ((Action.UPDATE, _ABOUT, None),)  # how long it lives


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where a command's keys stand: from `first` to `last` (negative: from the end) in steps, as COMMAND INFO has it."""

    deed: _Deed
    first: int = 1
    last: int = 1
    step: int = 1


_ONE_KEY: dict[_Deed, str] = {
    _Deed.SHOW: "GET HGET HMGET HGETALL HVALS HRANDFIELD LRANGE LINDEX SMEMBERS SRANDMEMBER XRANGE XREVRANGE "
    "ZSCORE ZMSCORE HKEYS ZREVRANGE",
    _Deed.ABOUT: "HLEN HEXISTS LLEN SCARD ZCARD XLEN TYPE TTL PTTL EXPIRETIME PEXPIRETIME",
    _Deed.TEST: "SISMEMBER SMISMEMBER",
    _Deed.DERIVE: "GETRANGE SUBSTR STRLEN HSTRLEN GETBIT BITCOUNT ZCOUNT ZLEXCOUNT ZRANK ZREVRANK",
    _Deed.WRITE: "SETEX PSETEX SETNX HSET HMSET HSETNX LPUSH RPUSH LPUSHX RPUSHX LSET XADD",
    _Deed.WRITE_SHOWING: "GETSET",
    _Deed.WRITE_TESTING: "SADD LINSERT PFADD",
    _Deed.WRITE_DERIVING: "APPEND INCR INCRBY INCRBYFLOAT DECR DECRBY SETRANGE SETBIT HINCRBY HINCRBYFLOAT ZINCRBY",
    _Deed.TAKE: "GETDEL LPOP RPOP SPOP ZPOPMIN ZPOPMAX",
    _Deed.REMOVE: "HDEL LTRIM XDEL XTRIM",
    _Deed.REMOVE_TESTING: "SREM ZREM LREM",
    _Deed.DELETE: "EXPIREAT PEXPIREAT",
    _Deed.LAST: "PERSIST",
}
_TABLE: dict[str, _Keys] = {name: _Keys(deed) for deed, names in _ONE_KEY.items() for name in names.split()} | {
    "MGET": _Keys(_Deed.SHOW, 1, -1),
    "EXISTS": _Keys(_Deed.ABOUT, 1, -1),
    "TOUCH": _Keys(_Deed.ABOUT, 1, -1),
    "WATCH": _Keys(_Deed.ABOUT, 1, -1),
    "SUNION": _Keys(_Deed.SHOW, 1, -1),
    "SINTER": _Keys(_Deed.MEET, 1, -1),
    "SDIFF": _Keys(_Deed.MEET, 1, -1),
    "PFCOUNT": _Keys(_Deed.DERIVE, 1, -1),
    "DEL": _Keys(_Deed.DELETE, 1, -1),
    "UNLINK": _Keys(_Deed.DELETE, 1, -1),
    "MSET": _Keys(_Deed.WRITE, 1, -1, 2),
    "MSETNX": _Keys(_Deed.WRITE, 1, -1, 2),
}
_FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
_ADMINISTRATION_NAMES = (
    "CONFIG DEBUG SHUTDOWN REPLICAOF SLAVEOF SWAPDB ACL MODULE CLUSTER FAILOVER BGSAVE BGREWRITEAOF SAVE LATENCY SLOWLOG "
    "MEMORY MIGRATE RESTORE SCRIPT FUNCTION CLIENT OBJECT INFO LASTSAVE ROLE"
)
_SESSION_NAMES = "PING ECHO QUIT SELECT MULTI EXEC DISCARD UNWATCH AUTH COMMAND TIME LOLWUT"
_ADMINISTRATION = frozenset(_ADMINISTRATION_NAMES.split())
_SESSIONS = frozenset(_SESSION_NAMES.split())
_OWN_CLIENT = frozenset({b"SETNAME", b"GETNAME", b"SETINFO", b"ID"})
_PROGRAMS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})
_KEYSPACE = frozenset({"KEYS", "SCAN", "RANDOMKEY", "DBSIZE"})
# After these an answer no longer belongs to one command, or there is none: who reads on would take one for another.
_OTHER_ORDER_NAMES = (
    "MONITOR SYNC PSYNC REPLCONF HELLO RESET SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE"
)
_OTHER_ORDERS = frozenset(_OTHER_ORDER_NAMES.split())
_OTHER_CLIENT_ORDERS = frozenset({b"REPLY", b"TRACKING", b"CACHING"})


def problem_of(words: tuple[bytes, ...]) -> str | None:
    """Why a command cannot pass whatever the policy says, or None."""
    name = name_of(words)
    if name in _OTHER_ORDERS or (name == "CLIENT" and len(words) > 1 and words[1].upper() in _OTHER_CLIENT_ORDERS):
        return "it would change what answers mean, and the gateway speaks RESP2 with one answer to each command"
    return None


def name_of(words: tuple[bytes, ...]) -> str:
    """A command's name in capitals; what is no ASCII is replaced, and so is never a name that is known."""
    return words[0][:64].decode("ascii", "replace").upper()


def effects_of(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """The effects of a command given as its words, the name first. Bytes of a key that are no UTF-8 stand in its name as
    `\\xff`. Commands that copy values to where no rule sees them, and those of later Redis versions, are unknown."""
    name = name_of(words)
    if (problem := problem_of(words)) is not None:
        return frozenset({unknown(problem, Kind.STATEMENT, name)})
    if (read := _READ_FURTHER.get(name)) is not None:
        return read(words)
    if name in _SESSIONS or (name == "CLIENT" and len(words) > 1 and words[1].upper() in _OWN_CLIENT):
        return frozenset({effect(Action.CONNECT, Kind.SESSION, name.lower())})
    if name in _FLUSHES:
        return frozenset({effect(Action.TRUNCATE, Kind.DATABASE, name.lower())})
    if name in _ADMINISTRATION:
        return frozenset({effect(Action.ADMIN, Kind.SERVER, name.lower())})
    if name in _PROGRAMS:
        return frozenset({effect(Action.EXEC, Kind.PROGRAM, name.lower(), opaque=True)})
    if name in _KEYSPACE:
        return frozenset({effect(Action.READ, Kind.DATABASE, "keys", fields=_NAMES, use=Use.OUTPUT)})
    if name == "PUBLISH" and len(words) == 3 and len(words[1]) <= _KEY_BYTES_MAX:
        return frozenset({effect(Action.PUBLISH, Kind.CHANNEL, _text(words[1]))})
    keys = _TABLE.get(name)
    if keys is None:
        return frozenset({unknown("a command that the gateway does not know", Kind.STATEMENT, name)})
    return _on_keys(words, keys)


def _on_keys(words: tuple[bytes, ...], keys: _Keys) -> frozenset[Effect]:
    last = keys.last if keys.last >= 0 else len(words) + keys.last
    found = words[keys.first : last + 1 : keys.step]
    if not found:
        return frozenset({unknown("a command without its keys", Kind.STATEMENT, name_of(words))})
    if any(len(key) > _KEY_BYTES_MAX for key in found):
        return frozenset({unknown(f"a key of more than {_KEY_BYTES_MAX} bytes", Kind.STATEMENT, name_of(words))})
    return frozenset(
        effect(action, Kind.KEY, _text(key), fields=fields, use=use)
        for key in found
        for action, fields, use in keys.deed.value
    )


def _set(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """SET key value [NX|XX] [GET] [EX …|PX …|EXAT …|PXAT …|KEEPTTL]: with GET it shows the old value."""
    deed = _Deed.WRITE
    at = 3
    while at < len(words):
        option = words[at].upper()
        if option == b"GET":
            deed = _Deed.WRITE_SHOWING
        elif option in (b"EX", b"PX", b"EXAT", b"PXAT"):
            at += 1
        elif option not in (b"NX", b"XX", b"KEEPTTL"):
            return frozenset({unknown("an option of SET that the gateway does not know", Kind.STATEMENT, "SET")})
        at += 1
    return _on_keys(words, _Keys(deed))


def _getex(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """GETEX key [EX …|PX …|EXAT …|PXAT …|PERSIST]."""
    shown = _on_keys(words, _Keys(_Deed.SHOW))
    match tuple(word.upper() for word in words[2:]):
        case ():
            return shown
        case (b"PERSIST",):
            return shown | _on_keys(words, _Keys(_Deed.LAST))
        case (b"EX", time):
            return shown | _on_keys(words, _Keys(_ending(time, 1)))
        case (b"PX", time):
            return shown | _on_keys(words, _Keys(_ending(time, 1000)))
        case _:
            return shown | _on_keys(words, _Keys(_Deed.DELETE))


def _expire(words: tuple[bytes, ...]) -> frozenset[Effect]:
    return _on_keys(words, _Keys(_ending(words[2] if len(words) > 2 else b"", 1)))


def _pexpire(words: tuple[bytes, ...]) -> frozenset[Effect]:
    return _on_keys(words, _Keys(_ending(words[2] if len(words) > 2 else b"", 1000)))


def _ending(time: bytes, units: int) -> _Deed:
    """What it is to let a key end after that time, `units` to the second. What is no plain number is taken for the worst."""
    lasts = time.isdigit() and len(time) <= 18 and int(time) >= _LIFE_SECONDS_MIN * units
    return _Deed.LAST if lasts else _Deed.DELETE


def _scan_elements(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """SSCAN, HSCAN, ZSCAN: a pattern tells things about values that are masked."""
    has_pattern = any(word.upper() == b"MATCH" for word in words[3:])
    shown = _on_keys(words, _Keys(_Deed.SHOW))
    return shown | _on_keys(words, _Keys(_Deed.DERIVE)) if has_pattern else shown


def _zrange(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """ZRANGE by rank shows elements; by score or name it says which lie within bounds."""
    shown = _on_keys(words, _Keys(_Deed.SHOW))
    is_bounded = any(word.upper() in (b"BYSCORE", b"BYLEX") for word in words[4:])
    return shown | _on_keys(words, _Keys(_Deed.DERIVE)) if is_bounded else shown


def _bounded(words: tuple[bytes, ...]) -> frozenset[Effect]:
    return _on_keys(words, _Keys(_Deed.SHOW)) | _on_keys(words, _Keys(_Deed.DERIVE))


def _zadd(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """ZADD tells whether an element was there; with GT, LT or INCR how its score compares."""
    compares = any(word.upper() in (b"GT", b"LT", b"INCR") for word in words[2:6])
    return _on_keys(words, _Keys(_Deed.WRITE_DERIVING if compares else _Deed.WRITE_TESTING))


_READ_FURTHER: dict[str, Callable[[tuple[bytes, ...]], frozenset[Effect]]] = {
    "SET": _set,
    "GETEX": _getex,
    "EXPIRE": _expire,
    "PEXPIRE": _pexpire,
    "SSCAN": _scan_elements,
    "HSCAN": _scan_elements,
    "ZSCAN": _scan_elements,
    "ZRANGE": _zrange,
    "ZRANGEBYSCORE": _bounded,
    "ZREVRANGEBYSCORE": _bounded,
    "ZRANGEBYLEX": _bounded,
    "ZREVRANGEBYLEX": _bounded,
    "ZADD": _zadd,
}


def known_key_positions() -> dict[str, tuple[int, int, int]]:
    """Where each known command has its keys (first, last, step), to be held against a server's own COMMAND INFO."""
    listed = {name: (keys.first, keys.last, keys.step) for name, keys in _TABLE.items()}
    return listed | dict.fromkeys(_READ_FURTHER, (1, 1, 1))


def _text(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")

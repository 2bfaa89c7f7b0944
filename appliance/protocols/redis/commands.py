"""What each Redis command does to which keys: a table after Redis 7's COMMAND INFO. What is not in it is unknown."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.effects import Action, Effect, Kind, Use, effect, unknown


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where a command's keys stand: from `first` to `last` (negative: from the end) in steps, as COMMAND INFO has it."""

    action: Action
    first: int = 1
    last: int = 1
    step: int = 1


_READ = _Keys(Action.READ)
_READ_ALL = _Keys(Action.READ, 1, -1)
_WRITE = _Keys(Action.UPDATE)
_DELETE = _Keys(Action.DELETE, 1, -1)

# Commands whose reply shows values: their keys' masks fall on every string of the reply.
_READERS = (
    "GET GETRANGE SUBSTR STRLEN HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSCAN HRANDFIELD LRANGE LINDEX LLEN SMEMBERS "
    "SCARD SISMEMBER SMISMEMBER SRANDMEMBER SSCAN ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZCARD ZCOUNT "
    "ZSCORE ZRANK ZREVRANK ZSCAN ZMSCORE BITCOUNT GETBIT TYPE TTL PTTL EXPIRETIME PEXPIRETIME XRANGE XREVRANGE XLEN PFCOUNT"
)
_WRITERS = (
    "SET SETEX PSETEX SETNX APPEND INCR INCRBY INCRBYFLOAT DECR DECRBY SETRANGE SETBIT HSET HMSET HSETNX HDEL HINCRBY "
    "HINCRBYFLOAT LPUSH RPUSH LPUSHX RPUSHX LTRIM LSET LREM LINSERT SADD SREM ZADD ZREM ZINCRBY EXPIRE PEXPIRE EXPIREAT "
    "PEXPIREAT PERSIST XADD XDEL XTRIM PFADD"
)
# These change a key and show its value as well.
_TAKERS = "GETDEL GETEX GETSET LPOP RPOP SPOP ZPOPMIN ZPOPMAX"
_ADMIN = (
    "CONFIG DEBUG SHUTDOWN REPLICAOF SLAVEOF SYNC PSYNC SWAPDB ACL MODULE CLUSTER FAILOVER BGSAVE BGREWRITEAOF SAVE MONITOR "
    "LATENCY SLOWLOG MEMORY REPLCONF MIGRATE RESTORE SCRIPT FUNCTION CLIENT OBJECT"
)
_SESSION = "PING ECHO QUIT SELECT MULTI EXEC DISCARD UNWATCH AUTH COMMAND TIME DBSIZE LOLWUT"

_TABLE: dict[str, _Keys] = {
    **dict.fromkeys(_READERS.split(), _READ),
    **dict.fromkeys(_WRITERS.split(), _WRITE),
    "MGET": _READ_ALL,
    "EXISTS": _READ_ALL,
    "TOUCH": _READ_ALL,
    "WATCH": _READ_ALL,
    "SINTER": _READ_ALL,
    "SUNION": _READ_ALL,
    "SDIFF": _READ_ALL,
    "DEL": _DELETE,
    "UNLINK": _DELETE,
    "MSET": _Keys(Action.UPDATE, 1, -1, 2),
    "MSETNX": _Keys(Action.UPDATE, 1, -1, 2),
}
_TAKEN = frozenset(_TAKERS.split())
_FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
_ADMINISTRATION = frozenset(_ADMIN.split())
_SESSIONS = frozenset(_SESSION.split())


def effects_of(words: tuple[bytes, ...]) -> frozenset[Effect]:
    """The effects of a command given as its words, the name first. Keys are decoded with surrogates, so that any bytes have
    a name. Commands that depend on a comparison or a copy of values, on scripts, or on later Redis versions are unknown."""
    name = words[0].decode("ascii", "replace").upper()
    if name in _SESSIONS:
        return frozenset({effect(Action.CONNECT, Kind.SESSION, name.lower())})
    if name in _FLUSHES:
        return frozenset({effect(Action.TRUNCATE, Kind.DATABASE, name.lower())})
    if name in _ADMINISTRATION:
        return frozenset({effect(Action.ADMIN, Kind.SERVER, name.lower())})
    if name == "SET" and any(word.upper() == b"GET" for word in words[3:]):
        return _on_keys(words, _WRITE) | _on_keys(words, _READ)
    if name in _TAKEN:
        return _on_keys(words, _WRITE) | _on_keys(words, _READ)
    if name == "PUBLISH" and len(words) == 3:
        return frozenset({effect(Action.PUBLISH, Kind.CHANNEL, _text(words[1]))})
    keys = _TABLE.get(name)
    if keys is None:
        return frozenset({unknown("a command that the gateway does not know", Kind.STATEMENT, name[:64])})
    return _on_keys(words, keys)


def _on_keys(words: tuple[bytes, ...], keys: _Keys) -> frozenset[Effect]:
    last = keys.last if keys.last >= 0 else len(words) + keys.last
    found = words[keys.first : last + 1 : keys.step]
    if not found:
        return frozenset({unknown("a command without its keys", Kind.STATEMENT, _text(words[0])[:64])})
    is_read = keys.action is Action.READ
    fields = frozenset({"value"})
    return frozenset(
        effect(keys.action, Kind.KEY, _text(key), fields=fields, use=Use.OUTPUT if is_read else None) for key in found
    )


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")

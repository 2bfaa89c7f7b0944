"""How a reply is read, masked and passed on while it arrives: nothing but one masked string is kept whole.

A masked string is put in place of the whole one, so it has to be whole before its length can be written. One that is too
large for that is hidden entirely.
"""

from __future__ import annotations

from hashlib import blake2b

from appliance.decisions import Mask, Obligations
from appliance.errors import PeerError
from appliance.masking.detectors import Detectors
from appliance.masking.masks import REDACTED, apply
from appliance.protocols.redis.requests import number

_LINE_BYTES_MAX = 64 << 10  # of an error or a simple string; the server's own are some hundred bytes
_DEPTH_MAX = 32  # EXEC of commands that nest two or three levels is the deepest there is
_STRING_BYTES_MAX = 512 << 20  # proto-max-bulk-len
_ITEMS_MAX = 1 << 32
# A masked string is looked at in one go while all other flows of the worker wait: half a second at this size.
_MASKED_BYTES_MAX = 16 << 20
_SAMPLES_MAX = 5
_SAMPLE_BYTES_MAX = 256
_WITHHELD = b" the target's words are withheld, because they can carry masked values"


class Reply:
    """One reply on its way. `out` is what the client is to receive and has not been given yet."""

    __slots__ = (
        "_body_left",
        "_collected",
        "_detectors",
        "_digest",
        "_ending_left",
        "_masks",
        "_open",
        "_quiet",
        "_sample",
        "_scanned",
        "is_failed",
        "is_whole",
        "items",
        "out",
        "samples",
        "size",
        "status",
    )

    def __init__(self, masks: tuple[Mask, ...], detectors: Detectors, quiet: bool) -> None:
        self._masks = masks
        self._detectors = detectors
        self._quiet = quiet
        self._open = [1]  # how many items each array that is not at its end still lacks
        self._scanned = 0
        self._body_left = 0  # bytes of the string that is being read; negative where they are thrown away
        self._ending_left = 0  # of the two bytes behind it
        self._collected: bytearray | None = None  # the string, where it is to be masked
        self._sample: bytearray | None = None
        self._digest = blake2b(digest_size=16)
        self.out = bytearray()
        self.is_whole = False
        self.is_failed = False
        self.status = ""
        self.items = 0
        self.size = 0
        self.samples: list[str] = []

    def read(self, buffer: bytearray) -> None:
        """Take what belongs to this reply from the front of the buffer. Raises PeerError."""
        while buffer and not self.is_whole:
            if self._body_left or self._ending_left:
                self._read_string(buffer)
            elif not self._read_line(buffer):
                return

    def take(self) -> bytes:
        """What the client is to receive next."""
        data = bytes(self.out)
        self.out.clear()
        self._digest.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> str:
        """Of everything taken, in hexadecimal."""
        return self._digest.hexdigest()

    def _read_line(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n", self._scanned, _LINE_BYTES_MAX)
        if end < 0:
            if len(buffer) >= _LINE_BYTES_MAX:
                raise PeerError("the target sent a line that is too long")
            self._scanned = max(0, len(buffer) - 1)
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        self._scanned = 0
        self._open[-1] -= 1
        kind, body = line[:1], line[1:]
        match kind:
            case b"$":
                self._begin_string(number(body, _STRING_BYTES_MAX))
            case b"*":
                self._begin_array(number(body, _ITEMS_MAX))
            case b"+" | b"-" | b":":
                self._pass_line(kind, body)
            case _:
                raise PeerError("the target sent something that is no RESP2 reply")
        return True

    def _begin_string(self, size: int) -> None:
        self._say("a string" if size >= 0 else "nil")
        if size < 0:
            self.out += b"$-1\r\n"
            self._end_item()
            return
        is_masked = bool(self._masks) or not self._detectors.is_empty
        if is_masked and size > _MASKED_BYTES_MAX:
            self._collected = None
            self._body_left, self._ending_left = -size, 2
            return
        self._collected = bytearray() if is_masked else None
        self._sample = bytearray() if len(self.samples) < _SAMPLES_MAX and not is_masked else None
        if not is_masked:
            self.out += b"$%d\r\n" % size
        self._body_left, self._ending_left = size, 2

    def _read_string(self, buffer: bytearray) -> None:
        if self._body_left:
            is_dropped = self._body_left < 0  # too large to be masked
            taken = min(len(buffer), abs(self._body_left))
            piece = buffer[:taken]
            del buffer[:taken]
            self._body_left += taken if is_dropped else -taken
            if is_dropped:
                if not self._body_left:
                    self._collected = bytearray(REDACTED)
                return
            if self._collected is not None:
                self._collected += piece
                return
            self.out += piece
            if self._sample is not None and len(self._sample) < _SAMPLE_BYTES_MAX:
                self._sample += piece[: _SAMPLE_BYTES_MAX - len(self._sample)]
            return
        if buffer[0] != b"\r\n"[2 - self._ending_left]:
            raise PeerError("the target sent a string that is longer than it says")
        del buffer[:1]
        self._ending_left -= 1
        if self._ending_left:
            return
        if self._collected is None:
            self.out += b"\r\n"
        else:
            self._pass_masked(bytes(self._collected))
            self._collected = None
        if self._sample is not None:
            self.samples.append(self._sample.decode("utf-8", "backslashreplace"))
            self._sample = None
        self._end_item()

    def _pass_masked(self, value: bytes) -> None:
        masked: bytes | None = value
        for mask in self._masks:
            masked = apply(mask, masked) if masked is not None else None
        if masked is None:
            self.out += b"$-1\r\n"
            return
        masked = self._detectors.clean(masked)
        self.out += b"$%d\r\n%s\r\n" % (len(masked), masked)
        if len(self.samples) < _SAMPLES_MAX:
            self.samples.append(masked[:_SAMPLE_BYTES_MAX].decode("utf-8", "backslashreplace"))

    def _begin_array(self, count: int) -> None:
        self._say(f"{count} items" if count >= 0 else "nil")
        self.out += b"*%d\r\n" % count
        if count > 0:
            self._open.append(count)
            if len(self._open) > _DEPTH_MAX:
                raise PeerError("the target sent a reply nested too deeply")
        else:
            self._end_item()

    def _pass_line(self, kind: bytes, body: bytes) -> None:
        line = kind + body
        if kind == b"-" and self._quiet:
            line = kind + body.split(b" ", 1)[0] + _WITHHELD
        cleaned = self._detectors.clean(line)
        if cleaned is not line:
            # A number with a hidden part is none any more; an error may stand wherever a number may.
            line = b"-ERR the value is masked" if kind == b":" else cleaned
        self.out += line + b"\r\n"
        text = line[1:_SAMPLE_BYTES_MAX].decode("utf-8", "backslashreplace")
        if not self.status:
            self.is_failed = line[:1] == b"-"
        self._say(f"{text or kind.decode()}")
        if len(self.samples) < _SAMPLES_MAX:
            self.samples.append(text)
        self._end_item()

    def _say(self, status: str) -> None:
        if not self.status:
            self.status = status

    def _end_item(self) -> None:
        self.items += 1
        while self._open and not self._open[-1]:
            self._open.pop()
        self.is_whole = not self._open


class Masking:
    """Readers for replies under obligations. The detectors of one set of value masks are made once."""

    __slots__ = ("_detectors", "_values")

    def __init__(self) -> None:
        self._values: tuple[object, ...] = ()
        self._detectors = Detectors(())

    def reply(self, obligations: Obligations) -> Reply:
        """A reader for the next reply."""
        if obligations.values != self._values:
            self._values = obligations.values
            self._detectors = Detectors(obligations.values)
        masks = tuple(dict.fromkeys(field.mask for field in obligations.fields))
        return Reply(masks, self._detectors, obligations.quiet)

"""How the dashboard asks control: one channel for everybody, each request with the session of whoever is signed in.

The dashboard is nobody by itself: control finds the person behind the session and decides what that person may.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from appliance.errors import RefusedByControlError, UnavailableError
from appliance.ipc.channel import Channel, connect
from appliance.ipc.messages import REQUEST_BYTES_MAX, Message, Request

# Longer than control takes for the slowest verb, which waits for a worker to judge a changed command.
ANSWER_SECONDS_MAX: Final = 90.0
# What a request's frame holds besides its arguments.
ENVELOPE_BYTES: Final = 4096

UNATTENDED: Final[ContextVar[bool]] = ContextVar("unattended", default=False)
"""Whether an open page asks by itself: such a request is no use of the session."""


class AskingError(Exception):
    """Control's answer is not a result. The message is fit for the person who asked."""


class SignedOut(AskingError):
    """Nobody is signed in with that session (any more)."""


class MustChangePassword(AskingError):
    """Signed in with a one-time password, which opens nothing but the page that changes it."""


class Forbidden(AskingError):
    """This person's role does not allow it."""


class Refused(AskingError):
    """Control says no, and why."""


class Away(AskingError):
    """Control does not answer."""


class _Answer(msgspec.Struct):
    ok: bool
    result: Any = None
    reason: str = ""
    kind: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)
_KINDS: Final[dict[str, type[AskingError]]] = {
    "signed_out": SignedOut,
    "must_change": MustChangePassword,
    "forbidden": Forbidden,
}


class Control:
    """Control at the people's socket `path`; connected when first asked, and again after it was away."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._channel: Channel | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, session: str, verb: str, /, **arguments: object) -> Any:
        """The result of a verb, as JSON has it. Raises AskingError."""
        body = msgspec.json.encode(arguments)
        # Control would end the channel, which is everybody's.
        if len(body) > REQUEST_BYTES_MAX - ENVELOPE_BYTES:
            raise Refused("That is too large.")
        try:
            channel = await self._connected()
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                said = await channel.call(lambda call: Request(call, verb, body, session, UNATTENDED.get()))
        except RefusedByControlError as error:
            raise Refused(str(error)) from None
        except (UnavailableError, TimeoutError):
            raise Away("The control process does not answer. Traffic that needs a person is being refused.") from None
        answer = _ANSWER.decode(said)
        if not answer.ok:
            raise _KINDS.get(answer.kind, Refused)(answer.reason)
        return answer.result

    def close(self) -> None:
        """End the channel."""
        if self._channel is not None:
            self._channel.abort()

    async def _connected(self) -> Channel:
        async with self._connecting:
            if self._channel is None or not self._channel.is_open:
                self._channel = await connect(self._path, self._unexpected, lambda: None)
            return self._channel

    def _unexpected(self, message: Message) -> None:  # noqa: ARG002
        # Control asks nothing of us; whoever does is not control.
        self.close()

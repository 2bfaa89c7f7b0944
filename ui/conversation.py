"""How the command line talks to the control process: one request, one answer, over the people's socket.

What it needs is imported when something is asked: a shell that completes an option must not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click

from appliance.errors import UnavailableError

if TYPE_CHECKING:
    from appliance.ipc.channel import Channel
    from appliance.ipc.messages import Message

ANSWER_SECONDS = 150.0
"""Longer than control takes for the slowest verb, which waits for a worker to judge a changed command."""

COMPLETION_SECONDS = 0.1
"""With the start of the program, a completed word comes before people notice."""


class NoAnswer(click.ClickException):
    """The appliance does not answer."""

    exit_code = 3


class Refused(click.ClickException):
    """It answered no, and why."""

    exit_code = 1


def ask_control(run: str, verb: str, **arguments: object) -> Any:
    """The result of one of control.people.VERBS, as JSON has it. Raises NoAnswer or Refused."""
    import asyncio

    return asyncio.run(_ask(run, verb, arguments))


def ask_quickly(run: str, verb: str, **arguments: object) -> Any:
    """The same for a shell that completes a word and must not be kept waiting. Raises NoAnswer or Refused soon."""
    import asyncio

    return asyncio.run(_ask(run, verb, arguments, COMPLETION_SECONDS))


class Conversation:
    """One open channel to control, for whoever asks again and again. Used as `async with`."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._channel: Channel | None = None

    async def __aenter__(self) -> Conversation:
        from appliance.ipc.channel import connect

        try:
            self._channel = await connect(f"{self._run}/control-people.sock", _unexpected, lambda: None)
        except UnavailableError as error:
            raise _no_answer(error) from None
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._channel is not None:
            self._channel.close()

    async def ask(self, verb: str, **arguments: object) -> Any:
        """Like ask_control. Calls may overlap."""
        import msgspec

        from appliance.ipc.messages import Request

        assert self._channel is not None
        try:
            body = await self._channel.call(lambda call: Request(call, verb, msgspec.json.encode(arguments)))
        except UnavailableError as error:
            raise _no_answer(error) from None
        answer = msgspec.json.decode(body)
        if not answer["ok"]:
            raise Refused(answer["reason"])
        return answer["result"]


async def _ask(run: str, verb: str, arguments: dict[str, object], seconds: float = ANSWER_SECONDS) -> Any:
    import asyncio

    try:
        async with asyncio.timeout(seconds), Conversation(run) as conversation:
            return await conversation.ask(verb, **arguments)
    except TimeoutError:
        raise NoAnswer(f"the appliance did not answer within {seconds:g} seconds") from None


def _no_answer(error: UnavailableError) -> NoAnswer:
    return NoAnswer(f"the appliance does not answer: {error}. Does it run, and may you ask it (root or an approver)?")


def _unexpected(message: Message) -> NoReturn:
    raise NoAnswer(f"control said {type(message).__name__}, which is no answer")

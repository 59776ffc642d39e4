"""One attempt at an answer, held back until it is clear whether the client is to see it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Final

from asgi_gateway.types import Message, Scope, Send, mypyc_attr

_NEVER_HELD: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
"""What passes even out of an attempt that is being unwound."""


class Discarded(BaseException):
    """Unwinds an attempt whose answer the client will not see."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Gate:
    """Stands before ``send``: opens when an answer is to be passed on, stops an attempt that is not.

    A subclass says by `discards` which answers are not. An application may catch what unwinds it and try
    to send something else; it is told again. Once open the gate holds on to nothing but ``send``.

        gate = Gate(scope, send)
        cancelling = task.cancelling()
        try:
            await app(scope, receive, gate.send)
        except BaseException as error:
            if not settled(error, gate, task, cancelling):
                raise
        if gate.discarded:
            refuse_lost_cancellation(task, cancelling)
            ...  # another attempt
    """

    __slots__ = ("_send", "discarded", "scope")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self.discarded = False
        """Whether this attempt is unwound."""
        self.scope = scope
        """What further attempts are made from; empty once the gate is open."""

    def discards(self, start: Message) -> bool:
        """Whether the answer that begins so is not for the client."""
        return False

    def opens(self) -> None:
        """An answer is passed on, there will be no other attempt."""

    def send(self, message: Message) -> Awaitable[None]:
        """The ``send`` of the attempt."""
        if self.scope:
            if self.discarded:
                raise Discarded
            if message["type"] == "http.response.start":
                if self.discards(message):
                    self.discarded = True
                    raise Discarded
                self.scope = {}
                self.opens()
        return self._send(message)


def settled(error: BaseException, gate: Gate, task: asyncio.Task[object], cancelling: int) -> bool:
    """Whether what came out of an attempt is only its being unwound.

    That is not always what was thrown into it: a task group wraps it, an application may turn it into an
    error of its own. Before Python 3.13 `asyncio.TaskGroup` forgets to take back its own cancellation of
    the task (gh-116720). `cancelling` is the task's count of cancellations before the attempt.
    """
    if not gate.discarded or isinstance(error, _NEVER_HELD):
        return False
    grouped = sys.version_info < (3, 13) and isinstance(error, BaseExceptionGroup)
    if grouped and task.cancelling() > cancelling:
        task.uncancel()
    return True


def refuse_lost_cancellation(task: asyncio.Task[object], cancelling: int) -> None:
    """Raise `CancelledError` if it came from outside and was lost while an attempt was unwound."""
    if task.cancelling() > cancelling:
        raise asyncio.CancelledError

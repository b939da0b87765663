"""The body of a request as it arrives: not longer and not slower than allowed, and never left half read."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from greffon.serving.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from greffon.serving.settings import Settings

_DRAIN_SECONDS = 2.0
_DRAIN_LITTLE = 64 * 1024  # bytes, from those who have no key


class Body:
    """What the application reads a body through.

    Args:
        receive: what gives its parts.
        headers: of the request, names in small letters.
        settings: the limits.

    Attributes:
        claim: bytes that it may have: what its head says, or all that are allowed where that does not say.
        received: bytes so far.
    """

    def __init__(
        self,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        headers: dict[str, str],
        settings: Settings,
    ) -> None:
        length = headers.get("content-length", "")
        chunked = "transfer-encoding" in headers
        self.claim = settings.body if chunked else int(length) if length.isdecimal() else 0
        self.received = 0
        self._receive = receive
        self._limit = settings.body
        self._seconds = settings.seconds
        self._until = time.monotonic() + settings.seconds
        self._whole = self.claim == 0
        self._asks = headers.get("expect", "").lower() == "100-continue"  # sends nothing until somebody reads

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part.

        Raises:
            RefusedError: it is longer than allowed, takes longer, or ends early.
        """
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._part()
        except TimeoutError:
            raise RefusedError(
                408, f"the body did not arrive within {self._seconds:g} seconds", reason="slow", close=True
            ) from None
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the client went before its body was whole", reason="gone", close=True)
        if self.received > self._limit:
            raise RefusedError(413, f"a body may have {self._limit:,} bytes, this one has more", reason="too long")
        return message

    async def drain(self, *, generous: bool) -> bool:
        """Read what is left and forget it, within limits; whether the body has been read to its end."""
        if self._whole or self._asks:
            return self._whole
        limit = self._limit if generous else _DRAIN_LITTLE
        if self.claim - self.received > limit:
            return False
        limit += self.received
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_DRAIN_SECONDS, max(0.0, self._until - time.monotonic()))):
                while not self._whole and self.received <= limit:
                    await self._part()
        return self._whole

    async def _part(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._asks = False
        self.received += len(message.get("body", b""))
        self._whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

"""Why a request is not answered: a status, a sentence, and when to come again."""

from __future__ import annotations

import json
from typing import Any


class RefusedError(Exception):
    """A request that is refused; what became of it is the client's to mend.

    Args:
        status: HTTP status, 400 to 499.
        text: what was expected, what came, what to do.
        retry_after: whole seconds after which to come again; None: coming again would not help.
        close: whether the connection is closed.
        reason: one word, for the metrics.
        extra: what else the answer holds.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        reason: str = "invalid",
        retry_after: int | None = None,
        close: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.close = close
        self.extra = extra or {}

    def headers(self) -> dict[str, str]:
        """Of the answer, beyond what every answer has."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.close:
            headers["connection"] = "close"
        return headers

    def body(self, request_id: str) -> bytes:
        """JSON: `error`, `request_id`, and what is `extra`."""
        return to_json({"error": str(self), "request_id": request_id, **self.extra})


def to_json(value: Any) -> bytes:
    """JSON in ASCII: names with halves of characters, which UTF-8 has no bytes for, pass too."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")

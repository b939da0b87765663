"""What stands before every request: who asks, how much is sent and how slowly, how many are here already.

Also what every answer carries: a request id, headers that keep a browser from doing more than it should, a line in the
log, and a place in the metrics.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from greffon.serving.body import Body
from greffon.serving.refusals import RefusedError, to_json
from greffon.serving.settings import KEYS_VARIABLE, is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from greffon.serving.metrics import Metrics
    from greffon.serving.settings import Settings
    from greffon.serving.work import Work

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("greffon.serving")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_GUARDED = ("/v1/", "/v2/models", "/metrics")
_QUIET = ("/v2/health/", "/metrics")  # asked every few seconds by programs
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PICTURES = ("/v1/predict", "/infer")


class Guard:
    """The service behind its limits, as an ASGI application.

    Args:
        app: what answers.
        settings: the limits.
        metrics: where requests are counted.
        work: which knows how busy it is.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics, work: Work) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics
        self._work = work
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.keys]
        self._requests = 0
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        answer = _Answer(send, _id(headers.get("x-request-id")), Body(receive, headers, self._settings))
        scope.setdefault("state", {}).update(request_id=answer.request_id, log=answer.fields)
        self._metrics.in_flight.inc()
        claimed = 0
        try:
            self._check(scope, headers)
            claimed = self._claim(scope, answer.body.claim)
            await self.app(scope, answer.body.receive, answer.send)
        except RefusedError as refusal:
            await answer.refuse(refusal)
        except Exception:
            _log.exception("a request failed", extra={"fields": {"event": "error", "id": answer.request_id}})
            if answer.status is None:
                await answer.fail()
        finally:
            self._requests -= claimed > 0
            self._bytes -= max(0, claimed - 1)
            self._metrics.in_flight.dec()
            self._record(scope, answer)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Who asks.

        Raises:
            RefusedError: not one who may.
        """
        if self._keys:
            if scope["path"].startswith(_GUARDED):
                self._check_key(headers)
            return
        # Without keys, what is on this machine may ask, and only that: no page of another site in its browser.
        host = headers.get("host", "")
        if not is_loopback(_without_port(host)):
            raise RefusedError(
                403,
                "without a key the service answers to 127.0.0.1 and localhost alone; to be called by another name, it "
                f"needs keys in {KEYS_VARIABLE}",
                reason="foreign",
                close=True,
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RefusedError(403, "without a key only the service's own page may ask", reason="foreign", close=True)

    def _check_key(self, headers: dict[str, str]) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        # All are compared, each in a time that does not depend on where it differs.
        if not sum([hmac.compare_digest(digest, known) for known in self._keys]):
            what = "is not one of the service's" if given else "is missing"
            raise RefusedError(
                401, f"the key {what}: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'", reason="key"
            )

    def _claim(self, scope: Scope, length: int) -> int:
        """Room for one more request and its body; 1 and the bytes that are claimed, 0 where none is needed."""
        if not scope["path"].endswith(_PICTURES):
            return 0
        settings = self._settings
        if length > settings.body:
            raise RefusedError(
                413, f"a body may have {settings.body:,} bytes, this one has {length:,}", reason="too long"
            )
        if self._work.full:  # before the body is looked at: refusing many is cheap
            raise self._work.busy("the queue is full", "queue full")
        if self._requests >= settings.requests or self._bytes + length > settings.bytes_at_once:
            raise self._work.busy(f"{self._requests} requests are being answered, all that fit", "too many requests")
        self._requests += 1
        self._bytes += length
        return 1 + length

    def _record(self, scope: Scope, answer: _Answer) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        seconds = time.perf_counter() - answer.start
        status = answer.status or 0  # 0: the client had gone
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if answer.reason is not None:
            self._metrics.refused.labels(answer.reason).inc()
        if status < 400 and scope["path"].startswith(_QUIET):
            return
        fields = {
            "event": "request",
            "id": answer.request_id,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "bytes": answer.body.received,
            **answer.fields,
        }
        if answer.reason is not None:
            fields["refused"] = answer.reason
        _log.info("request", extra={"fields": fields})


class _Answer:
    """One answer on its way, and what is to be told about it."""

    def __init__(self, send: Send, request_id: str, body: Body) -> None:
        self._send = send
        self.request_id = request_id
        self.body = body
        self.start = time.perf_counter()
        self.status: int | None = None
        self.reason: str | None = None
        self.fields: dict[str, Any] = {}

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on; its head gets what every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.reason = self.fields.pop("refused", self.reason)
            headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", self.request_id.encode())]
            # What was sent and not read would keep the client from reading the answer, or be taken for a request.
            if not await self.body.drain(generous=self.status not in (401, 403)):
                headers = [one for one in headers if one[0] != b"connection"] + [(b"connection", b"close")]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with a refusal, unless an answer has begun."""
        self.reason = refusal.reason
        if self.status is None:
            await self._whole(refusal.status, refusal.headers(), refusal.body(self.request_id))

    async def fail(self) -> None:
        """Answer that something is wrong here."""
        await self._whole(
            500, {}, to_json({"error": "this is a mistake in the service", "request_id": self.request_id})
        )

    async def _whole(self, status: int, more: dict[str, str], body: bytes) -> None:
        headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    """The first of each name."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


def _id(given: str | None) -> str:
    """The client's own id where it is harmless, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _without_port(host: str) -> str:
    return host if host.endswith("]") else re.sub(r":\d*$", "", host)

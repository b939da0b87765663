"""The process: a socket, signals, and connections that are closed when they say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from greffon.errors import InputError
from greffon.serving.settings import check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greffon.serving.app import Service

_log = logging.getLogger("greffon.serving")

_HEAD_SECONDS = 10.0  # that the head of a request may take, at most
_IDLE_SECONDS = 75  # that a connection may stay open between two requests; longer than a proxy's 60
_MAX_HEAD = 64 * 1024  # bytes


def serve(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    stop_seconds: float = 30.0,
    watch_seconds: float | None = None,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT comes; then answer those that are here, and return. SIGHUP reloads.

    Args:
        service: what answers.
        host: the address to listen on.
        port: 0: a free one.
        stop_seconds: that requests have to be answered once it is to stop.
        watch_seconds: every so many, the runs' folders are looked at; a new version is loaded. None: never.
        listening: called with the address, once requests are answered.

    Raises:
        InputError: the address cannot be listened on, or is open to others and there is no key.
        GreffonError: a run cannot be opened.
    """
    check_address(host, port, service.settings.keys)
    with _listening_socket(host, port) as listener:
        asyncio.run(_serve(service, listener, stop_seconds, watch_seconds, listening))


async def _serve(
    service: Service,
    listener: socket.socket,
    stop_seconds: float,
    watch_seconds: float | None,
    listening: Callable[[str], None],
) -> None:
    config = uvicorn.Config(
        service.app,
        http=_protocol(service.settings.connections, min(_HEAD_SECONDS, service.settings.seconds)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(stop_seconds)),
        h11_max_incomplete_event_size=_MAX_HEAD,
    )
    server = _Server(config)
    # The lifespan is kept here and not by uvicorn, which ends the process where a model cannot be loaded.
    async with service.api.router.lifespan_context(service.api):
        tasks = [asyncio.create_task(_announce(server, listener, listening))]
        with _signals(service, server, tasks):
            if watch_seconds is not None:
                tasks.append(asyncio.create_task(_watch(service, watch_seconds)))
            try:
                await server.serve([listener])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_signals`: uvicorn would end the process with the signal, not with exit code 0."""
        yield


@contextmanager
def _signals(service: Service, server: uvicorn.Server, tasks: list[asyncio.Task[Any]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = service.stopping  # asked twice: at once
        service.stopping = True
        server.should_exit = True
        _log.info("stopping", extra={"fields": {"event": "stop"}})

    def reload() -> None:
        tasks.append(asyncio.create_task(service.models.reload_all()))

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = reload
    added = []
    for number, handler in handlers.items():
        # Not in threads other than the main one, nor on Windows: there the process is ended the hard way.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, handler)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)


async def _announce(server: uvicorn.Server, listener: socket.socket, listening: Callable[[str], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    _log.info("listening", extra={"fields": {"event": "start", "address": address}})
    listening(address)


async def _watch(service: Service, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await service.models.reload_changed()


def _listening_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    # asyncio sends small packets at once only on sockets that say they are TCP; else an answer's body waits 40 ms for
    # the client to confirm its head.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())


def _protocol(most: int, seconds: float) -> type[asyncio.Protocol]:
    """HTTP/1.1 whose connections are closed when the head of a request does not come, or there are too many."""

    class Impatient(H11Protocol):
        _impatience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self.connections.discard(self)
                transport.abort()
                return
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            """One timer from the first byte of a head, or from the connection, to the head's end."""
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self._impatience is None and (self.cycle is None or self.conn.trailing_data[0]):
                self._impatience = self.loop.call_later(seconds, self._give_up)

        def _forget(self) -> None:
            if self._impatience is not None:
                self._impatience.cancel()
                self._impatience = None

        def _give_up(self) -> None:
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.close()

    return Impatient

"""Services in processes of their own: overload, new versions, slow senders, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
import urllib.request

import psutil
import pytest
from made_up_service import picture, write_run

httpx2 = pytest.importorskip("httpx2")

FILES = {"files": picture("red")}


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def ask_many(address, count, at_once, **options):
    """Statuses of many requests."""

    async def main():
        limits = httpx2.Limits(max_connections=at_once)
        async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
            return await asyncio.gather(*[client.post("/v1/predict", files=FILES, **options) for _ in range(count)])

    return asyncio.run(main())


def test_overload_is_answered_with_429_and_memory_stays(start, tmp_path):
    run = write_run(tmp_path / "colours", 0.01)
    service = start(run, "queue:4", "pictures:4", "batch:2")
    ask_many(service.address, 20, 4)
    memory = psutil.Process(service.process.pid).memory_info().rss
    answers = ask_many(service.address, 300, 50)
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    assert psutil.Process(service.process.pid).memory_info().rss < memory + 50e6
    assert "greffon_queue_pictures 0.0" in httpx2.get(f"{service.address}/metrics").text


def test_too_many_requests_at_once(start, tmp_path):
    service = start(write_run(tmp_path / "colours", 0.05), "requests:2")
    statuses = [answer.status_code for answer in ask_many(service.address, 20, 10)]
    assert set(statuses) == {200, 429}


def test_an_answer_that_takes_too_long_is_a_429(start, tmp_path):
    service = start(write_run(tmp_path / "colours", 0.5), "seconds:0.2")
    answer = httpx2.post(f"{service.address}/v1/predict", files=FILES)
    assert answer.status_code == 429
    assert "0.2 seconds" in answer.json()["error"]


def test_a_new_version_takes_over_with_no_request_lost(start, tmp_path):
    run = write_run(tmp_path / "colours", 0.002)
    service = start(run)
    found, stop = [], threading.Event()

    def ask():
        with httpx2.Client(base_url=service.address, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/v1/predict", files=FILES)
                found.append((answer.status_code, answer.json().get("version")))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            until(lambda number=number: len({version for _, version in list(found)}) > number)
            write_run(run, 0.002, f"version {number}")
            service.signal(signal.SIGHUP)
        until(lambda: len({version for _, version in list(found)}) > 3)
        write_run(run, 0.002, "broken")
        service.signal(signal.SIGHUP)
        until(lambda: any("is broken" in line["message"] for line in service.lines()))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in found} == {200}
    assert len({version for _, version in found}) == 4


def test_reload_over_http_and_by_watching(start, tmp_path):
    key = {"x-api-key": "a-key-of-some-length"}
    run = write_run(tmp_path / "colours")
    service = start(run, "watch:0.1", GREFFON_API_KEYS=key["x-api-key"])
    url = f"{service.address}/v1/reload"
    assert httpx2.post(url, headers=key).json()["outcome"] == "unchanged"
    before = httpx2.get(f"{service.address}/v1/models", headers=key).json()["models"][0]["version"]
    write_run(run, 0, "second")
    until(lambda: httpx2.post(url, headers=key).json()["version"] != before)
    write_run(run, 0, "broken")
    assert httpx2.post(url, headers=key).status_code == 409
    assert httpx2.post(url).status_code == 401
    write_run(run, 0, "third")
    until(lambda: any(line.get("outcome") == "loaded" for line in service.lines()))


def test_sigterm_answers_what_is_there_and_ends_with_0(start, tmp_path):
    service = start(write_run(tmp_path / "colours", 0.3))
    found = []
    threads = [threading.Thread(target=lambda: found.extend(ask_many(service.address, 1, 1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: "greffon_queue_pictures 4.0" in httpx2.get(f"{service.address}/metrics").text)
    code = service.stop()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in found] == [200] * 4
    assert code == 0
    assert service.lines()[-1]["event"] in ("request", "stop")


def test_slow_senders_do_not_hold_the_service(start, tmp_path):
    service = start(write_run(tmp_path / "colours"), "seconds:0.3")
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        assert slow.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert ask_many(service.address, 1, 1)[0].status_code == 200


def test_heads_that_do_not_come_are_not_waited_for(start, tmp_path):
    service = start(write_run(tmp_path / "colours"), "seconds:0.3")
    host, port = service.address.removeprefix("http://").split(":")
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for first, second in ((b"", b""), (b"", b"GET /"), (whole, b"GET /")):
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(first)
            if first:
                assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
                time.sleep(0.5)  # between two requests it may be silent for longer
            slow.sendall(second)
            while slow.recv(65536):
                pass


def test_a_large_body_is_refused_so_that_the_client_reads_why(start, tmp_path):
    service = start(write_run(tmp_path / "colours"), "body:100000")
    for size in (150_000, 5_000_000):
        request = urllib.request.Request(f"{service.address}/v1/predict", data=bytes(size))
        request.add_header("Content-Type", "application/json")
        try:
            urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            assert error.code == 413
            error.close()
        except (ConnectionError, urllib.error.URLError):
            assert size > 1_000_000  # it went on sending long after it was told


def test_more_connections_than_allowed_are_closed(start, tmp_path):
    service = start(write_run(tmp_path / "colours"), "connections:3")
    host, port = service.address.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port)), timeout=20) for _ in range(3)]
    try:
        time.sleep(0.1)
        further = socket.create_connection((host, int(port)), timeout=20)
        with further, contextlib.suppress(ConnectionResetError):
            assert further.recv(10) == b""
    finally:
        for one in idle:
            one.close()


def test_a_run_that_cannot_be_opened_ends_it(start, tmp_path):
    service = start(write_run(tmp_path / "colours", 0, "broken"))
    assert service.stop() == 1
    assert "is broken" in service.log.read_text()

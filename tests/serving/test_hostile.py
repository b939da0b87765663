from __future__ import annotations

import http.client
import random
import socket
from urllib.parse import urlsplit

import psutil
import pytest
from hostile import requests
from made_up_service import picture, write_run


def ask(connection, method, address, headers, body):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    connection.request(method, address, body, {**raw, "content-length": str(len(body))})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def statuses(service, count, seed):
    """What each hostile request is answered with; the connection is made anew where it was closed."""
    where = urlsplit(service.address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    for request in requests(count, seed):
        try:
            yield request, ask(connection, *request)
        except (http.client.BadStatusLine, ConnectionError):
            connection.close()  # an answer with `Connection: close` came before all was sent
            yield request, ask(connection, *request)
    connection.close()


def check(service, count, seed):
    found = set()
    for request, status in statuses(service, count, seed):
        assert status < 500, (request[:3], request[3][:200])
        found.add(status)
    assert service.process.poll() is None
    return found


def test_a_sample_of_malformed_requests(start, tmp_path):
    service = start(write_run(tmp_path / "colours"))
    found = check(service, 400, seed=4)
    assert {200, 400, 404, 405, 413, 415, 422} <= found
    assert not [line for line in service.lines() if line["level"] == "error"]


@pytest.mark.large
def test_ten_thousand_malformed_requests(start, tmp_path):
    service = start(write_run(tmp_path / "colours"))
    check(service, 1_000, seed=2)
    memory = psutil.Process(service.process.pid).memory_info().rss
    check(service, 10_000, seed=3)
    assert psutil.Process(service.process.pid).memory_info().rss < memory + 50e6
    assert not [line for line in service.lines() if line["level"] == "error"]


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.large)])
def test_what_is_no_http_or_ends_early(start, tmp_path, count):
    service = start(write_run(tmp_path / "colours"))
    where = urlsplit(service.address)
    content = picture("red")
    good = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(content) + 84)
    )
    whole = good + b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + content + b"\r\n--b--"
    chance = random.Random(5)
    for _ in range(count):
        with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
            place = chance.randrange(len(whole))
            connection.sendall(
                chance.choice(
                    (whole[:place], chance.randbytes(200), whole[:place] + chance.randbytes(9) + whole[place:])
                )
            )
            if chance.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
                assert b" 50" not in connection.recv(65536)[:15]
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    assert ask(connection, "GET", "/v2/health/ready", {}, b"") == 200
    connection.close()
    assert not [line for line in service.lines() if line["level"] == "error"]


@pytest.mark.parametrize(("examples", "least"), [(8, 50), pytest.param(1_500, 10_000, marks=pytest.mark.large)])
def test_schemathesis_finds_no_error_of_the_server(made, examples, least):
    """Requests made from the service's own description."""
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    client = made()
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.service.app, headers={"host": "127.0.0.1"})
    asked = 0
    for operation in schema.get_all_operations():

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.ok().as_strategy())
        def check_operation(case):
            nonlocal asked
            answer = case.call(headers={"host": "127.0.0.1"})
            assert answer.status_code < 500, case.as_curl_command()
            asked += 1

        check_operation()
    assert asked > least

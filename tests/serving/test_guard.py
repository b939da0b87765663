from __future__ import annotations

import logging

import pytest
from made_up_service import picture

from greffon.errors import InputError
from greffon.serving.settings import Settings, check_address, is_loopback, keys_from

KEY, OTHER = "a-key-of-some-length", "another-key-of-some-length"
FILES = {"files": picture("red")}


def test_with_keys_requests_need_one(made):
    client = made(keys=(KEY, OTHER))
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": OTHER}, {"authorization": f"bearer {OTHER}"}):
        assert client.post("/v1/predict", files=FILES, headers=headers).status_code == 200
    for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Basic {KEY}"}, {"x-api-key": "\xff"}):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = client.post("/v1/predict", files=FILES, headers=raw)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v2/models/colours", "/v2/models/colours/ready"])
def test_what_tells_of_the_models_needs_a_key(made, path):
    client = made(keys=(KEY,))
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"x-api-key": KEY}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/app.js", "/v2/health/live", "/v2/health/ready", "/openapi.json"])
def test_the_page_and_health_need_none(made, path):
    assert made(keys=(KEY,)).get(path).status_code == 200


def test_without_keys_other_sites_and_names_are_refused(made):
    client = made()
    for headers in (
        {"host": "evil.example:8000"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": ""},
    ):
        assert client.post("/v1/predict", files=FILES, headers=headers).status_code == 403
    for headers in ({"host": "localhost:8000"}, {"host": "[::1]:8000"}, {"origin": "http://127.0.0.1:8000"}):
        assert client.post("/v1/predict", files=FILES, headers=headers).status_code == 200


def test_with_keys_any_name_will_do(made):
    headers = {"host": "pets.example", "origin": "https://other.example", "x-api-key": KEY}
    assert made(keys=(KEY,)).post("/v1/predict", files=FILES, headers=headers).status_code == 200


def test_reloading_over_http_needs_keys(made):
    assert made().post("/v1/reload").status_code == 403


def test_logs_hold_nothing_of_a_picture(made, caplog):
    caplog.set_level(logging.INFO)
    made(keys=(KEY,)).post(
        "/v1/predict", files={"files": ("secret-name.png", picture("red"))}, headers={"x-api-key": KEY}
    )
    fields = next(record.fields for record in caplog.records if record.name == "greffon.serving")
    assert fields["status"] == 200
    assert fields["pictures"] == 1
    assert "secret-name" not in str(fields)
    assert KEY not in str(fields)


def test_the_page_asks_nothing_of_others(made):
    answer = made().get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/", "/app.js", "/words.js", "/style.css"):
        text = made().get(path).text
        assert "http://" not in text
        assert "https://" not in text
    assert made().get("/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("host", "keys", "fine"),
    [
        ("127.0.0.1", (), True),
        ("localhost", (), True),
        ("::1", (), True),
        ("0.0.0.0", (), False),
        ("192.168.1.2", (), False),
        ("example.org", (), False),
        ("0.0.0.0", (KEY,), True),
    ],
)
def test_where_it_listens(host, keys, fine):
    if fine:
        check_address(host, 8000, keys)
    else:
        with pytest.raises(InputError, match="GREFFON_API_KEYS"):
            check_address(host, 8000, keys)


def test_keys_come_from_the_environment():
    assert keys_from({"GREFFON_API_KEYS": f" {KEY},{OTHER}, ,{KEY}"}) == (KEY, OTHER)
    assert keys_from({}) == ()
    assert not is_loopback("127.0.0.1.example.org")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"keys": ("short",)}, "at least 16"),
        ({"keys": ("with a space in between",)}, "without spaces"),
        ({"batch": 0}, "batch must be 1"),
        ({"seconds": float("nan")}, "seconds must be"),
        ({"pictures": 100}, "queue"),
    ],
)
def test_wrong_settings(values, text):
    with pytest.raises(InputError, match=text):
        Settings(**values)

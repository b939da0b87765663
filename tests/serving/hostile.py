"""Requests that no well-meaning client sends: mutated pictures, mutated JSON and multipart, raw bytes."""

from __future__ import annotations

import base64
import json
import random
import zlib

from made_up_service import picture

_PLACES = (
    "/v1/predict",
    "/v1/predict?top=-1",
    "/v1/predict?explain=perhaps",
    "/v1/predict?model=%00",
    "/v1/predict?top=99999999999999999999999",
    "/v1/models",
    "/v1/reload",
    "/v2",
    "/v2/models/colours",
    "/v2/models/colours/infer",
    "/v2/models/%2e%2e/infer",
    "/v2/models/colours/versions/x/infer",
    "/v2/health/ready",
    "/metrics",
    "/openapi.json",
    "/",
    "//",
    "/%ff",
    "/v1/predict/",
)
_METHODS = ("GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "XYZ")
_KINDS = (
    "application/json",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary="b"; charset=nonsense',
    "multipart/form-data; boundary=" + "b" * 3000,
    "application/x-www-form-urlencoded",
    "image/png",
    "",
    "\xff",
)
_VALUES = (None, True, -1, 0, 1.5, 1e308, 2**70, "", "a", "\ud800", "\x00", [], {}, [[[]]], {"data": None}, "data:,")


def requests(count, seed):
    """Method, address, headers and body of so many requests, always the same for one seed."""
    chance = random.Random(seed)
    kinds = (_any_address, _mutated_json, _mutated_multipart, _mutated_picture, _mutated_tensor)
    for _ in range(count):
        yield chance.choice(kinds)(chance)


def _any_address(chance):
    headers = {"content-type": chance.choice(_KINDS)}
    for name in ("x-request-id", "authorization", "accept", "accept-encoding", "range", "if-none-match", "cookie"):
        if chance.random() < 0.2:
            headers[name] = chance.choice(("", "\xff", "a" * 300, "bytes=0-", "Bearer", '"', "%s%n"))
    return chance.choice(_METHODS), chance.choice(_PLACES), headers, chance.randbytes(chance.choice((0, 1, 50, 3000)))


def _changed(chance, value):
    """The same JSON with something else in one place."""
    if not value or chance.random() < 0.2 or not isinstance(value, (dict, list)):
        return chance.choice(_VALUES)
    if isinstance(value, dict):
        key = chance.choice(list(value))
        if chance.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: _changed(chance, value[key])}
    place = chance.randrange(len(value))
    return [*value[:place], _changed(chance, value[place]), *value[place + 1 :]]


def _text(chance, value):
    text = json.dumps(_changed(chance, value)).encode()
    if chance.random() < 0.3:
        text = _mutated(chance, text)
    if chance.random() < 0.05:
        text = chance.choice((b"[" * 50_000, b'{"a":' * 5_000, b"9" * 10_000, b"\xef\xbb\xbf" + text))
    return text


def _mutated_json(chance):
    value = {"pictures": [{"data": base64.b64encode(_some_picture(chance)).decode(), "name": "a"}]}
    return "POST", "/v1/predict", {"content-type": "application/json"}, _text(chance, value)


def _mutated_tensor(chance):
    if chance.random() < 0.5:
        data = base64.b64encode(_some_picture(chance)).decode()
        tensor = {"name": "picture", "datatype": "BYTES", "shape": [1], "data": [data]}
    else:
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072}
    value = {"id": "1", "inputs": [tensor], "outputs": [{"name": "label"}]}
    return "POST", "/v2/models/colours/infer", {"content-type": "application/json"}, _text(chance, value)


def _mutated_multipart(chance):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + _some_picture(chance)
    body = (part + b"\r\n") * chance.choice((0, 1, 1, 2, 40)) + b"--b--\r\n"
    for _ in range(chance.randrange(4)):
        body = _mutated(chance, body, upto=200)
    return "POST", _predict(chance), {"content-type": "multipart/form-data; boundary=b"}, body


def _mutated_picture(chance):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    body = part + _mutated(chance, _some_picture(chance)) + b"\r\n--b--\r\n"
    return "POST", _predict(chance), {"content-type": "multipart/form-data; boundary=b"}, body


def _predict(chance):
    return chance.choice(("/v1/predict", "/v1/predict?explain=true"))


def _mutated(chance, data, upto=None):
    if not data:
        return data
    place = chance.randrange(min(len(data), upto or len(data)))
    return chance.choice(
        (
            data[:place],
            data[:place] + chance.randbytes(1) + data[place + 1 :],
            data[:place] + data[place + chance.randrange(20) :],
            data[:place] + chance.randbytes(5) + data[place:],
        )
    )


def _some_picture(chance):
    return chance.choice((*_PICTURES, _png_that_claims(chance.choice((0, 1, 30_000, 2**31 - 1)))))


def _png_that_claims(side):
    """A small file that says it is large."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


_PICTURES = tuple(picture("red", kind=kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))

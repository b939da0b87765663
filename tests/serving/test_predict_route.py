from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from made_up_service import NAMES, picture
from PIL import Image


def files(*pictures):
    return [("files", (f"{place}.png", content, "image/png")) for place, content in enumerate(pictures)]


def as_base64(content):
    return base64.b64encode(content).decode()


def test_several_files_in_order(made):
    client = made()
    answer = client.post("/v1/predict", files=files(picture("red"), picture("blue", kind="JPEG"), picture("lime")))
    assert answer.status_code == 200
    body = answer.json()
    assert [one["label"] for one in body["predictions"]] == ["red", "blue", "green"]
    assert [one["name"] for one in body["predictions"]] == ["0.png", "1.png", "2.png"]
    assert next(iter(body["predictions"][2]["scores"])) == "green"
    assert body["model"] == "colours"
    assert len(body["version"]) == 12
    assert answer.headers["x-request-id"] == body["request_id"]
    assert {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")} == {"decode", "queue", "engine"}


def test_json_base64_and_data_urls(made):
    client = made()
    red = as_base64(picture("red"))
    pictures = [{"data": red, "name": "été.png"}, {"data": f"data:image/png;base64,{red}"}]
    body = client.post("/v1/predict?top=1", json={"pictures": pictures}).json()
    assert [one["name"] for one in body["predictions"]] == ["été.png", None]
    assert all(list(one["scores"]) == ["red"] for one in body["predictions"])


def test_answers_below_the_threshold_are_not_sure(made):
    client = made()
    grey, red = client.post("/v1/predict", files=files(picture("grey"), picture("red"))).json()["predictions"]
    assert (grey["sure"], red["sure"]) == (False, True)


def test_one_that_cannot_be_read_does_not_stop_the_others(made):
    client = made()
    answer = client.post("/v1/predict", files=files(picture("red"), b"no picture", picture("red")[:60]))
    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    assert first["label"] == "red"
    assert second["label"] is None
    assert second["error"].startswith("is not a picture")
    assert "picture in memory" not in third["error"]


def test_where_none_can_be_read_the_request_is_refused(made):
    answer = made().post("/v1/predict", files=files(b"no picture"))
    assert answer.status_code == 422
    assert answer.json()["predictions"][0]["error"] in answer.json()["error"]


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({"content": b"", "headers": {"content-type": "application/json"}}, 400, "does not fit"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "does not fit"),
        ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400, "does not fit"),
        ({"json": {"pictures": []}}, 400, "pictures"),
        ({"json": {"pictures": [{"data": "§"}]}}, 400, "no base64"),
        ({"json": {"pictures": [{"data": "data:image/png,abc"}]}}, 400, "without base64"),
        ({"json": {"pictures": [{"data": "", "other": 1}]}}, 400, "pictures.0.other"),
        ({"content": b"abc"}, 415, "multipart/form-data"),
        ({"content": b"abc", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"abc", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "does not fit"),
        ({"data": {"files": "text"}, "files": {}}, 415, "multipart/form-data"),
        ({"files": {"files": ("a.png", b"")}}, 422, "empty"),
    ],
)
def test_wrong_bodies(made, options, status, text):
    answer = made().post("/v1/predict", **options)
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert answer.json()["request_id"]


def test_wrong_addresses(made):
    client = made()
    assert client.get("/nothing").json()["error"].startswith("there is nothing")
    assert client.get("/v1/predict").status_code == 405
    assert client.post("/v1/predict?model=other", files=files(picture("red"))).status_code == 404
    answer = client.post("/v1/predict?top=0", files=files(picture("red")))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("top: ")


def test_names_that_utf8_has_no_bytes_for(made):
    body = json.dumps({"pictures": [{"data": as_base64(picture("red")), "name": "\ud800"}]})
    answer = made().post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400)


def test_limits(made):
    client = made(body=5_000, pictures=2, pixels=1_000, queue=2)
    assert client.post("/v1/predict", files=files(bytes(6_000))).status_code == 413
    many = client.post("/v1/predict", files=files(*[picture("red")] * 3))
    assert many.status_code == 413
    assert "2 pictures" in many.json()["error"]
    items = [{"data": as_base64(picture("red"))}] * 3
    assert client.post("/v1/predict", json={"pictures": items}).status_code == 413
    large = client.post("/v1/predict", files=files(picture("red", side=50)))
    assert large.status_code == 422
    assert "more than the 1,000 that this service takes" in large.json()["error"]
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG", optimize=True)
    assert made(body=1_000_000).post("/v1/predict", files=files(bomb.getvalue())).status_code == 422


def test_a_body_without_a_length_is_limited_too(made):
    def chunks():
        for _ in range(100):
            yield bytes(1_000)

    client = made(body=5_000)
    answer = client.post("/v1/predict", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_what_is_served(made):
    body = made(names=("first", "second")).get("/v1/models").json()
    assert [one["name"] for one in body["models"]] == ["first", "second"]
    assert body["models"][0]["classes"] == list(NAMES)
    assert body["limits"]["pictures"] == 32


def test_models_are_asked_by_name(made):
    client = made(names=("first", "second"))
    for name in ("first", "second"):
        assert client.post(f"/v1/predict?model={name}", files=files(picture("red"))).json()["model"] == name


def test_request_ids_are_the_clients_where_they_are_harmless(made):
    client = made()
    assert client.get("/v1/models", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/v1/models", headers={"x-request-id": 'a"b'}).headers["x-request-id"] != 'a"b'


def test_metrics(made):
    client = made()
    client.post("/v1/predict", files=files(picture("red"), b"nothing"))
    client.get("/nothing/at/all")
    text = client.get("/metrics").text
    assert 'greffon_pictures_total{model="colours",outcome="answered"} 1.0' in text
    assert 'greffon_pictures_total{model="colours",outcome="unreadable"} 1.0' in text
    assert 'greffon_requests_total{method="POST",route="/v1/predict",status="200"} 1.0' in text
    assert 'greffon_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'greffon_batch_pictures_count{model="colours"} 1.0' in text


def test_the_description_names_both_bodies(made):
    document = made().get("/openapi.json").json()
    bodies = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"multipart/form-data", "application/json"}
    assert "/v2/models/{name}/infer" in document["paths"]
    assert "$defs" not in json.dumps(document)


def test_pictures_with_several_labels(made):
    client = made()
    served = client.service.models.get("colours")
    served.model.several_labels = True
    (none,) = client.post("/v1/predict", files=files(picture("grey"))).json()["predictions"]
    assert none["labels"] == []
    assert none["label"] in NAMES
    served.batcher._run = lambda batch, alone: np.array([[0.9, 0.8, 0.1]] * len(batch))
    (both,) = client.post("/v1/predict", files=files(picture("red"))).json()["predictions"]
    assert both["labels"] == ["red", "green"]
    assert both["sure"] is True

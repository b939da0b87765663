from __future__ import annotations

import base64

import numpy as np
import pytest
from made_up_service import NAMES, SIDE, picture

URL = "/v2/models/colours/infer"


def pixels(*colours):
    return np.stack([np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in colours])


def tensor(array, **changes):
    values = {"name": "pixels", "datatype": "UINT8", "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"inputs": [values | changes]}


def files(*contents):
    data = [base64.b64encode(content).decode() for content in contents]
    return {"inputs": [{"name": "picture", "datatype": "BYTES", "shape": [len(data)], "data": data}]}


def test_health_and_metadata(made):
    client = made()
    assert client.get("/v2").json()["name"] == "greffon"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2/models/colours").json()
    assert metadata["inputs"][1] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}
    assert metadata["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(NAMES)]}
    version = metadata["versions"][0]
    assert client.get(f"/v2/models/colours/versions/{version}").json() == metadata
    assert client.get(f"/v2/models/colours/versions/{version}/ready").json()["ready"] is True
    assert client.get("/v2/models/colours/versions/other").status_code == 404
    assert client.get("/v2/models/other/ready").status_code == 404


@pytest.mark.parametrize("nested", [False, True])
def test_pixels(made, nested):
    array = pixels((255, 0, 0), (0, 0, 255))
    request = tensor(array, data=array.tolist() if nested else array.ravel().tolist()) | {"id": "7"}
    body = made().post(URL, json=request).json()
    assert body["id"] == "7"
    probabilities, label = body["outputs"]
    assert probabilities["shape"] == [2, 3]
    assert np.argmax(np.reshape(probabilities["data"], (2, 3)), axis=1).tolist() == [0, 2]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["red", "blue"]}


def test_files_and_wanted_outputs(made):
    request = files(picture("blue"), picture("red")) | {"outputs": [{"name": "label"}]}
    outputs = made().post(URL, json=request).json()["outputs"]
    assert [one["name"] for one in outputs] == ["label"]
    assert outputs[0]["data"] == ["blue", "red"]


def test_both_protocols_agree(made):
    client = made()
    content = picture((200, 30, 60))
    first = client.post(URL, json=files(content)).json()["outputs"][0]["data"]
    second = client.post("/v1/predict", files={"files": content}).json()["predictions"][0]["scores"]
    assert first == [second[name] for name in NAMES]


RED = pixels((255, 0, 0))


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "inputs"),
        ({"inputs": []}, 400, "inputs"),
        (tensor(RED, name="other"), 400, "inputs.0.name"),
        (tensor(RED, datatype="FP32"), 400, "inputs.0.datatype"),
        (tensor(RED, datatype="BYTES"), 400, "must be UINT8"),
        (tensor(RED, shape=[1, SIDE, SIDE]), 400, "shape of pixels must be"),
        (tensor(RED, shape=[0, SIDE, SIDE, 3]), 400, "n at least 1"),
        (tensor(RED, shape=[2, SIDE, SIDE, 3]), 400, "as many as"),
        (tensor(RED, shape=[2**31, SIDE, SIDE, 3]), 413, "32 pictures"),
        (tensor(RED, data=[1, [2, 3]]), 400, "whole numbers"),
        (tensor(RED, data=["a"] * RED.size), 400, "whole numbers"),
        (tensor(RED, data=[0.5] * RED.size), 400, "whole numbers"),
        (tensor(RED, data=[10**30] * RED.size), 400, "whole numbers"),
        (tensor(RED, data=[256] * RED.size), 400, "0 to 255"),
        (files(b"abc"), 422, "picture 0 cannot be read: is not a picture"),
        ({"inputs": [{"name": "picture", "datatype": "BYTES", "shape": [2], "data": ["YQ=="]}]}, 400, "2 texts"),
        ({"inputs": [{"name": "picture", "datatype": "BYTES", "shape": [1], "data": [1]}]}, 400, "1 texts"),
    ],
)
def test_wrong_requests(made, body, status, text):
    answer = made().post(URL, json=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]

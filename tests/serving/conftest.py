from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_service import load, write_run


def need_service():
    """Skip where the extra `serve` or the client is not installed."""
    for needed in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx2"):
        pytest.importorskip(needed)


class Process:
    """A service in a process of its own."""

    def __init__(self, words, log, environment):
        self.log = log
        self._stream = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("made_up_service.py")), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=self._stream,
            env={**os.environ, "GREFFON_API_KEYS": "", **environment},
        )
        self.address = self.process.stdout.readline().decode().strip()

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        self._stream.close()
        return code


def starter(folder):
    """Starts services in processes of their own; all of them are stopped at the end."""
    need_service()
    started = []

    def start(*words, **environment):
        started.append(Process(words, folder / f"log{len(started)}", environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def start(tmp_path):
    yield from starter(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory):
    yield from starter(tmp_path_factory.mktemp("services"))


@pytest.fixture
def made(tmp_path):
    """Makes a service in this process, with one or more made-up models, and a client for it."""
    need_service()
    from starlette.testclient import TestClient

    from greffon.serving.app import Service
    from greffon.serving.settings import Settings

    clients = []

    def made(*, seconds=0.0, names=("colours",), word="first", **settings):
        runs = {name: write_run(tmp_path / name, seconds, word) for name in names}
        service = Service(runs, Settings(**settings), load)
        client = TestClient(service.app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        client.service = service
        return client

    yield made
    for client in clients:
        client.__exit__(None, None, None)

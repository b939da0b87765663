"""What the documents' code is run on: a folder to stand in, and a server on this machine for what is fetched."""

import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def session_folder(tmp_path, monkeypatch):
    """The current folder of a document's session; nobody's caches, mirrors or proxies decide what it sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("GREFFON_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path


@dataclass
class Mirror:
    """A folder that is served over HTTP, and the paths that were asked for."""

    folder: Path
    address: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on 127.0.0.1 that GREFFON_MIRROR names."""
    served = Mirror(tmp_path / "served")
    served.folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served.folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("GREFFON_MIRROR", served.address)
    yield served
    server.shutdown()
    thread.join()
    server.server_close()

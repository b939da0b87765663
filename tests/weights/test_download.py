"""Fetching, against a server on this machine that behaves as servers do."""

import dataclasses
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from greffon.errors import InputError, WeightFileError
from greffon.weights import download as download_module
from greffon.weights.cache import cache_dir, recorded_sha256, weights_dir
from greffon.weights.download import DownloadError
from greffon.weights.fetch import fetch, fetch_set, obtain, require_cached
from greffon.weights.listing import list_sets
from greffon.weights.sets import WEIGHT_SETS, WeightFile, weight_set

CHUNK = download_module._CHUNK
CONTENT = hashlib.sha256(b"weights").digest() * 20_000  # 640 kB


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `script` holds one behaviour per request, then it behaves well."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.script, self.requests = CONTENT, '"one"', [], []
        self.ranges = True
        self.released = threading.Event()

    def url(self, path="weights.bin", *, host="127.0.0.1", user=""):
        return f"http://{user}{host}:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        behaviour = server.script.pop(0) if server.script else "well"
        getattr(self, f"_{behaviour.partition(' ')[0]}")(behaviour.partition(" ")[2])

    def _well(self, _):
        body, start = self._head()
        self.wfile.write(body[start:])

    def _cut(self, share):
        """The connection breaks in the middle."""
        body, start = self._head()
        self.wfile.write(body[start : start + int(float(share) * (len(body) - start))])
        self.wfile.flush()
        self.close_connection = True

    def _stall(self, share):
        body, start = self._head()
        self.wfile.write(body[start : start + int(float(share) * (len(body) - start))])
        self.wfile.flush()
        self.server.released.wait(20)
        self.close_connection = True

    def _status(self, code):
        self.send_response(int(code))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _silent(self, _):
        self.server.released.wait(20)
        self.close_connection = True

    def _head(self):
        body, tag = self.server.content, self.server.tag
        asked, mark = self.headers.get("Range"), self.headers.get("If-Range")
        start = 0
        if asked and self.server.ranges and mark in {None, tag}:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self._status(416)
                return body, len(body)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        return body, start


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download_module, "_PAUSE", 0.0)
    with _running() as running:
        yield running


@contextmanager
def _running():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def file(server):
    return WeightFile(
        filename="weights.bin",
        url=server.url(),
        size=len(CONTENT),
        md5=hashlib.md5(CONTENT).hexdigest(),
        sha256=None,
        include_top=False,
    )


def _start(number, server):
    """From which byte on the request asked."""
    return int(server.requests[number][1].get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


def _left():
    """What lies in the cache, locks aside."""
    return sorted(it.name for it in weights_dir().iterdir() if it.suffix != ".lock")


def test_a_file_is_fetched_once(server, file):
    seen = []
    path = fetch(file, progress=lambda here, total: seen.append((here, total)))
    assert path == weights_dir() / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [here for here, _ in seen] == sorted(here for here, _ in seen)
    assert fetch(file) == path
    assert len(server.requests) == 1


def test_the_sha256_is_written_down_where_none_was_published(file):
    path = fetch(file)
    assert recorded_sha256(path) == hashlib.sha256(CONTENT).hexdigest()
    assert _left() == ["weights.bin", "weights.bin.sha256"]


def test_a_published_sha256_is_checked_and_nothing_written_down(server, file):
    known = dataclasses.replace(file, md5=None, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert fetch(known).read_bytes() == CONTENT
    assert _left() == ["weights.bin"]
    server.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match="SHA-256 is"):
        fetch(dataclasses.replace(known, filename="other.bin"))


def test_a_published_beginning_of_the_sha256_is_checked_and_the_whole_pinned(server, file):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    known = dataclasses.replace(file, md5=None, size=None, sha256_prefix=sha256[:8])
    path = fetch(known)
    assert recorded_sha256(path) == sha256
    assert known.published_hash == "8 digits of SHA-256"
    server.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match=f"expected one that begins with {sha256[:8]}"):
        fetch(dataclasses.replace(known, filename="other.bin"))
    assert not (weights_dir() / "other.bin").exists()


def test_what_nobody_published_a_hash_of_is_pinned_and_said(server, file, monkeypatch, tmp_path):
    unknown = dataclasses.replace(file, md5=None, size=None)
    _as_set(monkeypatch, unknown)
    assert next(row for row in list_sets() if row.name == "test").verified == "unverified"
    first = fetch_set("test")
    assert first.notes[0].startswith("unverified: nobody published a hash")
    assert first.sha256 in first.notes[0]
    assert next(row for row in list_sets() if row.name == "test").verified == "pinned"
    assert fetch_set("test").notes == (f"{first.path} is here, and its hash is right.",)
    copied = fetch_set("test", tmp_path / "stick")
    assert (copied.sha256, len(server.requests)) == (first.sha256, 1)
    # A file with that name that nobody wrote down is not taken for it.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(b"something")
    first.path.unlink()
    assert fetch_set("test", tmp_path / "elsewhere").path.read_bytes() == CONTENT


def test_a_broken_connection_is_resumed_where_it_stopped(server, file):
    server.script = ["cut 0.4", "cut 0.5"]
    assert fetch(file).read_bytes() == CONTENT
    first, second = int(0.4 * len(CONTENT)), int(0.7 * len(CONTENT))
    starts = [_start(number, server) for number in range(3)]
    assert starts[0] == 0
    assert first - CHUNK < starts[1] <= first
    assert second - CHUNK < starts[2] <= second
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"one"', '"one"']


def test_a_later_call_goes_on_from_what_an_interrupted_one_left(server, file):
    def interrupt(here, total):
        if here > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(file, progress=interrupt)
    assert _left() == ["weights.bin.part", "weights.bin.part.json"]
    assert fetch(file).read_bytes() == CONTENT
    assert len(CONTENT) / 2 < _start(1, server) < len(CONTENT)
    assert _left() == ["weights.bin", "weights.bin.sha256"]


def test_a_file_that_changed_on_the_server_is_started_over(server, file):
    server.script = ["cut 0.4", "status 403"]
    with pytest.raises(InputError):
        fetch(file)
    server.content = bytes(reversed(CONTENT))
    server.tag = '"two"'
    changed = dataclasses.replace(file, md5=hashlib.md5(server.content).hexdigest())
    assert fetch(changed).read_bytes() == server.content


def test_a_server_without_ranges_sends_everything_again(server, file):
    server.script, server.ranges = ["cut 0.4"], False
    assert fetch(file).read_bytes() == CONTENT


def test_a_server_without_marks_is_resumed_because_the_hash_decides(server, file):
    server.script, server.tag = ["cut 0.4"], None
    assert fetch(file).read_bytes() == CONTENT
    assert _start(1, server) > 0


def test_without_mark_and_hash_nothing_is_resumed(server, file):
    server.script, server.tag = ["cut 0.4"], None
    assert fetch(dataclasses.replace(file, md5=None, size=None)).read_bytes() == CONTENT
    assert "Range" not in server.requests[1][1]


def test_halves_of_two_versions_are_noticed_and_fetched_again(server, file):
    weights_dir().mkdir(parents=True)
    (weights_dir() / "weights.bin.part").write_bytes(bytes(1000))
    server.tag = None
    assert fetch(file).read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=1000-", None]


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_that_is_all_there_already(server, file, extra):
    weights_dir().mkdir(parents=True)
    (weights_dir() / "weights.bin.part").write_bytes(CONTENT + bytes(extra))
    assert fetch(file).read_bytes() == CONTENT


def test_a_wrong_hash_is_not_kept(server, file):
    server.content = bytes(len(CONTENT))
    with pytest.raises(InputError, match=r"not the file that was published \(MD5 is .*; it was not kept"):
        fetch(file)
    assert _left() == []


def test_a_page_in_place_of_the_file_is_not_kept(server, file):
    server.content = b"<html>Please log in</html>"
    with pytest.raises(InputError, match="a file of 26 bytes, expected 640,000"):
        fetch(file)
    assert _left() == []


def test_a_connection_that_always_breaks_ends_in_a_clear_error(server, file):
    server.script = ["cut 0.1"] * 20
    with pytest.raises(InputError, match=r"the connection (broke|ended)"):
        fetch(file)
    assert len(server.requests) == download_module._ATTEMPTS
    assert _left() == ["weights.bin.part", "weights.bin.part.json"]


def test_redirects_are_followed(server, file):
    server.script = [f"redirect {server.url('elsewhere.bin')}"]
    assert fetch(file).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/weights.bin", "/elsewhere.bin"]


def test_a_password_is_not_taken_to_another_host(server, file, monkeypatch, capsys):
    with _running() as other:
        server.script = [f"redirect {other.url(host='localhost')}"]
        monkeypatch.setenv("GREFFON_MIRROR", server.url("", user="anna:secret@"))
        assert fetch(file).read_bytes() == CONTENT
        assert server.requests[0][1]["Authorization"].startswith("Basic ")
        assert [path for path, _ in other.requests] == ["/weights.bin"]
        assert "Authorization" not in other.requests[0][1]


def test_a_password_is_neither_shown_nor_written_down(server, file, monkeypatch):
    monkeypatch.setenv("GREFFON_MIRROR", server.url("", user="anna:secret@"))
    server.script = ["cut 0.5", "status 403"]
    with pytest.raises(InputError) as error:
        fetch(file)
    assert f"127.0.0.1:{server.server_port}/weights.bin" in str(error.value)
    assert "secret" not in str(error.value)
    written = [path.read_text(errors="replace") for path in weights_dir().iterdir() if path.suffix == ".json"]
    assert len(written) == 1
    assert "secret" not in written[0]
    assert fetch(file).read_bytes() == CONTENT
    assert _start(2, server) > 0, "and still it is resumed"


def test_a_mirror_with_a_password_that_is_no_address(file, monkeypatch):
    monkeypatch.setenv("GREFFON_MIRROR", "ftp://anna:secret@mirror.example.org")
    with pytest.raises(InputError, match=r"got 'ftp://mirror\.example\.org'"):
        fetch(file)


def test_a_redirect_out_of_encryption_is_refused(server, monkeypatch):
    import requests

    def get(url, **options):
        return requests.Session().get(server.url(), **options)  # where a redirect from https led

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(DownloadError, match="redirects to an address without encryption: http://127"):
        download_module._ask("https://weights.example.org/weights.bin", 0, None)


def test_a_proxy_is_used(server, file, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    far = dataclasses.replace(file, url="http://weights.example.invalid/weights.bin")
    assert fetch(far).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["http://weights.example.invalid/weights.bin"]


def test_no_proxy_for_hosts_that_want_none(server, file, monkeypatch):
    with Server() as closed:
        gone = closed.url("")
    monkeypatch.setenv("HTTP_PROXY", gone)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(file).read_bytes() == CONTENT
    assert server.requests[0][0] == "/weights.bin"


def test_a_proxy_that_is_not_there(file, monkeypatch):
    with Server() as closed:
        gone = closed.url("")
    monkeypatch.setenv("HTTP_PROXY", gone)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    far = dataclasses.replace(file, url="http://weights.example.invalid/weights.bin")
    with pytest.raises(InputError, match="the proxy that HTTPS_PROXY or HTTP_PROXY names"):
        fetch(far)


def test_endless_redirects_end(server, file):
    server.script = [f"redirect {server.url()}"] * 100
    with pytest.raises(InputError, match="the server only redirects"):
        fetch(file)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (401, "wants a name and a password"),
        (403, "Ask whoever runs the network to allow it"),
        (404, "not there, or no longer"),
        (407, "the proxy wants a name and a password"),
        (418, ""),
    ],
)
def test_a_refusal_is_not_asked_again(server, file, code, advice):
    server.script = [f"status {code}"] * 20
    with pytest.raises(InputError, match=f"the server answered {code} .*{advice}"):
        fetch(file)
    assert len(server.requests) == 1


def test_a_server_that_is_busy_is_asked_again(server, file):
    server.script = ["status 503", "status 429"]
    assert fetch(file).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_server_that_does_not_answer(server, file, monkeypatch):
    monkeypatch.setattr(download_module, "_TIMEOUT", (5.0, 0.2))
    server.script = ["silent"] * 20
    with pytest.raises(InputError, match="did not answer in time"):
        fetch(file)


def test_a_server_that_stalls_is_asked_for_the_rest(server, file, monkeypatch):
    monkeypatch.setattr(download_module, "_TIMEOUT", (5.0, 0.5))
    server.script = ["stall 0.5"]
    assert fetch(file).read_bytes() == CONTENT
    assert 0 < _start(1, server) <= len(CONTENT) // 2


def test_offline_one_error_says_everything(server, file):
    with Server() as closed:
        gone = closed.url()
    with pytest.raises(InputError) as error:
        fetch(dataclasses.replace(file, url=gone))
    message = str(error.value)
    assert error.value.exit_code == 2
    for part in (
        "weights.bin",
        gone,
        "the server cannot be reached",
        "640,000 bytes",
        file.md5,
        str(weights_dir()),
        "--weights thin",
        "GREFFON_MIRROR",
    ):
        assert part in message


def test_a_file_put_there_by_hand_is_checked_and_used(server, file):
    weights_dir().mkdir(parents=True)
    by_hand = weights_dir() / "weights.bin"
    by_hand.write_bytes(CONTENT)
    assert fetch(file) == by_hand
    assert server.requests == []


def test_a_wrong_file_put_there_by_hand_is_replaced_when_fetched(server, file, monkeypatch):
    _as_set(monkeypatch, file)
    weights_dir().mkdir(parents=True)
    (weights_dir() / "weights.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightFileError, match="not the one that was published: size is 639999"):
        require_cached("test")
    fetched = fetch_set("test")
    assert fetched.path.read_bytes() == CONTENT
    assert any("It was replaced" in note for note in fetched.notes)


def test_a_file_that_changed_since_it_was_fetched_is_not_used(file, monkeypatch):
    unknown = dataclasses.replace(file, md5=None)
    _as_set(monkeypatch, unknown)
    path = fetch(unknown)
    path.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(WeightFileError, match="was written down when it was fetched"):
        require_cached("test")


def test_what_keras_fetched_before_is_used(server, file, tmp_path):
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    (models / "weights.bin").write_bytes(bytes(len(CONTENT)))
    assert fetch(file) == weights_dir() / "weights.bin", "a wrong file of Keras' is passed over"
    (weights_dir() / "weights.bin").unlink()
    (models / "weights.bin").write_bytes(CONTENT)
    assert fetch(file) == models / "weights.bin"
    assert len(server.requests) == 1


def test_what_pytorch_and_the_hub_fetched_before_is_used(server, file, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    torch = dataclasses.replace(file, md5=None, sha256_prefix=sha256[:8])
    hub = dataclasses.replace(file, url="https://huggingface.co/timm/some.a1/resolve/main/x", md5=None, sha256=sha256)
    for known, path in (
        (torch, tmp_path / "torch" / "hub" / "checkpoints" / "weights.bin"),
        (hub, tmp_path / "hf" / "hub" / "models--timm--some.a1" / "blobs" / sha256),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert fetch(known) == path
        path.write_bytes(CONTENT[::-1])
        monkeypatch.setenv("GREFFON_MIRROR", server.url(""))
        assert fetch(known) == weights_dir() / "weights.bin", "a wrong one is passed over"
        (weights_dir() / "weights.bin").unlink()
        monkeypatch.delenv("GREFFON_MIRROR")
    path.write_bytes(CONTENT)
    assert fetch(hub, folder=tmp_path / "stick").name == "weights.bin"


def test_a_mirror(server, file, monkeypatch):
    monkeypatch.setenv("GREFFON_MIRROR", server.url("mirror/keras/"))
    assert fetch(dataclasses.replace(file, url="https://example.invalid/a/b/weights.bin")).read_bytes() == CONTENT
    assert server.requests[0][0] == "/mirror/keras/weights.bin"


def test_a_mirror_that_is_no_address(file, monkeypatch):
    monkeypatch.setenv("GREFFON_MIRROR", "mirror.example.org")
    with pytest.raises(InputError, match="GREFFON_MIRROR must be an address"):
        fetch(file)


def test_two_at_once_fetch_it_once(server, file):
    paths, barrier = [], threading.Barrier(4)

    def work():
        barrier.wait()
        paths.append(fetch(file))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [weights_dir() / "weights.bin"] * 4
    assert paths[0].read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_no_room(file, monkeypatch):
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match="0 MB free, 1 MB are needed"):
        fetch(file)


def test_a_folder_that_cannot_be_made(file, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"cannot be made.*GREFFON_CACHE"):
        fetch(file, folder=tmp_path / "taken" / "inside")


def _as_set(monkeypatch, *files):
    record = dataclasses.replace(weight_set("imagenet"), name="test", files=files)
    monkeypatch.setitem(WEIGHT_SETS, "test", record)
    return record


def test_fetch_set_into_a_folder_for_another_machine(server, file, monkeypatch, tmp_path):
    _as_set(
        monkeypatch, file, dataclasses.replace(file, filename="top.bin", url=server.url("top.bin"), include_top=True)
    )
    first = fetch_set("test", tmp_path / "stick")
    assert first.path == tmp_path / "stick" / "weights.bin"
    assert (first.size, first.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert "was written down beside it" in first.notes[0]
    assert not weights_dir().exists()
    assert fetch_set("test", include_top=True).path == weights_dir() / "top.bin"
    again = fetch_set("test", tmp_path / "other", include_top=True)
    assert again.path.read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/weights.bin", "/top.bin"]


def test_fetch_set_of_what_needs_no_fetching(tmp_path):
    assert fetch_set("thin").path == require_cached("thin")
    copied = fetch_set("thin", tmp_path).path
    assert copied.read_bytes() == require_cached("thin").read_bytes()
    with pytest.raises(InputError, match="'none' has no file"):
        fetch_set("none")


def test_training_stops_with_both_ways_on():
    with pytest.raises(InputError) as error:
        require_cached("imagenet")
    assert "greffon weights fetch imagenet" in str(error.value)
    assert "--weights thin" in str(error.value)
    assert "94,765,736 bytes" in str(error.value)
    assert error.value.exit_code == 2
    assert require_cached("none") is None


def test_the_file_with_the_top_will_do_without(server, file, monkeypatch):
    top = dataclasses.replace(file, filename="top.bin", url=server.url("top.bin"), include_top=True)
    record = _as_set(monkeypatch, file, top)
    path = fetch(top)
    assert obtain(record).path == path
    assert require_cached("test") == path
    assert len(server.requests) == 1
    with pytest.raises(InputError):
        require_cached("imagenet")


def test_the_list_of_sets(server, file, monkeypatch):
    _as_set(monkeypatch, file)
    rows = {row.name: row for row in list_sets()}
    assert (rows["test"].cached, rows["test"].path, rows["test"].sha256) == (False, None, None)
    assert (rows["thin"].cached, rows["none"].cached, rows["imagenet"].cached) == (True, True, False)
    assert rows["imagenet"].size == 94_765_736
    fetch(file)
    row = next(row for row in list_sets() if row.name == "test")
    assert row.cached
    assert row.sha256 == hashlib.sha256(CONTENT).hexdigest()
    row.path.write_bytes(b"broken")
    row = next(row for row in list_sets() if row.name == "test")
    assert not row.cached
    assert "not the one that was published" in row.problem


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("GREFFON_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir().name.lower() == "greffon" or "greffon" in str(cache_dir()).lower()
    assert not cache_dir().exists(), "asking for it makes nothing"

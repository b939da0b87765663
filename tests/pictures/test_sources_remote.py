"""Pictures behind addresses: a server of this machine, fsspec's memory, and what is said when a package is missing."""

from __future__ import annotations

import io
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from picture_folders import picture
from test_sources_shards import samples, shard

from greffon.errors import DataError, InputError
from greffon.pictures.sources import remote
from greffon.pictures.sources.choose import catalog_of
from greffon.pictures.sources.locate import read_bytes, stamp


def png(number):
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


class Site(ThreadingHTTPServer):
    """Files by their paths, and what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.asked, self.versions = {}, [], {}
        self.told, self.head, self.cut, self.broken = True, True, 0, 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path, content):
        self.files[path] = content
        self.versions[path] = self.versions.get(path, 0) + 1


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        if self.server.head:
            self.answer()
        else:
            self.send_error(405)

    def do_GET(self):
        content = self.answer()
        if content:
            self.wfile.write(content[: len(content) - self.server.cut])
        self.close_connection = self.close_connection or bool(self.server.cut)

    def answer(self):
        path, server = self.path.partition("?")[0], self.server
        server.asked.append((self.command, path))
        if server.broken:
            server.broken -= 1
            self.send_error(503)
            return None
        content = server.files.get(path)
        if content is None:
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if server.told:
            self.send_header("Last-Modified", formatdate(1e9 + server.versions[path], usegmt=True))
        self.end_headers()
        return content


@pytest.fixture
def site():
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def pictures(site):
    for number in range(4):
        site.put(f"/p/{number}.png", png(number))
    site.put("/p/labels.csv", b"url,label\n0.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n")
    return site


def gets(site):
    return [path for command, path in site.asked if command == "GET"]


def test_a_table_of_addresses(pictures, tmp_path):
    rows = [f"{pictures.address}/p/{i}.png?token=x,{'ab'[i % 2]}" for i in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["url,label", *rows, f"{pictures.address}/gone.png,a"]))
    catalog = catalog_of(tmp_path / "a.csv")
    assert catalog.counts() == {"a": 2, "b": 2}
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)] == [png(i) for i in range(4)]
    assert catalog.ok["path"][0] == f"{pictures.address}/p/0.png?token=x"
    assert catalog.quarantined["reason"].to_list() == ["cannot be read: there is no such file"]
    assert "1 file is not there and left out" in catalog.notes[0]
    assert sorted(gets(pictures)) == [f"/p/{i}.png" for i in range(4)]  # each once, though read twice


def test_a_table_on_a_server_with_paths_beside_it(pictures):
    catalog = catalog_of(f"{pictures.address}/p/labels.csv")
    assert catalog.ok["path"][3] == f"{pictures.address}/p/3.png"
    assert catalog.counts() == {"cat": 2, "dog": 2}


def test_what_was_fetched_is_kept_until_it_changes(pictures):
    address = f"{pictures.address}/p/0.png"
    first = stamp(address)
    assert read_bytes(address) == read_bytes(address) == png(0)
    remote._told.clear()  # as in another process
    assert read_bytes(address) == png(0)
    assert len(gets(pictures)) == 1
    pictures.put("/p/0.png", png(9))
    assert stamp(address) not in (first, None)
    assert read_bytes(address) == png(9)
    assert len(gets(pictures)) == 2
    assert len(list(remote.remote_dir().rglob("*.png"))) == 1  # the older copy is gone


def test_a_server_that_tells_nothing_is_asked_once_in_each_process(pictures):
    pictures.told = pictures.head = False
    address = f"{pictures.address}/p/1.png"
    assert stamp(address) is None
    assert read_bytes(address) == read_bytes(address) == png(1)
    assert len(gets(pictures)) == 1
    remote._fetched.clear()
    assert read_bytes(address) == png(1)
    assert len(gets(pictures)) == 2


def test_an_answer_that_is_cut_is_no_picture(pictures):
    pictures.cut = 20
    with pytest.raises(OSError, match=r"/p/0.png"):
        read_bytes(f"{pictures.address}/p/0.png")
    assert not [file for file in remote.remote_dir().rglob("*") if file.is_file()]


def test_a_server_that_is_busy_is_asked_again_and_one_that_is_not_there_named(pictures, site):
    site.broken = 2
    assert read_bytes(f"{pictures.address}/p/2.png") == png(2)
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{pictures.address}/absent.png")
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/a.png cannot be fetched"):
        read_bytes("http://127.0.0.1:9/a.png")


def test_a_file_that_is_too_long_is_not_fetched(pictures, monkeypatch):
    monkeypatch.setattr(remote, "MAX_BYTES", 100)
    with pytest.raises(OSError, match="is too long"):
        read_bytes(f"{pictures.address}/p/0.png")
    pictures.told = pictures.head = False
    with pytest.raises(OSError, match="is too long"):
        read_bytes(f"{pictures.address}/p/1.png")


def test_shards_on_a_server(site, tmp_path):
    for number in range(2):
        site.put(f"/x-{number}.tar", shard(tmp_path / "a.tar", samples(10 * number, 2)).read_bytes())
    catalog = catalog_of(f"{site.address}/x-{{0..1}}.tar")
    assert catalog.ok["path"].to_list()[-1] == f"{site.address}/x-1.tar::0011.png"
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)][-1] == png(11)
    assert gets(site) == ["/x-0.tar", "/x-1.tar"]
    with pytest.raises(InputError, match=r"x-2.tar cannot be read: there is no such file"):
        catalog_of(f"{site.address}/x-2.tar")
    with pytest.raises(InputError, match="a folder cannot be listed over HTTP"):
        catalog_of(f"{site.address}/folder/")


@pytest.fixture
def memory():
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    remote._told.clear()
    yield system
    system.store.clear()


def test_class_folders_in_memory(memory):
    for number, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/2.png", ".x/1.png", "notes.txt")):
        memory.pipe(f"/data/{name}", png(number))
    catalog = catalog_of("memory://data")
    assert catalog.counts() == {"cat": 2, "dog": 2}
    assert catalog.ok["path"][0] == "memory://data/cat/1.png"
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)] == [png(i) for i in range(4)]
    assert sorted(catalog.ignored["reason"]) == ["hidden", "not a picture by its name (.txt)"]
    for number, name in enumerate(("train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "3.png")):
        memory.pipe(f"/split/{name}", png(number))
    catalog = catalog_of("memory://split/")
    assert catalog.counts("train") == catalog.counts("val") == {"a": 1, "b": 1}
    with pytest.raises(InputError, match="there is nothing"):
        catalog_of("memory://absent")
    memory.pipe("/flat/1.png", png(0))
    with pytest.raises(DataError, match=r"one folder of pictures per class .*got 1 files and no folders"):
        catalog_of("memory://flat")


def test_tables_and_shards_in_memory(memory, tmp_path):
    for number in range(2):
        memory.pipe(f"/s/a-{number}.tar", shard(tmp_path / "a.tar", samples(10 * number, 2)).read_bytes())
        memory.pipe(f"/t/{number}.png", png(number))
    for address in ("memory://s", "memory://s/*.tar", "memory://s/a-{0..1}.tar"):
        assert catalog_of(address).counts() == {"cat": 2, "dog": 2}
    memory.pipe("/t/labels.csv", b"path,label\n0.png,a\nmemory://t/1.png,b\n")
    catalog = catalog_of("memory://t/labels.csv")
    assert [read_bytes(place) for place in catalog.locators(catalog.ok)] == [png(0), png(1)]
    changed = stamp("memory://t/0.png")
    memory.pipe("/t/0.png", png(7))
    assert stamp("memory://t/0.png") not in (changed, None)
    assert read_bytes("memory://t/0.png") == png(7)


def test_a_file_address_is_the_file(tmp_path):
    (tmp_path / "a b.png").write_bytes(png(0))
    (tmp_path / "c.png").write_bytes(png(1))
    base = tmp_path.as_posix()
    (tmp_path / "t.csv").write_text(f"url,label\nfile://{base}/a%20b.png,a\nfile://{base}/c.png,b\n")
    assert len(catalog_of(f"file://{base}/t.csv").ok) == 2


def test_addresses_that_are_not_known_and_packages_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs the package fsspec \(pip install fsspec\)"):
        catalog_of("s3://bucket/data")
    monkeypatch.undo()
    pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"s3:// needs another package.*pip install s3fs"):
        catalog_of("s3://bucket/data")
    with pytest.raises(InputError, match="memry:// is not known; did you mean 'memory'"):
        catalog_of("memry://data")
    (tmp_path / "a.csv").write_text("url,label\ns3://bucket/a.png,a\ns3://bucket/b.png,b\n")
    with pytest.raises(InputError, match="pip install s3fs"):
        catalog_of(tmp_path / "a.csv")

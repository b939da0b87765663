import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greffon.errors import GreffonError, InputError
from greffon.frozen import environment, store, transaction
from greffon.frozen.folder import network_filesystem
from greffon.frozen.records import disk_bytes
from greffon.frozen.store import ActivationStore

TRUNK = b"t" * 16
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, limits or permissions")


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def keys(*numbers) -> list[bytes]:
    return [key(number) for number in numbers]


def rows(*numbers, shape=(1000,), dtype="float32") -> np.ndarray:
    """Row i is filled with numbers[i], so that a wrong row is seen."""
    return np.stack([np.full(shape, number, dtype) for number in numbers])


@pytest.fixture
def opened(tmp_path):
    with ActivationStore(tmp_path / "store") as store:
        yield store


def command(script: str, *arguments) -> list[str]:
    source = "import sys, numpy as np\nfrom greffon.frozen.store import ActivationStore\n" + textwrap.dedent(script)
    return [sys.executable, "-W", "error", "-c", source, *map(str, arguments)]


def run(script: str, *arguments) -> None:
    subprocess.run(command(script, *arguments), check=True)


@contextlib.contextmanager
def started(script: str, *arguments):
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(script, *arguments), stdin=pipe, stdout=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# Reading and writing


def test_what_was_put_comes_back_in_the_order_of_the_keys(opened):
    trunk = opened.trunk(TRUNK)
    first = rows(1, 2, 3, shape=(3, 5, 7), dtype="float16")
    second = rows(10, 20, 30, shape=(11,), dtype="float32")
    third = rows(100, 200, 255, shape=(), dtype="uint8")
    assert trunk.put_many(keys(1, 2, 3), (first, second, third)) == 3

    (a, b, c), found = trunk.get_many(keys(3, 9, 1))

    assert found.tolist() == [True, False, True]
    np.testing.assert_array_equal(a, first[[2, 0]])
    np.testing.assert_array_equal(b, second[[2, 0]])
    np.testing.assert_array_equal(c, third[[2, 0]])
    assert (a.dtype, b.dtype, c.dtype) == (np.float16, np.float32, np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "uint8", "int32", "complex64", "bool"]),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_any_tensors_come_back_bit_equal(tmp_path_factory, shapes, dtype, count, seed):
    rng = np.random.default_rng(seed)
    arrays = []
    for shape in shapes:
        values = np.frombuffer(rng.bytes(int(np.prod(shape)) * count * np.dtype(dtype).itemsize), "u1") & 1
        arrays.append(values.view(dtype).reshape(count, *shape))
    numbers = rng.permutation(count)
    with ActivationStore(tmp_path_factory.mktemp("store")) as opened:
        trunk = opened.trunk(TRUNK)
        trunk.put_many(keys(*range(count)), arrays)
        back, found = trunk.get_many(keys(*map(int, numbers)))
    assert found.all()
    for array, copy in zip(arrays, back, strict=True):
        assert array[numbers].tobytes() == copy.tobytes()


def test_arrays_that_are_not_contiguous_are_stored_as_they_read(opened):
    trunk = opened.trunk(TRUNK)
    array = np.arange(48, dtype="float32").reshape(4, 3, 4).transpose(0, 2, 1)[::2]
    trunk.put_many(keys(0, 1), (array,))
    np.testing.assert_array_equal(trunk.get_many(keys(0, 1))[0][0], array)


def test_missing_gives_indices_and_knows_nothing_of_other_trunks(opened):
    trunk = opened.trunk(TRUNK)
    assert trunk.missing(keys(1, 2)).tolist() == [0, 1]
    trunk.put_many(keys(2, 4), (rows(2, 4),))
    assert trunk.missing(keys(1, 2, 3, 4)).tolist() == [0, 2]
    assert opened.trunk(b"u" * 16).missing(keys(2, 4)).tolist() == [0, 1]
    assert trunk.missing([]).tolist() == []


def test_an_unknown_trunk_gives_no_arrays(opened):
    arrays, found = opened.trunk(TRUNK).get_many(keys(1, 2))
    assert arrays == ()
    assert found.tolist() == [False, False]


def test_read_into_leaves_rows_without_a_record_alone(opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1, 3), (rows(1, 3),))
    out = np.full((5, 1000), -1, "float32")
    assert trunk.read_into(keys(1, 2, 3), [out]).tolist() == [True, False, True]
    np.testing.assert_array_equal(out, rows(1, -1, 3, -1, -1))


def test_a_record_that_is_there_is_left_alone(opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1), (rows(1),))
    assert trunk.put_many(keys(1, 1, 2), (rows(7, 8, 2),)) == 3
    np.testing.assert_array_equal(trunk.get_many(keys(1, 2))[0][0], rows(1, 2))
    assert opened.info()[0].entries == 2


def test_it_is_all_there_when_opened_again(tmp_path):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1, 2), (rows(1, 2),))
    with ActivationStore(tmp_path, readonly=True) as again:
        np.testing.assert_array_equal(again.trunk(TRUNK).get_many(keys(2, 1))[0][0], rows(2, 1))


def test_a_closed_store_opens_itself_when_it_is_used_again(opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1), (rows(1),))
    opened.close()
    assert trunk.missing(keys(1)).tolist() == []


def test_large_batches_are_written_in_several_transactions(opened, monkeypatch):
    monkeypatch.setattr("greffon.frozen.stored_trunk._MOST_WRITTEN", 10_000)
    numbers = range(25)
    assert opened.trunk(TRUNK).put_many(keys(*numbers), (rows(*numbers),)) == 25
    np.testing.assert_array_equal(opened.trunk(TRUNK).get_many(keys(*numbers))[0][0], rows(*numbers))


@pytest.mark.parametrize(
    "arrays",
    [
        (rows(1, shape=(999,)),),
        (rows(1, dtype="float16"),),
        (rows(1), rows(1)),
    ],
)
def test_other_tensors_than_the_stored_ones_are_refused(opened, arrays):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1), (rows(1),))
    for handle in (trunk, opened.trunk(TRUNK)):
        with pytest.raises(InputError, match="is stored as float32 1000; got arrays for"):
            handle.put_many(keys(2), arrays)
        with pytest.raises(InputError, match="is stored as float32 1000; got arrays for"):
            handle.read_into(keys(1), arrays)
    assert trunk.missing(keys(1, 2)).tolist() == [1]


def test_wrong_arguments_are_refused(opened, tmp_path):
    trunk = opened.trunk(TRUNK)
    with pytest.raises(InputError, match=r"digest of a sample must be 16 bytes, got b'short'"):
        trunk.put_many([b"short"], (rows(1),))
    with pytest.raises(InputError, match="digest of a trunk must be 16 bytes"):
        opened.trunk(b"short")
    with pytest.raises(InputError, match=r"expected 2 rows, one per key, got \[1\]"):
        trunk.put_many(keys(1, 2), (rows(1),))
    with pytest.raises(InputError, match="numeric numpy dtype, got object"):
        trunk.put_many(keys(1), (np.array([[None]]),))
    with pytest.raises(InputError, match="at least one tensor"):
        trunk.put_many(keys(1), ())
    trunk.put_many(keys(1, 2), (rows(1, 2),))
    with pytest.raises(InputError, match=r"at least 2 rows, got \[1\]"):
        trunk.read_into(keys(1, 2), (rows(0),))
    with pytest.raises(InputError, match="limit_bytes must be 0 or more, got -1"):
        ActivationStore(tmp_path, limit_bytes=-1)


# Info, deleting, clearing


def test_info_says_what_is_kept_the_last_used_first(opened):
    opened.trunk(TRUNK, label="thin, float16").put_many(
        keys(1, 2), (rows(1, 2, shape=(7, 7, 16), dtype="float16"), rows(1, 2))
    )
    opened.trunk(b"u" * 16).put_many(keys(1), (rows(1),))
    last, first = opened.info()
    assert (last.digest, last.label, last.entries) == (b"u" * 16, "", 1)
    assert (first.digest, first.label, first.entries) == (TRUNK, "thin, float16", 2)
    assert [str(spec) for spec in first.tensors] == ["float16 7x7x16", "float32 1000"]
    assert first.size_bytes >= 2 * (7 * 7 * 16 * 2 + 4000)
    assert first.last_used <= last.last_used


def page_bytes_in_use(opened) -> int:
    """What the records take in the file, without pages that are waiting to be used again."""
    pages = opened.read(lambda transaction: transaction.raw.stat(transaction.entries), None)
    return pages["psize"] * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"])


def test_bytes_are_what_the_file_grows_by(opened):
    trunk = opened.trunk(TRUNK)
    rng = np.random.default_rng(0)
    for start in range(0, 600, 60):
        trunk.put_many([rng.bytes(16) for _ in range(60)], (rows(*range(start, start + 60)),))
    assert opened.info()[0].size_bytes == pytest.approx(page_bytes_in_use(opened), rel=0.1)


def test_small_records_are_counted_with_their_share_of_the_tree(opened):
    trunk = opened.trunk(TRUNK)
    rng = np.random.default_rng(0)
    for _ in range(20):
        trunk.put_many([rng.bytes(16) for _ in range(200)], (np.zeros((200, 60), "float32"),))
    assert opened.info()[0].size_bytes == pytest.approx(page_bytes_in_use(opened), rel=0.25)


def test_delete_many_says_how_many_there_were(opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1, 2, 3), (rows(1, 2, 3),))
    full = opened.info()[0].size_bytes
    assert trunk.delete_many(keys(2, 9)) == 1
    assert trunk.missing(keys(1, 2, 3)).tolist() == [1]
    assert opened.info()[0].entries == 2
    assert opened.info()[0].size_bytes == full * 2 // 3
    assert trunk.delete_many(keys(1, 3)) == 2
    assert opened.info() == []


def test_an_emptied_trunk_may_get_other_tensors(opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1), (rows(1),))
    trunk.delete_many(keys(1))
    assert opened.trunk(TRUNK).put_many(keys(1), (rows(1, dtype="float16"),)) == 1


def test_clearing_one_trunk_keeps_the_others(opened, monkeypatch):
    monkeypatch.setattr(transaction, "MOST_DELETED", 3)
    one, other = opened.trunk(TRUNK), opened.trunk(b"u" * 16)
    one.put_many(keys(*range(10)), (rows(*range(10)),))
    other.put_many(keys(1), (rows(1),))
    size = opened.info()[1].size_bytes
    assert opened.clear(TRUNK) == size
    assert len(one.missing(keys(*range(10)))) == 10
    assert other.missing(keys(1)).tolist() == []
    assert opened.clear(TRUNK) == 0


@pytest.mark.parametrize("which", [None, TRUNK])
def test_the_file_shrinks_when_nothing_is_left(opened, which):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(*range(300)), (rows(*range(300)),))
    assert opened.file_bytes > 300 * 4000
    assert opened.clear(which) >= 300 * 4000
    assert opened.file_bytes < 100_000
    assert trunk.put_many(keys(1), (rows(1),)) == 1
    np.testing.assert_array_equal(trunk.get_many(keys(1))[0][0], rows(1))


@posix
def test_clearing_beside_another_process_empties_the_store_under_both(tmp_path):
    with ActivationStore(tmp_path) as opened:
        trunk = opened.trunk(TRUNK)
        trunk.put_many(keys(1, 2), (rows(1, 2),))
        script = """
            trunk = ActivationStore(sys.argv[1]).trunk(b"t" * 16)
            one = (1).to_bytes(16, "little")
            print(len(trunk.missing([one])), flush=True)
            input()
            print(len(trunk.missing([one])), trunk.put_many([one], [np.ones((1, 1000), "float32")]), flush=True)
            input()
            """
        with started(script, tmp_path) as other:
            assert other.stdout.readline() == "0\n"
            assert opened.clear() > 0
            assert opened.file_bytes > 8000  # not deleted under the other's feet
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "1 1\n"
            assert trunk.missing(keys(1, 2)).tolist() == [1]  # both still look at the same store
            assert ActivationStore.erase(tmp_path) > 0
            assert trunk.missing(keys(1, 2)).tolist() == [0, 1]
            other.communicate("\n")
            assert other.returncode == 0


def test_erase_deletes_whatever_lies_there(tmp_path):
    assert ActivationStore.erase(tmp_path / "absent") == 0
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    size = (tmp_path / "data.mdb").stat().st_size
    assert ActivationStore.erase(tmp_path) == size
    assert not (tmp_path / "data.mdb").exists()


# The limit


def size_of(shape=(1000,), dtype="float32", page=4096) -> int:
    return disk_bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize + 8, page)


@pytest.fixture
def each(opened):
    """What one of the records of `rows` takes here."""
    opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    size = opened.info()[0].size_bytes
    opened.clear()
    return size


def test_beyond_the_limit_rows_are_not_stored(tmp_path, each):
    with ActivationStore(tmp_path / "limited", limit_bytes=3 * each + each // 2) as limited:
        trunk = limited.trunk(TRUNK)
        assert trunk.put_many(keys(1, 2), (rows(1, 2),)) == 2
        assert trunk.put_many(keys(1, 3, 4, 2), (rows(1, 3, 4, 2),)) == 2
        assert trunk.missing(keys(1, 2, 3, 4)).tolist() == [3]
        assert trunk.put_many(keys(5), (rows(5),)) == 0
        assert trunk.put_many(keys(1, 2, 3), (rows(1, 2, 3),)) == 3  # are there already
        assert limited.info()[0].size_bytes == 3 * each


def test_nothing_is_kept_under_a_limit_of_zero(tmp_path):
    with ActivationStore(tmp_path, limit_bytes=0) as limited:
        assert limited.trunk(TRUNK).put_many(keys(1), (rows(1),)) == 0
        assert limited.info() == []


def test_the_least_recently_used_other_trunk_makes_room(tmp_path, each):
    with ActivationStore(tmp_path / "limited", limit_bytes=6 * each) as limited:
        first, second = limited.trunk(b"1" * 16), limited.trunk(b"2" * 16)
        first.put_many(keys(1, 2), (rows(1, 2),))
        second.put_many(keys(1, 2, 3), (rows(1, 2, 3),))
        limited.trunk(b"1" * 16).get_many(keys(1))  # reading is using

        third = limited.trunk(b"3" * 16)
        assert third.put_many(keys(1, 2, 3), (rows(1, 2, 3),)) == 3
        assert first.missing(keys(1, 2)).tolist() == []
        assert len(second.missing(keys(1, 2, 3))) == 2  # only as many as were needed
        assert third.put_many(keys(4, 5, 6), (rows(4, 5, 6),)) == 3
        assert limited.trunk(b"3" * 16).put_many(keys(7), (rows(7),)) == 0  # never its own
        assert [info.entries for info in limited.info()] == [6]


def test_a_modest_trunk_takes_no_room_of_what_is_in_use(tmp_path, each, monkeypatch):
    with ActivationStore(tmp_path / "limited", limit_bytes=4 * each) as limited:
        limited.trunk(b"1" * 16).put_many(keys(1, 2, 3), (rows(1, 2, 3),))
        modest = limited.trunk(b"2" * 16, modest=True)
        assert modest.put_many(keys(1, 2), (rows(1, 2),)) == 1
        assert len(limited.trunk(b"1" * 16).missing(keys(1, 2, 3))) == 0
        monkeypatch.setattr(store, "_RECENT_SECONDS", -1.0)  # an hour later
        assert modest.put_many(keys(1, 2), (rows(1, 2),)) == 2
        assert len(limited.trunk(b"1" * 16).missing(keys(1, 2, 3))) == 1


def test_two_sessions_do_not_push_each_other_out_for_ever(tmp_path, each):
    with ActivationStore(tmp_path / "limited", limit_bytes=4 * each) as limited:
        one, other = limited.trunk(b"1" * 16), limited.trunk(b"2" * 16)
        numbers = range(4)
        assert one.put_many(keys(*numbers), (rows(*numbers),)) == 4
        assert other.put_many(keys(0, 1), (rows(0, 1),)) == 2
        lost = one.missing(keys(*numbers))
        assert len(lost) == 2
        for _ in range(3):
            assert one.put_many([key(int(i)) for i in lost], (rows(*map(int, lost)),)) == 0
            assert other.missing(keys(0, 1)).tolist() == []


def test_room_of_deleted_records_is_used_again(tmp_path, each):
    with ActivationStore(tmp_path / "limited", limit_bytes=100 * each) as limited:
        for turn in range(12):
            numbers = range(50)
            trunk = limited.trunk(bytes([turn]) * 16)
            assert trunk.put_many(keys(*numbers), (rows(*numbers),)) == 50
        assert len(limited.info()) == 2
        assert limited.file_bytes < 250 * each


def test_the_limit_is_a_quarter_of_the_free_disk_or_20_gb(tmp_path, monkeypatch):
    free = 0
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    for free, limit in [(8 * 10**9, 2 * 10**9), (500 * 10**9, 20 * 10**9)]:
        with ActivationStore(tmp_path / str(free)) as opened:
            assert opened.limit_bytes == pytest.approx(limit, rel=1e-3)


def test_the_folder_follows_the_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("GREFFON_CACHE", str(tmp_path))
    with ActivationStore() as opened:
        assert opened.path == tmp_path / "activations"


# The map


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(environment, "FIRST_MAP_BYTES", 256 * 1024)


def test_the_map_grows(small_map, opened):
    numbers = range(500)
    trunk = opened.trunk(TRUNK)
    assert trunk.put_many(keys(*numbers), (rows(*numbers),)) == 500
    np.testing.assert_array_equal(trunk.get_many(keys(*numbers))[0][0], rows(*numbers))


def test_the_map_grows_while_other_threads_read(small_map, opened):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(0), (rows(0),))
    wrong, done = [], threading.Event()

    def read():
        while not done.is_set():
            arrays, found = trunk.get_many(keys(0))
            if not found.all() or arrays[0].any():
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(1, 1000, 50):
        numbers = range(start, start + 50)
        assert trunk.put_many(keys(*numbers), (rows(*numbers),)) == 50
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert opened.file_bytes > 1000 * 4000


def test_a_full_map_stores_what_fits(small_map, tmp_path, monkeypatch, each):
    monkeypatch.setattr(store, "_MAP_SLACK_BYTES", -100 * each)  # as if the file were in pieces
    with ActivationStore(tmp_path / "limited", limit_bytes=200 * each) as limited:
        trunk, other = limited.trunk(TRUNK), limited.trunk(b"u" * 16)
        numbers = range(100)
        for i in numbers:
            assert trunk.put_many(keys(i), (rows(i),)) == 1
        stored = [other.put_many(keys(i), (rows(i),)) for i in range(300)]
        assert 100 < sum(stored) < 300
        assert stored == sorted(stored, reverse=True)
        assert len(trunk.missing(keys(*numbers))) == 100


def test_another_process_has_grown_the_map(small_map, tmp_path):
    with ActivationStore(tmp_path) as opened:
        trunk = opened.trunk(TRUNK)
        trunk.put_many(keys(0), (rows(0),))
        script = """
            trunk = ActivationStore(sys.argv[1]).trunk(b"t" * 16)
            names = [i.to_bytes(16, "little") for i in range(1, 600)]
            array = np.repeat(np.arange(1, 600, dtype="float32"), 1000).reshape(599, 1000)
            assert trunk.put_many(names, [array]) == 599
            """
        run(script, tmp_path)
        np.testing.assert_array_equal(trunk.get_many(keys(0, 599))[0][0], rows(0, 599))
        run(script.replace("600", "1600").replace("599", "1599"), tmp_path)
        assert trunk.put_many(keys(5000), (rows(5000),)) == 1


# Several users


def test_a_path_may_be_opened_twice_in_a_process(opened):
    with ActivationStore(opened.path) as twin:
        opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
        assert twin.trunk(TRUNK).missing(keys(1, 2)).tolist() == [1]
    assert opened.trunk(TRUNK).missing(keys(1)).tolist() == []  # the twin's end is not its own


def test_a_writer_may_follow_a_reader_of_the_same_process(tmp_path):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    with ActivationStore(tmp_path, readonly=True) as reader, ActivationStore(tmp_path) as writer:
        assert writer.trunk(TRUNK).put_many(keys(2), (rows(2),)) == 1
        assert reader.trunk(TRUNK).missing(keys(1, 2)).tolist() == []
        assert reader.trunk(TRUNK).put_many(keys(3), (rows(3),)) == 0
        assert reader.trunk(TRUNK).delete_many(keys(1)) == 0


def test_two_processes_write_at_the_same_time(small_map, tmp_path):
    script = """
        from greffon.frozen import environment
        environment.FIRST_MAP_BYTES = 256 * 1024
        trunk = ActivationStore(sys.argv[1]).trunk(b"t" * 16)
        first = int(sys.argv[2])
        print("ready", flush=True)
        input()
        for i in range(first, first + 400, 8):
            numbers = np.arange(i, i + 8, dtype="float32")
            names = [int(n).to_bytes(16, "little") for n in numbers]
            assert trunk.put_many(names, [np.repeat(numbers, 1000).reshape(8, 1000)]) == 8
            arrays, found = trunk.get_many(names)
            assert found.all() and (arrays[0][:, 0] == numbers).all()
        """
    # Half of the keys are written by both.
    with started(script, tmp_path, 0) as one, started(script, tmp_path, 200) as other:
        for writer in (one, other):
            assert writer.stdout.readline() == "ready\n"
        for writer in (one, other):
            writer.stdin.write("\n")
            writer.stdin.flush()
        for writer in (one, other):
            writer.communicate()
            assert writer.returncode == 0
    with ActivationStore(tmp_path) as opened:
        np.testing.assert_array_equal(opened.trunk(TRUNK).get_many(keys(*range(600)))[0][0], rows(*range(600)))
        assert opened.info()[0].entries == 600


@posix
@pytest.mark.parametrize("after", [1, 7, 23])
def test_a_killed_writer_loses_nothing_that_it_had_committed(small_map, tmp_path, after):
    script = """
        trunk = ActivationStore(sys.argv[1]).trunk(b"t" * 16)
        for i in range(0, 100_000, 4):
            numbers = np.arange(i, i + 4, dtype="float32")
            names = [int(n).to_bytes(16, "little") for n in numbers]
            trunk.put_many(names, [np.repeat(numbers, 30_000).reshape(4, 30_000)])
            print(i, flush=True)
        """
    with started(script, tmp_path) as writer:
        for _ in range(after):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL

    with ActivationStore(tmp_path) as opened:
        trunk = opened.trunk(TRUNK)
        whole = [*range(last + 4)]
        np.testing.assert_array_equal(trunk.get_many(keys(*whole))[0][0][:, 0], np.arange(last + 4))
        later = keys(*range(last + 4, 100_000))
        (array,), found = trunk.get_many(later)
        assert (array == array[:, :1]).all()  # of what was on its way, whole records or none
        assert opened.info()[0].entries == last + 4 + found.sum()
        assert trunk.put_many(keys(10**6), (rows(10**6, shape=(30_000,)),)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_opens_its_own_whatever_other_threads_do(tmp_path):
    script = """
        import os, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons advise against what is tested here
        store = ActivationStore(sys.argv[1])
        trunk = store.trunk(b"t" * 16)
        names = [bytes([n]) * 16 for n in range(40)]
        ones = np.ones((1, 9000), "float32")
        done = threading.Event()

        def work(name):
            while not done.is_set():
                trunk.put_many([name], [ones])
                assert trunk.get_many([name])[1].all()
                trunk.delete_many([name])

        threads = [threading.Thread(target=work, args=[names[-1 - i]]) for i in range(3)]
        for thread in threads:
            thread.start()
        for i in range(0, 20, 2):
            child = os.fork()
            if child == 0:
                ok = trunk.put_many([names[i]], [ones]) == 1 and not len(trunk.missing([names[i]]))
                store.close()
                os._exit(0 if ok else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert not len(trunk.missing([names[i]]))
            assert trunk.put_many([names[i + 1]], [ones]) == 1
        done.set()
        for thread in threads:
            thread.join()
        assert not len(trunk.missing(names[:20]))
        assert store.info()[0].entries == 20
        assert store.clear() > 0 and store.file_bytes < 100_000
        """
    run(script, tmp_path)


def test_a_spawned_process_shares_the_store(opened):
    opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_missing_in, (str(opened.path),)) == [1]


def _missing_in(path: str) -> list[int]:
    with ActivationStore(path) as opened:
        return opened.trunk(TRUNK).missing(keys(1, 2)).tolist()


# What can go wrong


def test_a_file_that_is_no_store_is_named_with_what_to_do(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"This is not a database. " * 1000)
    with pytest.raises(GreffonError, match=r"store .* is damaged: .*greffon cache clear"):
        ActivationStore(tmp_path)
    assert ActivationStore.erase(tmp_path) == 24_000
    with ActivationStore(tmp_path) as opened:
        assert opened.trunk(TRUNK).put_many(keys(1), (rows(1),)) == 1


@pytest.mark.parametrize("readonly", [False, True])
def test_a_cut_file_is_refused_before_it_can_kill_the_process(tmp_path, readonly):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(*range(300)), (rows(*range(300)),))
    os.truncate(tmp_path / "data.mdb", 200_000)
    with pytest.raises(GreffonError, match=r"is damaged: data.mdb should have at least \d+ bytes and has 200000"):
        ActivationStore(tmp_path, readonly=readonly)


def test_a_file_cut_by_a_few_pages_gives_no_wrong_values(tmp_path):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(*range(300)), (rows(*range(300)),))
    os.truncate(tmp_path / "data.mdb", (tmp_path / "data.mdb").stat().st_size - 20 * 4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with ActivationStore(tmp_path) as opened:
                arrays, found = opened.trunk(TRUNK).get_many(keys(*range(300)))
                np.testing.assert_array_equal(arrays[0], rows(*np.flatnonzero(found)))
        except GreffonError as error:
            assert "is damaged" in str(error)


def test_a_record_that_changed_on_the_disk_is_computed_again(tmp_path):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1, 2), (rows(1, 2, shape=(3000,)),))
    data = bytearray((tmp_path / "data.mdb").read_bytes())
    place = data.index(np.full(3000, 2, "float32").tobytes())
    data[place + 7000] ^= 1
    (tmp_path / "data.mdb").write_bytes(data)
    with ActivationStore(tmp_path) as opened:
        trunk = opened.trunk(TRUNK)
        with pytest.warns(UserWarning, match="a record that changed on the disk"):
            arrays, found = trunk.get_many(keys(1, 2))
        assert found.tolist() == [True, False]
        np.testing.assert_array_equal(arrays[0], rows(1, shape=(3000,)))
        assert trunk.missing(keys(1, 2)).tolist() == [1]
        assert trunk.put_many(keys(2), (rows(2, shape=(3000,)),)) == 1
        np.testing.assert_array_equal(trunk.get_many(keys(1, 2))[0][0], rows(1, 2, shape=(3000,)))
        assert opened.info()[0].entries == 2


def test_a_store_of_another_format_is_refused(tmp_path, monkeypatch):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    monkeypatch.setattr(environment, "FORMAT", b"2")
    with pytest.raises(GreffonError, match=r"it has format b'1', this version of Greffon writes b'2'"):
        ActivationStore(tmp_path)


@posix
def test_a_full_disk_is_said_once_and_what_is_stored_stays(tmp_path):
    script = """
        import resource, warnings
        trunk = ActivationStore(sys.argv[1]).trunk(b"t" * 16)
        ones = np.ones((1, 30_000), "float32")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
        stored, said = [], []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for i in range(40):
                stored.append(trunk.put_many([i.to_bytes(16, "little")], [ones]))
        assert 5 < sum(stored) < 40 and stored == sorted(stored, reverse=True), stored
        assert len(said) == 1 and "are computed again instead of kept" in str(said[0].message), said
        arrays, found = trunk.get_many([i.to_bytes(16, "little") for i in range(40)])
        assert found.sum() == sum(stored) and (arrays[0] == 1).all()
        """
    run(script, tmp_path)
    with ActivationStore(tmp_path) as opened:
        assert opened.trunk(TRUNK).put_many(keys(99), (rows(99, shape=(30_000,)),)) == 1


def test_no_room_on_the_disk_is_said_once(opened, monkeypatch):
    trunk = opened.trunk(TRUNK)
    trunk.put_many(keys(1), (rows(1),))

    def full(*_, **__):
        raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    monkeypatch.setattr(opened._environment, "write", full)
    with pytest.warns(
        UserWarning, match=r"No space left on device \([\d,]+ MB free on its disk\).*GREFFON_CACHE"
    ) as said:
        assert trunk.put_many(keys(2), (rows(2),)) == 0
        assert trunk.put_many(keys(3), (rows(3),)) == 0
        assert trunk.delete_many(keys(1)) == 0
    assert len(said) == 1
    assert "No space left" in opened.problem
    assert trunk.missing(keys(1, 2)).tolist() == [1]


def test_a_folder_that_cannot_be_made_leaves_a_store_that_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="computed again instead of kept"):
        opened = ActivationStore(tmp_path / "file" / "store")
    trunk = opened.trunk(TRUNK)
    assert trunk.put_many(keys(1), (rows(1),)) == 0
    assert trunk.missing(keys(1)).tolist() == [0]
    assert trunk.get_many(keys(1))[0] == ()
    assert trunk.delete_many(keys(1)) == 0
    assert opened.info() == []
    assert opened.clear() == 0
    assert opened.problem


@posix
def test_a_folder_that_cannot_be_written_can_still_be_read():
    script = """
        import fcntl, os, warnings
        from greffon.errors import GreffonError
        if os.geteuid() == 0:
            os.seteuid(65534)  # permissions do not bind root
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            store = ActivationStore(sys.argv[1])
            trunk = store.trunk(b"t" * 16)
            one, two = ((n).to_bytes(16, "little") for n in (1, 2))
            assert trunk.missing([one, two]).tolist() == [1]
            (ones,), found = trunk.get_many([one])
            assert found.all() and (ones == 1).all()
            assert trunk.put_many([two], [np.ones((1, 1000), "float32")]) == 0
        assert len(said) == 1 and "are computed again instead of kept" in str(said[0].message)
        try:
            store.clear()
        except GreffonError as error:
            assert "cannot be cleared" in str(error)
        else:
            raise AssertionError
        """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with ActivationStore(path) as opened:
            opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
        path.chmod(0o555)
        try:
            run(script, path)
        finally:
            path.chmod(0o755)


def test_a_folder_on_the_network_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "network_filesystem", lambda path: "nfs4")
    with pytest.warns(UserWarning, match=r"network file system \(nfs4\)"):
        opened = ActivationStore(tmp_path)
    assert opened.trunk(TRUNK).put_many(keys(1), (rows(1),)) == 0
    assert not (tmp_path / "data.mdb").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="reads a Linux mount table")
def test_network_file_systems_are_recognised_by_the_longest_mount_point(tmp_path):
    base = os.path.realpath(tmp_path)
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/x {base}/far nfs4 rw 0 0\n/dev/sdb {base}/far/near ext4 rw 0 0\n"
        f"//server/y {base}/with\\040space cifs rw 0 0\nproc\n"
    )
    assert network_filesystem(tmp_path, mounts=table) is None
    assert network_filesystem(tmp_path / "far", mounts=table) == "nfs4"
    assert network_filesystem(tmp_path / "far" / "deeper", mounts=table) == "nfs4"
    assert network_filesystem(tmp_path / "farther", mounts=table) is None
    assert network_filesystem(tmp_path / "far" / "near", mounts=table) is None
    assert network_filesystem(tmp_path / "with space", mounts=table) == "cifs"
    assert network_filesystem(tmp_path, mounts=tmp_path / "absent") is None


def test_a_readonly_store_of_nothing_is_empty_and_makes_no_files(tmp_path):
    opened = ActivationStore(tmp_path / "absent", readonly=True)
    assert opened.info() == []
    assert opened.file_bytes == 0
    assert opened.trunk(TRUNK).missing(keys(1)).tolist() == [0]
    assert not (tmp_path / "absent").exists()


def test_a_readonly_store_cannot_be_cleared(tmp_path):
    with ActivationStore(tmp_path) as opened:
        opened.trunk(TRUNK).put_many(keys(1), (rows(1),))
    with (
        ActivationStore(tmp_path, readonly=True) as opened,
        pytest.raises(GreffonError, match="cannot be cleared: read only"),
    ):
        opened.clear()


def test_a_file_that_another_process_made_larger_while_it_was_opened(tmp_path, monkeypatch):
    with ActivationStore(tmp_path):
        pass
    tables, calls = environment.Environment._tables, []

    def grown_at_first(self):
        calls.append(self)
        if len(calls) == 1:
            raise lmdb.MapResizedError("grown")
        return tables(self)

    monkeypatch.setattr(environment.Environment, "_tables", grown_at_first)
    with ActivationStore(tmp_path) as kept:
        assert len(calls) == 2
        assert kept.info() == []

"""Reading, computing and writing at once: in order, never far ahead, and nothing lost that was computed."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from greffon.frozen.pipeline import AHEAD, BEHIND, overlap

CHUNKS = 12


class Steps:
    """Counts what was read, computed and written, and fails where it is told to."""

    def __init__(self, **fails):
        self.fails = fails
        self.read, self.computed, self.written, self.done = [], [], [], []
        self.threads = {}

    def step(self, name, chunk, into):
        self.threads.setdefault(name, set()).add(threading.current_thread())
        at, error = self.fails.get(name, (None, None))
        if chunk == at:
            raise error
        into.append(chunk)
        return chunk

    def run(self, write=None, **others):
        options = {
            "read": lambda chunk: self.step("read", chunk, self.read),
            "compute": lambda chunk: self.step("compute", chunk, self.computed),
            "write": write or (lambda chunk, _: self.step("write", chunk, self.written) is not None),
            "done": lambda chunk: self.step("done", chunk, self.done),
        }
        return overlap(range(CHUNKS), **{**options, **others})


def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("greffon-")]


def test_every_chunk_goes_through_all_steps_in_order():
    steps = Steps()
    assert steps.run()
    assert steps.read == steps.computed == steps.written == steps.done == list(range(CHUNKS))
    here = threading.current_thread()
    assert steps.threads["compute"] == steps.threads["done"] == {here}
    assert len(steps.threads["read"] | steps.threads["write"] | {here}) == 3
    assert running() == []


def test_no_chunks():
    assert overlap([], read=str, compute=str, write=lambda chunk, _: True)


def test_reading_and_writing_go_on_while_a_chunk_is_computed():
    steps = Steps()
    others = threading.Event()

    def compute(chunk):
        if chunk == 5:  # is only left when the next chunk was read and the one before written, meanwhile
            deadline = time.monotonic() + 30
            while not (6 in steps.read and 4 in steps.written) and time.monotonic() < deadline:
                time.sleep(0.001)
            others.set()
            assert 6 in steps.read
            assert 4 in steps.written
        return chunk

    assert steps.run(compute=compute)
    assert others.is_set()


def test_what_is_read_ahead_is_bounded():
    steps = Steps()
    most = []

    def compute(chunk):
        time.sleep(0.01)  # long enough for the reader to run away, if it could
        most.append(len(steps.read) - chunk - 1)
        return chunk

    steps.run(compute=compute)
    assert max(most) == AHEAD


def test_what_waits_to_be_written_is_bounded():
    steps = Steps()
    waiting = []

    def compute(chunk):
        waiting.append(chunk - len(steps.written))
        return chunk

    def slow(chunk, _):
        time.sleep(0.01)
        steps.written.append(chunk)
        return True

    steps.run(compute=compute, write=slow)
    assert max(waiting) == BEHIND


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["read", "compute", "write", "done"])
def test_an_error_in_any_step_reaches_the_caller_and_what_was_computed_is_written(where, error):
    steps = Steps(**{where: (4, error)})
    with pytest.raises(type(error)):
        steps.run()
    assert steps.written == [chunk for chunk in steps.computed if where != "write" or chunk != 4]
    assert set(range(4)) <= set(steps.written)
    assert len(steps.computed) <= 4 + 1 + BEHIND
    assert len(steps.read) <= 4 + 1 + BEHIND + AHEAD
    assert running() == []


def test_the_first_of_two_errors_is_told():
    steps = Steps(compute=(4, ValueError("computing")), write=(4 - 1, OSError("writing")))

    def late(chunk, _):
        if chunk == 3:
            time.sleep(0.05)
        return steps.step("write", chunk, steps.written) is not None

    with pytest.raises(ValueError, match="computing"):
        steps.run(write=late)


def test_a_place_that_takes_nothing_is_found_out_with_the_first_chunk():
    steps = Steps()
    assert not steps.run(write=lambda chunk, _: False)
    assert steps.computed == [0]
    assert steps.done == []


def test_a_place_that_fills_up_ends_the_work():
    steps = Steps()
    assert not steps.run(write=lambda chunk, _: chunk < 6)
    assert steps.done == list(range(6))
    assert len(steps.computed) <= 7 + BEHIND


def test_the_last_chunk_may_be_the_one_that_does_not_fit():
    assert not Steps().run(write=lambda chunk, _: chunk < CHUNKS - 1)


@pytest.fixture
def interrupts():
    """SIGINT interrupts, also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="another thread cannot press Ctrl-C")
def test_ctrl_c_keeps_what_was_computed(interrupts):
    steps = Steps()

    def compute(chunk):
        time.sleep(0.01)
        steps.computed.append(chunk)
        return chunk

    def write(chunk, _):
        if chunk == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.03)  # two more chunks wait by the time that the interrupt is noticed
        steps.written.append(chunk)
        return True

    with pytest.raises(KeyboardInterrupt):
        steps.run(compute=compute, write=write)
    assert 3 in steps.written
    assert set(steps.computed) - set(steps.written) <= {steps.computed[-1]}  # that one was on its way to the writer
    assert len(steps.computed) < CHUNKS
    assert running() == []

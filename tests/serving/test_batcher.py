from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from greffon.serving.batcher import Batcher, Lanes


class Model:
    """Gives each picture's first value; waits for permission before each batch."""

    def __init__(self):
        self.batches, self.alone = [], []
        self.go = threading.Semaphore(0)

    def run(self, batch, alone):
        self.batches.append(len(batch))
        self.alone.append(alone)
        assert self.go.acquire(timeout=20)
        if batch.max() == 255:
            raise ValueError("no")
        return batch[:, 0, 0, :1].astype(np.float32)


def pixels(value):
    return np.full((2, 2, 3), value, np.uint8)


def with_batcher(test, *, batch=4, wait=0.0, lanes=1, quiet=0.0):
    model = Model()

    async def main():
        shared = Lanes(lanes, quiet=quiet)
        try:
            await test(model, Batcher(model.run, shared, batch=batch, wait=wait))
        finally:
            for _ in range(9):
                model.go.release()
            shared.close()

    asyncio.run(asyncio.wait_for(main(), 30))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_what_comes_while_the_model_is_busy_is_computed_together():
    async def test(model, batcher):
        first = asyncio.create_task(batcher.submit(pixels(0)))
        await until(lambda: model.batches)
        rest = [asyncio.create_task(batcher.submit(pixels(value))) for value in range(1, 23)]
        await asyncio.sleep(0)
        for _ in range(14):
            model.go.release()
        rows = await asyncio.gather(first, *rest)
        assert [row.probabilities[0] for row in rows] == list(range(23))
        assert model.batches == [1, 4, 4, 4, 3, 2, 2, 1, 1, 1]  # a quarter of what waits, at most 4
        assert [row.batch for row in rows] == [count for count in model.batches for _ in range(count)]

    with_batcher(test)


def test_a_lane_that_is_free_leaves_the_others_their_share():
    async def test(model, batcher):
        first = [asyncio.create_task(batcher.submit(pixels(value))) for value in range(2)]
        await until(lambda: len(model.batches) == 2)
        rest = [asyncio.create_task(batcher.submit(pixels(value))) for value in range(2, 11)]
        await asyncio.sleep(0)
        model.go.release()
        await until(lambda: len(model.batches) == 3)
        assert model.batches == [1, 1, 2]  # a quarter of its share of the nine that wait
        for _ in range(10):
            model.go.release()
        rows = await asyncio.gather(*first, *rest)
        assert [row.probabilities[0] for row in rows] == list(range(11))

    with_batcher(test, lanes=2)


def test_a_batch_waits_for_pictures_that_are_on_their_way():
    async def test(model, batcher):
        model.go.release()
        with batcher.announced():
            first = asyncio.create_task(batcher.submit(pixels(1)))
            await asyncio.sleep(0.01)
            assert model.batches == []
            second = asyncio.create_task(batcher.submit(pixels(2)))
            await asyncio.sleep(0)
        await asyncio.gather(first, second)
        assert model.batches == [2]

    with_batcher(test, wait=20)


def test_but_not_longer_than_it_should():
    async def test(model, batcher):
        model.go.release()
        with batcher.announced():
            await batcher.submit(pixels(1))

    with_batcher(test, wait=0.01)


def test_what_nobody_waits_for_is_not_computed():
    async def test(model, batcher):
        first = asyncio.create_task(batcher.submit(pixels(0)))
        await until(lambda: model.batches)
        given_up = asyncio.create_task(batcher.submit(pixels(1)))
        kept = asyncio.create_task(batcher.submit(pixels(2)))
        await asyncio.sleep(0)
        given_up.cancel()
        model.go.release()
        model.go.release()
        assert (await first).batch == (await kept).batch == 1

    with_batcher(test)


def test_an_error_is_the_answer_of_its_batch_alone():
    async def test(model, batcher):
        model.go.release()
        model.go.release()
        with pytest.raises(ValueError, match="no"):
            await batcher.submit(pixels(255))
        assert (await batcher.submit(pixels(3))).probabilities[0] == 3

    with_batcher(test)


def test_one_picture_takes_all_lanes_and_several_share_them():
    async def test(model, batcher):
        model.go.release()
        await batcher.submit(pixels(1))
        assert model.alone == [True]
        waiting = [asyncio.create_task(batcher.submit(pixels(value))) for value in range(6)]
        await until(lambda: len(model.batches) == 3)
        assert model.batches == [1, 1, 1]  # both at once: none has been let go
        assert model.alone == [True, False, False]
        for _ in range(6):
            model.go.release()
        rows = await asyncio.gather(*waiting)
        assert [row.probabilities[0] for row in rows] == list(range(6))

    with_batcher(test, lanes=2)


def test_a_picture_that_is_not_the_only_one_takes_one_lane():
    async def test(model, batcher):
        with batcher.announced():
            first = asyncio.create_task(batcher.submit(pixels(1)))
            await until(lambda: model.batches)
        second = asyncio.create_task(batcher.submit(pixels(2)))
        await until(lambda: len(model.batches) == 2)
        third = asyncio.create_task(batcher.submit(pixels(3)))
        await asyncio.sleep(0.01)
        assert model.alone == [False, False]  # the third waits for a lane
        for _ in range(3):
            model.go.release()
        await asyncio.gather(first, second, third)
        assert model.batches == [1, 1, 1]

    with_batcher(test, lanes=2)


@pytest.mark.parametrize(("quiet", "alone"), [(0.0, True), (60.0, False)])
def test_after_company_a_lone_picture_takes_one_lane_for_a_while(quiet, alone):
    async def test(model, batcher):
        for _ in range(4):
            model.go.release()
        await batcher.submit(pixels(1))
        await asyncio.gather(batcher.submit(pixels(2)), batcher.submit(pixels(3)))
        await batcher.submit(pixels(4))
        assert model.alone == [True, False, False, alone]

    with_batcher(test, lanes=2, quiet=quiet)

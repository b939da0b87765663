"""Asks a running service as fast as one process can, and says what came: the second process of `serving.py`.

    python benchmarks/asking.py HOST PORT SERVICE_PID PLAN PICTURE [PICTURE ...]

PLAN is JSON: rounds, seconds, in_flight. Everything that was measured is printed as one line of JSON. Each round asks
with one request in flight and then with many, so that what else the machine does falls on both.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_TIMING = re.compile(rb"(decode|engine);dur=([0-9.]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Found:
    """What a stretch of asking gave.

    Attributes:
        statuses: answers by status.
        seconds: from a request's due time to its answer, of those with status 200.
        beyond: of these, what is neither decoding nor the model.
        took: the whole stretch.
        work: processor time of service and client together.
    """

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    took: float = 0.0
    work: float = 0.0

    @property
    def rate(self):
        """Answered pictures per second."""
        return self.statuses[200] / self.took

    def add(self, due, status, head):
        self.statuses[status] += 1
        if status == 200:
            self.seconds.append(time.perf_counter() - due)
            parts = dict(_TIMING.findall(head))
            self.beyond.append(self.seconds[-1] - sum(map(float, parts.values())) / 1000)

    def share(self, share):
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def to_dict(self):
        """What `serving.py` makes its rows of; times in milliseconds."""
        return {
            "rate": self.rate,
            "median": 1000 * self.share(0.5),
            "p99": 1000 * self.share(0.99),
            "beyond": 1000 * statistics.median(self.beyond),
            "work": 1000 * self.work / self.statuses[200],
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


class Client:
    """As little work as a client can do: requests made beforehand, one connection per request in flight."""

    def __init__(self, host, port, pictures, service):
        self.host, self.port = host, port
        self.service = psutil.Process(service)
        self.requests = [self._request(host, port, picture) for picture in pictures]
        self.next = 0

    @staticmethod
    def _request(host, port, content):
        body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + content + b"\r\n--b--\r\n"
        head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def ask(self, connection):
        reader, writer = connection
        self.next += 1
        writer.write(self.requests[self.next % len(self.requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(_LENGTH.search(head)[1]))
        return int(head[9:12]), head

    def work(self):
        """Seconds of processor time that service and client have used."""
        return sum(self.service.cpu_times()[:2]) + time.process_time()

    async def connect(self):
        return await asyncio.open_connection(self.host, self.port)


async def closed(client, in_flight, seconds):
    """Each of so many asks as soon as it was answered."""
    found, end, work = Found(), time.perf_counter() + seconds, client.work()

    async def one():
        connection = await client.connect()
        while (due := time.perf_counter()) < end:
            found.add(due, *await client.ask(connection))
        connection[1].close()

    began = time.perf_counter()
    await asyncio.gather(*[one() for _ in range(in_flight)])
    found.took, found.work = time.perf_counter() - began, client.work() - work
    return found


async def paced(client, rate, seconds, *, at_random, connections=64):
    """So many per second, whether or not they are answered; a request that finds no connection free waits for one."""
    found, free, work = Found(), asyncio.Queue(), client.work()
    for _ in range(connections):
        free.put_nowait(await client.connect())
    chance = random.Random(0)

    async def one(due):
        connection = await free.get()
        found.add(due, *await client.ask(connection))
        free.put_nowait(connection)

    began = due = time.perf_counter()
    tasks = []
    while due < began + seconds:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
        due += chance.expovariate(rate) if at_random else 1 / rate
    await asyncio.gather(*tasks)
    found.took, found.work = time.perf_counter() - began, client.work() - work
    while not free.empty():
        free.get_nowait()[1].close()
    return found


async def everything(client, plan):
    """All measurements: a list of rounds."""
    seconds, in_flight = plan["seconds"], plan["in_flight"]
    await closed(client, 4, min(2.0, seconds))  # warm
    rounds = []
    for _ in range(plan["rounds"]):
        alone = await closed(client, 1, seconds)
        many = {number: await closed(client, number, seconds) for number in in_flight}
        again = await closed(client, 1, seconds)
        most = max(one.rate for one in many.values())
        found = {
            "alone": alone.to_dict(),
            "many": {number: one.to_dict() for number, one in many.items()},
            "again": again.to_dict(),
        }
        for name, at_random in (("even", False), ("random", True)):
            found[name] = (await paced(client, 0.7 * most, seconds, at_random=at_random)).to_dict()
        # What it can is measured again beside what it is asked too much: the machine may be another one by then.
        best = max(many, key=lambda number: many[number].rate)
        before = client.service.memory_info().rss
        over = await paced(client, 3 * most, seconds, at_random=False, connections=256)
        found["over"] = over.to_dict()
        found["memory"] = before, client.service.memory_info().rss
        found["beside"] = (await closed(client, best, seconds)).to_dict()
        rounds.append(found)
    return rounds


if __name__ == "__main__":
    host, port, service, plan, *pictures = sys.argv[1:]
    asking = Client(host, int(port), [Path(picture).read_bytes() for picture in pictures], int(service))
    print(json.dumps(asyncio.run(everything(asking, json.loads(plan)))))

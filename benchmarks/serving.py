"""How fast `greffon serve` answers, asked by a second process on this machine.

    python benchmarks/serving.py RUN PICTURE [PICTURE ...] [--seconds 10] [--in-flight 8 16 32] [-- SERVE OPTIONS]

Prints, as a table: what one picture takes beyond its decoding and the model (the service says both in `Server-Timing`);
pictures per second with one and with many requests in flight; the median and the 99th percentile at 70 % of the most
that it answered, with requests at even times and at random ones; and what becomes of three times as many as it can
answer: pictures per second, refusals, memory. The processor time of service and client for one picture depends least on
what else runs: client and service share the machine's processors with that, and the load is printed. Nothing is
asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_SERVE = "import sys; from greffon.cli.app import main; sys.exit(main(['serve', *sys.argv[1:]]))"
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
    found, free = Found(), asyncio.Queue()
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
    found.took = time.perf_counter() - began
    while not free.empty():
        free.get_nowait()[1].close()
    return found


def _work(found):
    return f"{1000 * found.work / found.statuses[200]:.1f} ms of processor time each"


async def client_process(options):
    """All measurements, as lines of the table; the service's process is only looked at for its memory."""
    client = Client(options.host, options.port, [path.read_bytes() for path in options.pictures], options.service)
    memory = client.service.memory_info
    await closed(client, 4, 2)  # warm
    alone = await closed(client, 1, options.seconds)
    rows = [
        ("one in flight", f"{alone.rate:.1f} pictures/s, median {1000 * alone.share(0.5):.1f} ms, {_work(alone)}"),
        ("beyond decoding and model", f"median {1000 * statistics.median(alone.beyond):.2f} ms"),
    ]
    best = alone
    for in_flight in options.in_flight:
        many = await closed(client, in_flight, options.seconds)
        best = max(best, many, key=lambda one: one.rate)
        text = f"{many.rate:.1f} pictures/s, {many.rate / alone.rate:.2f} times, {_work(many)}"
        rows.append((f"{in_flight} in flight", text))
    for name, at_random in (("evenly", False), ("at random", True)):
        found = await paced(client, 0.7 * best.rate, options.seconds, at_random=at_random)
        middle, late = found.share(0.5), found.share(0.99)
        text = f"median {1000 * middle:.1f} ms, p99 {1000 * late:.1f} ms, {late / middle:.2f} times"
        rows.append((f"70 % load, {name}", f"{text}, {dict(found.statuses)}"))
    before = memory().rss
    over = await paced(client, 3 * best.rate, options.seconds, at_random=False, connections=256)
    text = f"{over.rate:.1f} pictures/s, {over.rate / best.rate:.2f} of the most, {dict(over.statuses)}"
    rows.append(("3 times the most", f"{text}, memory {(memory().rss - before) / 1e6:+.1f} MB"))
    print(json.dumps(rows))


def main():
    """Start the service and the client, print the table."""
    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[8, 16, 32])
    for name in ("--host", "--port", "--service"):  # for the second process
        parser.add_argument(name, type=str if name == "--host" else int, help=argparse.SUPPRESS)
    options = parser.parse_args(words[:place])
    if options.service is not None:
        asyncio.run(client_process(options))
        return
    command = [sys.executable, "-c", _SERVE, str(options.run), "--port", "0", *words[place + 1 :]]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = re.search(r"http://([\d.]+):(\d+)", service.stdout.readline())
        more = ["--host", address[1], "--port", address[2], "--service", str(service.pid)]
        load = os.getloadavg()[0]
        asked = subprocess.run([sys.executable, __file__, *words[:place], *more], capture_output=True, check=True)
        for name, text in json.loads(asked.stdout.splitlines()[-1]):
            print(f"{name:28} {text}")
        print(f"{'load before and after':28} {load:.1f}, {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main()

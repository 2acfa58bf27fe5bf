"""A steady stream of requests through a balancer, from now until it is told to stop, and an honest count of them.

Open loop: requests leave when they are due, whatever became of those before, and latency counts from the moment
a request was due. Most open a connection of their own, some share a few kept alive, a few are orders by customers
who take seconds to send them, so that draining has something to wait for. An answer counts as ok only with
status 200 (201 for an order), the whole body, and the headers that say which instance and release gave it. If this
process itself was starved, requests that left late or never are counted as such.

Run as ``python -m lab.traffic URL FILE [RATE [SLOW_SECONDS]]``: totals go to FILE (JSON, replaced whole each second),
seconds to FILE with the suffix ``.jsonl``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RATE = 120
"""Requests per second."""
LATE = 0.25
"""Seconds after which a request that leaves counts as late."""
SKIP = 2.0
"""Seconds behind schedule from which requests are missed rather than sent in a burst."""
PATIENCE = 30.0
"""Seconds that an answer may take."""
PATHS = ("/", "/api/products", "/healthz")
ORDERS = "/api/orders"
SLOW_EVERY = 240
"""One in so many requests is an order that is sent slowly: one each two seconds."""
SLOW_SECONDS = 5.0
KEEP_ALIVE_EVERY = 5
"""One in so many requests goes over a connection that is kept alive."""
KEEP_ALIVE_SECONDS = 20.0
"""Idle connections older than this are let go, long before the balancer would close them in our face."""
SAMPLES = 50
"""How many failures are kept in full."""
_BUCKET = 1.1
"""Width of the latency buckets: percentiles are right to ten per cent."""


class Failed(Exception):
    """An answer that a user would not have accepted, with the reason."""


class Latencies:
    """A histogram of seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        milliseconds, bucket = max(seconds * 1000, 0.1), 0
        while milliseconds > 0.1:
            milliseconds /= _BUCKET
            bucket += 1
        self._buckets[bucket] += 1

    def percentile(self, share: float) -> float:
        """The latency, in milliseconds, that this share of all did not exceed; 0 of none."""
        wanted, seen = share * self._buckets.total(), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return round(0.1 * _BUCKET**bucket, 1)
        return 0.0


@dataclass
class Count:
    """What happened to the requests of one second, or of all."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    late: int = 0
    missed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "late": self.late,
            "missed": self.missed,
            "reasons": dict(self.reasons),
            "releases": dict(self.releases),
            "instances": dict(self.instances),
            "p50_ms": self.latencies.percentile(0.50),
            "p99_ms": self.latencies.percentile(0.99),
        }


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Connection:
    """One HTTP/1.1 connection, raw, because a full client costs several times the CPU."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: str, *, keep: bool, order: bytes = b"", seconds: float = SLOW_SECONDS) -> Answer:
        """The answer, once its body was read whole. An order is posted byte by byte, over so many seconds."""
        method = "POST" if order else "GET"
        length = f"Content-Length: {len(order)}\r\n" if order else ""
        wish = "keep-alive" if keep else "close"
        self._writer.write(f"{method} {path} HTTP/1.1\r\nHost: shop.lab\r\nConnection: {wish}\r\n{length}\r\n".encode())
        for byte in order:
            await asyncio.sleep(seconds / len(order))
            self._writer.write(bytes([byte]))
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._body(headers)
        return Answer(int(first.split()[1]), headers, body)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int((await self._reader.readline()).split(b";")[0] or b"x", 16):
                parts.append((await self._reader.readexactly(size + 2))[:-2])
            await self._reader.readexactly(2)
            return b"".join(parts)
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return await self._reader.read()

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()


class Traffic:
    """The stream: ``run`` sends until ``stop``, then waits for what is still under way."""

    def __init__(self, url: str, file: Path, *, rate: float = RATE, slow_seconds: float = SLOW_SECONDS) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._file, self._rate, self._slow_seconds = file, rate, slow_seconds
        self._order = b""
        self.total, self._second = Count(), Count()
        self._samples: list[dict[str, Any]] = []
        self._idle: list[tuple[float, Connection]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._starved_seconds = 0
        self._began = time.time()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Send at the rate; totals and seconds are written each second, and when all is over."""
        self._order = await self._make_order()
        reporter = asyncio.create_task(self._report())
        began, number = time.monotonic(), 0
        while not self._stopping.is_set():
            due = began + number / self._rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            behind = time.monotonic() - due
            number += 1
            if behind > SKIP:
                self._bump("missed")
                continue
            self._send(number, due, late=behind > LATE)
        await asyncio.gather(*self._tasks)  # each is over after PATIENCE at the latest
        reporter.cancel()
        for _, connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # closing takes one turn of the loop
        self._write(finished=True)

    def _bump(self, what: str) -> None:
        for count in (self.total, self._second):
            setattr(count, what, getattr(count, what) + 1)

    def _send(self, number: int, due: float, *, late: bool) -> None:
        self._bump("sent")
        if late:
            self._bump("late")
        slow = number % SLOW_EVERY == SLOW_EVERY - 1
        path = ORDERS if slow else PATHS[number % len(PATHS)]
        task = asyncio.create_task(self._request(path, due, keep=not slow and number % KEEP_ALIVE_EVERY == 0))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, path: str, due: float, *, keep: bool) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                headers = (await self._ask(path, keep=keep)).headers
        except TimeoutError:
            self._failure(path, f"no answer within {PATIENCE:.0f} s")
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._failure(path, f"{type(error).__name__}: {error}")
        except Failed as error:
            self._failure(path, str(error))
        else:
            for count in (self.total, self._second):
                count.ok += 1
                count.releases[headers["x-release"]] += 1
                count.instances[headers["x-instance"]] += 1
                if path != ORDERS:
                    count.latencies.add(time.monotonic() - due)

    async def _ask(self, path: str, *, keep: bool) -> Answer:
        """An answer that a user would accept. :raises Failed: for any other."""
        connection = (self._reuse() if keep else None) or await self._connect()
        try:
            order = self._order if path == ORDERS else b""
            answer = await connection.ask(path, keep=keep, order=order, seconds=self._slow_seconds)
        except BaseException:
            connection.close()
            raise
        if keep and answer.headers.get("connection", "").lower() != "close":
            self._idle.append((time.monotonic(), connection))
        else:
            connection.close()
        if answer.status != (201 if path == ORDERS else 200):
            raise Failed(f"{path}: status {answer.status} from {answer.headers.get('x-served-by', 'the balancer')}")
        for needed in ("x-instance", "x-release"):
            if not answer.headers.get(needed):
                raise Failed(f"{path}: an answer without {needed}")
        return answer

    async def _make_order(self) -> bytes:
        """An order for the first product that the shop offers. :raises Failed: if it offers none."""
        products = json.loads((await self._ask("/api/products", keep=False)).body)["products"]
        if not products:
            raise Failed("the shop offers no product")
        return json.dumps({"customer": "traffic", "lines": [{"product": products[0]["id"], "quantity": 1}]}).encode()

    def _reuse(self) -> Connection | None:
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since < KEEP_ALIVE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        return Connection(*await asyncio.open_connection(self._host, self._port))

    def _failure(self, path: str, reason: str) -> None:
        for count in (self.total, self._second):
            count.failed += 1
            count.reasons[reason] += 1
        if len(self._samples) < SAMPLES:
            self._samples.append({"at": time.time(), "path": path, "reason": reason})

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self._second.late or self._second.missed:
                self._starved_seconds += 1
            line = json.dumps({"at": round(time.time(), 3), **self._second.as_dict()})
            with self._file.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._second = Count()
            self._write(finished=False)

    def _write(self, *, finished: bool) -> None:
        data = {
            "pid": os.getpid(),
            "began": self._began,
            "at": time.time(),
            "finished": finished,
            "under_way": len(self._tasks),
            "starved_seconds": self._starved_seconds,
            "failures": self._samples,
            **self.total.as_dict(),
        }
        scratch = self._file.with_suffix(".new")
        scratch.write_text(json.dumps(data), encoding="utf-8")
        os.replace(scratch, self._file)


def read(file: Path) -> dict[str, Any]:
    """The totals so far; zeros before the first second is over."""
    try:
        data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        data = {"finished": False, "starved_seconds": 0, "failures": [], **Count().as_dict()}
    return data


async def _main(url: str, file: Path, rate: float = RATE, slow_seconds: float = SLOW_SECONDS) -> None:
    traffic = Traffic(url, file, rate=rate, slow_seconds=slow_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, traffic.stop)
    await traffic.run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:5])))

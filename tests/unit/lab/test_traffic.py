"""The stream of requests, against a small server that can misbehave in each way that must be counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lab import traffic
from lab.traffic import Latencies, Traffic, read

PRODUCTS = json.dumps({"products": [{"id": "tea"}]}).encode()
Answerer = Callable[[str, bytes, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"hello", **headers: str) -> bytes:
    named = {"X_Instance": "web-01-abc", "X_Release": "2026.10-1", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value]
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


class Shop:
    """Serves products and takes orders as the real one does; ``misbehave`` answers everything else."""

    def __init__(self, misbehave: Callable[[str], bytes] = lambda path: answer()) -> None:
        self.misbehave = misbehave
        self.connections = 0
        self.requests: list[str] = []
        self.orders: list[Any] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                self.requests.append(path)
                if method == "POST":
                    length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                    self.orders.append(json.loads(await reader.readexactly(length)))
                    writer.write(answer("201 Created"))
                elif path == "/api/products":
                    writer.write(answer(body=PRODUCTS))
                else:
                    writer.write(self.misbehave(path))
                if "Connection: close" in head:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()


def stream(tmp_path: Path, shop: Shop, *, seconds: float, rate: float = 100) -> dict[str, Any]:
    """Totals after sending to that shop for so long."""

    async def run() -> None:
        server = await asyncio.start_server(shop.handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = Traffic(f"http://127.0.0.1:{port}", tmp_path / "t.json", rate=rate)
        asyncio.get_running_loop().call_later(seconds, sender.stop)
        await sender.run()
        server.close()

    asyncio.run(run())
    return read(tmp_path / "t.json")


def test_good_answers_are_counted_by_release_and_instance(tmp_path: Path) -> None:
    shop = Shop()
    seen = stream(tmp_path, shop, seconds=2.2)
    assert seen["finished"]
    assert seen["failed"] == 0
    assert seen["sent"] == seen["ok"]
    assert 200 <= seen["sent"] + seen["missed"] <= 230
    assert seen["releases"] == {"2026.10-1": seen["ok"]}
    assert seen["instances"] == {"web-01-abc": seen["ok"]}
    assert 0 < seen["p50_ms"] <= seen["p99_ms"]
    seconds = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert len(seconds) == 2
    assert sum(second["sent"] for second in seconds) <= seen["sent"]
    # most have a connection of their own, the rest share a few
    assert 0.75 * seen["sent"] < shop.connections < 0.9 * seen["sent"]


def test_some_orders_are_sent_slowly_and_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "SLOW_EVERY", 20)
    monkeypatch.setattr(traffic, "SLOW_SECONDS", 0.3)
    shop = Shop()
    seen = stream(tmp_path, shop, seconds=1)
    assert seen["failed"] == 0
    assert len(shop.orders) >= 4
    assert all(order["lines"] == [{"product": "tea", "quantity": 1}] for order in shop.orders)
    assert seen["p99_ms"] < 300, "slow orders must not hide in the latency of the others"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (answer("503 Service Unavailable"), "/: status 503 from the balancer"),
        (answer("502 Bad Gateway", X_Served_By="web-02"), "/: status 502 from web-02"),
        (answer(X_Release=""), "/: an answer without x-release"),
        (answer(X_Instance=""), "/: an answer without x-instance"),
        (b"", "IncompleteReadError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-Release: 1\r\nX-Instance: 1\r\n\r\nhal", "IncompleteReadError"),
        (b"nonsense\r\n\r\n", "Error"),
    ],
)
def test_every_bad_answer_counts_as_failed(tmp_path: Path, bad: bytes, reason: str) -> None:
    def misbehave(path: str) -> bytes:
        return bad if path == "/" else answer()

    class Cutting(Shop):
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asyncio.get_running_loop().call_later(0.2, writer.close)
            await super().handle(reader, writer)

    seen = stream(tmp_path, Cutting(misbehave), seconds=0.6)
    assert seen["failed"] > 10
    assert seen["ok"] + seen["failed"] == seen["sent"]
    assert any(reason in told for told in seen["reasons"])
    assert reason in seen["failures"][0]["reason"] or len(seen["reasons"]) > 1


def test_a_server_that_is_gone_counts_as_failed(tmp_path: Path) -> None:
    async def run() -> None:
        shop = Shop()
        server = await asyncio.start_server(shop.handle, "127.0.0.1", 0)
        sender = Traffic(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path / "t.json", rate=50)
        asyncio.get_running_loop().call_later(0.3, server.close)
        asyncio.get_running_loop().call_later(0.8, sender.stop)
        await sender.run()

    asyncio.run(run())
    seen = read(tmp_path / "t.json")
    assert seen["failed"] >= 15
    assert any("Connect" in reason for reason in seen["reasons"])


def test_a_starved_sender_says_so(tmp_path: Path) -> None:
    async def run() -> None:
        server = await asyncio.start_server(Shop().handle, "127.0.0.1", 0)
        sender = Traffic(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path / "t.json", rate=50)
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, lambda: time.sleep(2.6))  # as if the machine had no time for this process
        loop.call_later(3.2, sender.stop)
        await sender.run()
        server.close()

    asyncio.run(run())
    seen = read(tmp_path / "t.json")
    assert seen["missed"] > 10
    assert seen["late"] > 50
    assert seen["starved_seconds"] >= 1
    assert seen["failed"] == 0


def test_percentiles_are_right_to_ten_per_cent() -> None:
    latencies = Latencies()
    for milliseconds in range(1, 1001):
        latencies.add(milliseconds / 1000)
    assert latencies.percentile(0.5) == pytest.approx(500, rel=0.1)
    assert latencies.percentile(0.99) == pytest.approx(990, rel=0.1)
    assert Latencies().percentile(0.99) == 0


def test_before_the_first_second_totals_are_zero(tmp_path: Path) -> None:
    seen = read(tmp_path / "none.json")
    assert (seen["sent"], seen["failed"], seen["finished"]) == (0, 0, False)

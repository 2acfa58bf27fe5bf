"""Unit tests of the shop's API, run inside a fresh instance: on the image's own Python, SQLite and kernel."""

# ruff: noqa: PT009, PT027 - the image has no pytest, and shall have none
from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Mapping
from dataclasses import asdict, replace
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import MappingProxyType
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import shop_api  # noqa: E402

CATEGORIES = [{"id": "bakery", "title": "Bread"}, {"id": "dairy", "title": "Milk"}]
PRODUCTS = [
    {"id": "p1", "title": "Rye loaf", "category": "bakery", "price": 390},
    {"id": "p2", "title": "Cream", "category": "dairy", "price": 189},
]


def dataset(name: str = "small", **changed: Any) -> dict[str, Any]:
    """A dataset as the role writes it."""
    texts = {"categories.json": json.dumps(CATEGORIES), "products.json": json.dumps(changed.get("products", PRODUCTS))}
    files = {
        file: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "rows": len(json.loads(text))}
        for file, text in texts.items()
    }
    return {"manifest": {"name": name, "files": files}, "texts": texts}


def config(folder: Path, **changed: Any) -> shop_api.Config:
    """A configuration for tests, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    usual = shop_api.Config(
        version="1.2.3",
        environment="certify",
        dataset=str(folder / "dataset.json"),
        database=str(folder / "shop.db"),
        currency="EUR",
        order_limit=20,
        slow_requests=True,
        log_requests=False,
        port=port,
    )
    return replace(usual, **changed)


class Base(unittest.TestCase):
    """A private folder."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)


class StoreTest(Base):
    """The SQLite store and its dataset."""

    def setUp(self) -> None:
        super().setUp()
        self.store = shop_api.Store(str(self.folder / "shop.db"))
        self.addCleanup(self.store.close)

    def load(self, content: dict[str, Any]) -> None:
        path = self.folder / "dataset.json"
        path.write_text(json.dumps(content))
        self.store.load(path)

    def test_a_dataset_fills_the_tables(self) -> None:
        self.load(dataset())
        self.assertEqual(self.store.dataset(), "small")
        self.assertEqual(self.store.counts(), {"categories": 2, "products": 2})
        self.assertEqual(self.store.product("p1"), PRODUCTS[0])

    def test_a_file_that_was_altered_is_refused_and_changes_nothing(self) -> None:
        self.load(dataset())
        altered = dataset("other")
        altered["texts"]["products.json"] = altered["texts"]["products.json"].replace("390", "1")
        with self.assertRaisesRegex(shop_api.BadDataset, "products.json has SHA-256"):
            self.load(altered)
        self.assertEqual((self.store.dataset(), self.store.product("p1")["price"]), ("small", 390))

    def test_a_file_with_rows_missing_is_refused(self) -> None:
        short = dataset()
        short["manifest"]["files"]["products.json"]["rows"] = 3
        with self.assertRaisesRegex(shop_api.BadDataset, "2 rows, and the manifest says 3"):
            self.load(short)
        self.assertEqual(self.store.counts(), {"categories": 0, "products": 0})

    def test_rows_that_break_a_rule_leave_everything_as_it_was(self) -> None:
        self.load(dataset())
        bad = [{**PRODUCTS[0], "category": "nowhere"}]
        with self.assertRaises(shop_api.sqlite3.IntegrityError):
            self.load(dataset("other", products=bad))
        self.assertEqual((self.store.dataset(), self.store.counts()["products"]), ("small", 2))

    def test_a_newer_dataset_takes_the_place_of_the_old_one_and_keeps_orders(self) -> None:
        self.load(dataset())
        order = self.store.place_order("Ada", [{"product": "p1", "quantity": 1, "price": 390}], 390)
        self.load(dataset("newer", products=PRODUCTS[:1]))
        self.assertEqual((self.store.dataset(), self.store.counts()["products"]), ("newer", 1))
        self.assertEqual(self.store.order(order["id"]), order)

    def test_orders_outlive_a_restart(self) -> None:
        self.load(dataset())
        order = self.store.place_order("Ada", [], 0)
        again = shop_api.Store(str(self.folder / "shop.db"))
        self.addCleanup(again.close)
        self.assertEqual(again.order(order["id"]), order)


class Serving(Base):
    """A service in this process."""

    changed: Mapping[str, Any] = MappingProxyType({})

    def setUp(self) -> None:
        super().setUp()
        self.config = config(self.folder, **self.changed)
        self.store = shop_api.Store(self.config.database)
        self.store.load(Path(self.config.dataset))
        self.server = shop_api.Server(shop_api.Shop(self.config, self.store), self.config.port)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.store.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[HTTPResponse, Any]:
        connection = HTTPConnection("127.0.0.1", self.config.port, timeout=10)
        self.addCleanup(connection.close)
        text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, text, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer, json.loads(content) if content and is_json else None


class ReadingTest(Serving):
    """What it answers to those who only look."""

    def test_health_says_who_answers_and_with_what(self) -> None:
        answer, data = self.ask("GET", "/healthz")
        self.assertEqual(answer.status, 200)
        self.assertEqual(
            data,
            {
                "status": "ok",
                "components": {"shop-api": "1.2.3"},
                "dataset": "small",
                "environment": "certify",
                "release": shop_api.release(),
                "instance": socket.gethostname(),
            },
        )

    def test_health_names_the_front_that_passed_the_request_on(self) -> None:
        _, data = self.ask("GET", "/healthz", X_Front_Version="2.1.0")
        self.assertEqual(data["components"]["shop-front"], "2.1.0")

    def test_health_believes_no_front_that_is_none(self) -> None:
        for hostile in ("<script>", "1.0; rm -rf /", "1.", "..", "\xb2"):
            _, data = self.ask("GET", "/healthz", X_Front_Version=hostile)
            self.assertEqual(list(data["components"]), ["shop-api"], hostile)

    def test_every_answer_says_who_gave_it(self) -> None:
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("GET", "/nowhere", 404),
            ("POST", "/api/orders", 411),
            ("DELETE", "/api/orders", 501),
        ):
            answer, _ = self.ask(method, path, Transfer_Encoding="none" if method == "POST" else "")
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["X-Instance"], socket.gethostname())
            self.assertEqual(answer.headers["X-Release"], shop_api.release())

    def test_the_catalogue(self) -> None:
        _, data = self.ask("GET", "/api/products")
        self.assertEqual(data, {"currency": "EUR", "products": PRODUCTS})

    def test_one_category(self) -> None:
        _, data = self.ask("GET", "/api/products?category=dairy")
        self.assertEqual([product["id"] for product in data["products"]], ["p2"])

    def test_text_that_looks_like_sql_is_only_text(self) -> None:
        _, data = self.ask("GET", "/api/products?category='%20OR%20''='")
        self.assertEqual(data["products"], [])

    def test_one_product(self) -> None:
        _, data = self.ask("GET", "/api/products/p2")
        self.assertEqual(data, PRODUCTS[1])

    def test_what_is_not_there_is_not_found(self) -> None:
        for path in ("/api/products/p9", "/api/orders/1", "/", "/api", "/../etc/passwd", "/api/products/p1/more"):
            answer, data = self.ask("GET", path)
            self.assertEqual((answer.status, list(data)), (404, ["error"]), path)

    def test_the_dataset(self) -> None:
        _, data = self.ask("GET", "/api/dataset")
        self.assertEqual(data, {"name": "small", "rows": {"categories": 2, "products": 2}})

    def test_head_has_no_body(self) -> None:
        answer, data = self.ask("HEAD", "/healthz")
        self.assertEqual((answer.status, data), (200, None))

    def test_a_wait_has_a_limit(self) -> None:
        for seconds in ("121", "-1", "x", "nan", "1e9"):
            answer, _ = self.ask("GET", f"/api/slow?seconds={seconds}")
            self.assertEqual(answer.status, 400, seconds)


class NoSlowTest(Serving):
    """Production's value."""

    changed = MappingProxyType({"slow_requests": False})

    def test_there_is_no_slow_request_where_the_environment_has_none(self) -> None:
        answer, _ = self.ask("GET", "/api/slow?seconds=0")
        self.assertEqual(answer.status, 404)


class OrderTest(Serving):
    """Ordering."""

    def order(self, wish: Any) -> tuple[HTTPResponse, Any]:
        return self.ask("POST", "/api/orders", wish)

    def test_an_order_can_be_read_back(self) -> None:
        wish = {"customer": "Ada", "lines": [{"product": "p1", "quantity": 2}, {"product": "p2", "quantity": 1}]}
        answer, placed = self.order(wish)
        self.assertEqual((answer.status, placed["total"]), (201, 2 * 390 + 189))
        _, found = self.ask("GET", f"/api/orders/{placed['id']}")
        self.assertEqual(found, placed)

    def test_the_price_is_the_shops_and_not_the_customers(self) -> None:
        _, placed = self.order({"customer": "Ada", "lines": [{"product": "p1", "quantity": 1, "price": 1}]})
        self.assertEqual(placed["total"], 390)

    def test_bad_orders_are_refused_with_a_reason(self) -> None:
        good = {"product": "p1", "quantity": 1}
        for status, wish in (
            (400, []),
            (400, {"lines": [good]}),
            (400, {"customer": "", "lines": [good]}),
            (400, {"customer": "x" * 101, "lines": [good]}),
            (400, {"customer": "Ada", "lines": []}),
            (400, {"customer": "Ada", "lines": [good] * 51}),
            (422, {"customer": "Ada", "lines": ["p1"]}),
            (422, {"customer": "Ada", "lines": [{"product": "p9", "quantity": 1}]}),
            (422, {"customer": "Ada", "lines": [{**good, "quantity": 0}]}),
            (422, {"customer": "Ada", "lines": [{**good, "quantity": 21}]}),
            (422, {"customer": "Ada", "lines": [{**good, "quantity": True}]}),
            (422, {"customer": "Ada", "lines": [{**good, "quantity": "1"}]}),
        ):
            with self.subTest(wish=str(wish)[:60]):
                answer, data = self.order(wish)
                self.assertEqual((answer.status, list(data)), (status, ["error"]))

    def test_what_is_not_json_is_refused(self) -> None:
        answer, _ = self.ask("POST", "/api/orders", b"{")
        self.assertEqual(answer.status, 400)

    def test_a_body_that_is_too_large_is_refused(self) -> None:
        answer, _ = self.ask("POST", "/api/orders", b"", Content_Length="65537")
        self.assertEqual(answer.status, 413)

    def test_many_at_once_are_all_stored(self) -> None:
        placed: list[str] = []

        def shopper() -> None:
            for _ in range(10):
                answer, data = self.order({"customer": "Ada", "lines": [{"product": "p1", "quantity": 1}]})
                placed.append(data["id"] if answer.status == 201 else f"status {answer.status}")

        threads = [threading.Thread(target=shopper) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(set(placed)), 80)
        self.assertTrue(all(self.store.order(order_id) for order_id in placed))


class ProcessTest(Base):
    """The whole program, as runit starts it."""

    def start(self) -> tuple[subprocess.Popen[str], int]:
        settings = config(self.folder)
        (self.folder / "config.json").write_text(json.dumps(asdict(settings)))
        program = [sys.executable, "-I", "-B", str(HOME / "shop_api.py"), str(self.folder / "config.json")]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertIn("shop-api 1.2.3", process.stdout.readline())
        return process, settings.port

    def test_a_request_under_way_is_finished_before_it_stops(self) -> None:
        process, port = self.start()
        slow = HTTPConnection("127.0.0.1", port, timeout=10)
        self.addCleanup(slow.close)
        slow.request("GET", "/api/slow?seconds=1")
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with self.assertRaises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        answer = slow.getresponse()
        self.assertEqual((answer.status, json.loads(answer.read())), (200, {"waited": 1.0}))
        self.assertEqual(process.wait(timeout=10), 0)

    def test_it_stops_at_once_when_nothing_is_under_way(self) -> None:
        process, _ = self.start()
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), 0)
        self.assertLess(time.monotonic() - start, 2)


class InstalledTest(Base):
    """What the role has put on this instance."""

    def test_the_configuration_and_the_dataset_are_good(self) -> None:
        installed = shop_api.Config.load(HOME / "config.json")
        store = shop_api.Store(":memory:")
        self.addCleanup(store.close)
        store.load(HOME / "dataset.json")
        self.assertGreater(store.counts()["products"], 0)
        self.assertRegex(installed.version, r"^\d+(\.\d+)*$")


if __name__ == "__main__":
    unittest.main()

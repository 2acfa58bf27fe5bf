"""The shop's products and orders over HTTP, kept in SQLite. Standard library only: it runs on a bare image.

``shop_api.py config.json`` listens on 127.0.0.1; the front passes requests on to it. On SIGTERM it takes no more
requests, finishes those that it has, and ends.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

RELEASE_FILE = Path("/etc/phoenix-release")
LARGEST_BODY = 64 * 1024
LONGEST_WAIT = 120.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS dataset (name TEXT PRIMARY KEY, loaded_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS categories (id TEXT PRIMARY KEY, title TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS products (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, category TEXT NOT NULL REFERENCES categories (id),
    price INTEGER NOT NULL CHECK (price > 0)
);
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, customer TEXT NOT NULL, lines TEXT NOT NULL, total INTEGER NOT NULL, placed_at TEXT NOT NULL
);
"""
COLUMNS = {"categories": ("id", "title"), "products": ("id", "title", "category", "price")}
"""Tables that a dataset fills, parents first, and their columns."""


class BadDataset(Exception):
    """The dataset is not what its manifest says."""


class BadRequest(Exception):
    """What the client sent cannot be taken; ``status`` is the HTTP status that says so."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Config:
    """What the role writes for one instance."""

    version: str
    environment: str
    dataset: str
    """Path of the dataset: one JSON file with its manifest, and the texts of its files by name."""
    database: str
    """Path of the SQLite file, or ``:memory:``."""
    currency: str
    order_limit: int
    """Most pieces of one product in one order."""
    slow_requests: bool
    """Whether ``/api/slow`` answers: for rehearsing drains, never for customers."""
    log_requests: bool
    port: int = 8000

    @classmethod
    def load(cls, path: Path) -> Config:
        """The configuration in that file; a missing or unknown key is an error."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def release(path: Path = RELEASE_FILE) -> str:
    """Version of the image that this instance was born from; ``unknown`` where no image says so."""
    match = re.search(r"^VERSION=(\S+)$", path.read_text(), re.M) if path.exists() else None
    return match[1] if match else "unknown"


class Store:
    """Products and orders in SQLite. Safe to use from several threads."""

    def __init__(self, database: str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(database, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(SCHEMA)

    def load(self, dataset: Path) -> None:
        """Fill the tables from a versioned dataset, unless it is the one they hold already.

        All or nothing: a file that does not match the manifest leaves everything as it was.
        """
        content = json.loads(dataset.read_text(encoding="utf-8"))
        manifest = content["manifest"]
        tables = {
            table: self._rows(f"{table}.json", content["texts"][f"{table}.json"], manifest["files"])
            for table in COLUMNS
        }
        with self._lock, self._db:
            if self.dataset() == manifest["name"]:
                return
            for table in reversed(COLUMNS):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names are ours
            for table, columns in COLUMNS.items():
                places = ", ".join("?" for _ in columns)
                rows = [tuple(row[column] for column in columns) for row in tables[table]]
                self._db.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608
            self._db.execute("DELETE FROM dataset")
            self._db.execute("INSERT INTO dataset VALUES (?, datetime('now'))", [manifest["name"]])

    @staticmethod
    def _rows(name: str, text: str, files: dict[str, Any]) -> list[dict[str, Any]]:
        found = hashlib.sha256(text.encode()).hexdigest()
        if found != files[name]["sha256"]:
            raise BadDataset(f"{name} has SHA-256 {found}, and the manifest says {files[name]['sha256']}.")
        rows: list[dict[str, Any]] = json.loads(text)
        if len(rows) != files[name]["rows"]:
            raise BadDataset(f"{name} has {len(rows)} rows, and the manifest says {files[name]['rows']}.")
        return rows

    def dataset(self) -> str:
        """Name of the dataset that the tables hold; empty before the first."""
        row = self._db.execute("SELECT name FROM dataset").fetchone()
        return str(row["name"]) if row else ""

    def counts(self) -> dict[str, int]:
        """Rows per table that a dataset fills."""
        with self._lock:
            return {
                table: self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in COLUMNS
            }

    def products(self, category: str = "") -> list[dict[str, Any]]:
        """All products, or those of one category, by id."""
        query = "SELECT * FROM products WHERE ? IN ('', category) ORDER BY id"
        with self._lock:
            return [dict(row) for row in self._db.execute(query, [category])]

    def product(self, product_id: str) -> dict[str, Any] | None:
        """One product, or None."""
        with self._lock:
            row = self._db.execute("SELECT * FROM products WHERE id = ?", [product_id]).fetchone()
        return dict(row) if row else None

    def place_order(self, customer: str, lines: list[dict[str, Any]], total: int) -> dict[str, Any]:
        """The order as stored, with an id of its own."""
        order = {
            "id": uuid.uuid4().hex,
            "customer": customer,
            "lines": json.dumps(lines),
            "total": total,
            "placed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with self._lock, self._db:
            self._db.execute("INSERT INTO orders VALUES (:id, :customer, :lines, :total, :placed_at)", order)
        return {**order, "lines": lines}

    def order(self, order_id: str) -> dict[str, Any] | None:
        """One order, or None."""
        with self._lock:
            row = self._db.execute("SELECT * FROM orders WHERE id = ?", [order_id]).fetchone()
        return {**dict(row), "lines": json.loads(row["lines"])} if row else None

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


class Shop:
    """What the service answers, without HTTP."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config = config
        self.store = store
        self.release = release()
        self.instance = socket.gethostname()

    def health(self, front_version: str = "") -> dict[str, Any]:
        """Who answers, and with what. ``front_version`` is what the front in between says of itself."""
        components = {"shop-api": self.config.version}
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}", front_version):
            components["shop-front"] = front_version
        return {
            "status": "ok",
            "components": components,
            "dataset": self.store.dataset(),
            "environment": self.config.environment,
            "release": self.release,
            "instance": self.instance,
        }

    def dataset(self) -> dict[str, Any]:
        """What the dataset has brought."""
        return {"name": self.store.dataset(), "rows": self.store.counts()}

    def products(self, category: str = "") -> dict[str, Any]:
        """The catalogue."""
        return {"currency": self.config.currency, "products": self.store.products(category)}

    def order(self, wish: Any) -> dict[str, Any]:
        """Check and store an order. :raises BadRequest: naming what is wrong with it."""
        if not isinstance(wish, dict):
            raise BadRequest("An order is an object with customer and lines.")
        customer, lines = wish.get("customer"), wish.get("lines")
        if not isinstance(customer, str) or not 1 <= len(customer) <= 100:
            raise BadRequest("customer: 1 to 100 characters.")
        if not isinstance(lines, list) or not 1 <= len(lines) <= 50:
            raise BadRequest("lines: 1 to 50 lines.")
        checked = [self._line(line) for line in lines]
        return self.store.place_order(customer, checked, sum(line["price"] * line["quantity"] for line in checked))

    def _line(self, line: Any) -> dict[str, Any]:
        product_id = line.get("product") if isinstance(line, dict) else None
        product = self.store.product(product_id) if isinstance(product_id, str) else None
        if product is None:
            raise BadRequest(f"product: there is no {product_id!r}.", HTTPStatus.UNPROCESSABLE_ENTITY)
        quantity = line.get("quantity")
        if type(quantity) is not int or not 1 <= quantity <= self.config.order_limit:
            raise BadRequest(f"quantity: 1 to {self.config.order_limit}.", HTTPStatus.UNPROCESSABLE_ENTITY)
        return {"product": product["id"], "quantity": quantity, "price": product["price"]}


class Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: the front opens a connection per request, so none idles while the service stops."""

    server: Server
    server_version = "shop-api"
    sys_version = ""
    timeout = 30  # seconds for a client that says nothing

    def do_GET(self) -> None:
        """Answer a GET."""
        url = urlsplit(self.path)
        self._answer(lambda: self._get(url.path, {name: found[0] for name, found in parse_qs(url.query).items()}))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer(self._post)

    def _get(self, path: str, query: dict[str, str]) -> tuple[HTTPStatus, Any]:
        shop = self.server.shop
        match path.strip("/").split("/"):
            case ["healthz"]:
                return HTTPStatus.OK, shop.health(self.headers.get("X-Front-Version", ""))
            case ["api", "dataset"]:
                return HTTPStatus.OK, shop.dataset()
            case ["api", "products"]:
                return HTTPStatus.OK, shop.products(query.get("category", ""))
            case ["api", "products", product_id]:
                return _found(shop.store.product(product_id))
            case ["api", "orders", order_id]:
                return _found(shop.store.order(order_id))
            case ["api", "slow"] if shop.config.slow_requests:
                return self._slow(query.get("seconds", "1"))
        return _found(None)

    def _slow(self, seconds: str) -> tuple[HTTPStatus, Any]:
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", seconds) or float(seconds) > LONGEST_WAIT:
            raise BadRequest(f"seconds: 0 to {LONGEST_WAIT:.0f}.")
        time.sleep(float(seconds))
        return HTTPStatus.OK, {"waited": float(seconds)}

    def _post(self) -> tuple[HTTPStatus, Any]:
        if urlsplit(self.path).path.rstrip("/") != "/api/orders":
            return _found(None)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BadRequest("Say the Content-Length.", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > LARGEST_BODY:
            raise BadRequest("An order is smaller than that.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            wish = json.loads(self.rfile.read(int(length)))
        except ValueError:
            raise BadRequest("This is not JSON.") from None
        return HTTPStatus.CREATED, self.server.shop.order(wish)

    def _answer(self, make: Any) -> None:
        try:
            status, data = make()
        except BadRequest as error:
            status, data = error.status, {"error": str(error)}
        except Exception as error:
            self.log_error("%s %s: %r", self.command, self.path, error)
            status, data = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "The service failed; its log says how."}
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Every answer says who gave it."""
        super().send_response(code, message)
        self.send_header("X-Instance", self.server.shop.instance)
        self.send_header("X-Release", self.server.shop.release)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log a request, where the configuration says so."""
        if self.server.shop.config.log_requests:
            super().log_request(code, size)


def _found(thing: Any) -> tuple[HTTPStatus, Any]:
    if thing is None:
        return HTTPStatus.NOT_FOUND, {"error": "There is no such thing."}
    return HTTPStatus.OK, thing


class Server(ThreadingHTTPServer):
    """The listening service; ``server_close`` waits for the requests that are under way."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, shop: Shop, port: int) -> None:
        self.shop = shop
        super().__init__(("127.0.0.1", port), Handler)

    def stop(self) -> None:
        """Make ``serve_forever`` return; from any thread but its own."""
        threading.Thread(target=self.shutdown, daemon=True).start()


def main(path: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = Config.load(Path(path))
    store = Store(config.database)
    store.load(Path(config.dataset))
    server = Server(Shop(config, store), config.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    print(f"shop-api {config.version} ({config.environment}) on port {config.port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

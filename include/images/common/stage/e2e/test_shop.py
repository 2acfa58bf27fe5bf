"""What a customer does, from outside: look at the page, choose, order, come back."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


def test_the_page_is_there_for_a_browser(client: httpx.Client, facts: dict[str, Any]) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "<title>The shop</title>" in answer.text
    for place in ("products", "instance", "release"):
        assert f'id="{place}"' in answer.text
    assert f'data-environment="{facts["environment"]}"' in answer.text


def test_the_page_is_the_certified_fronts(client: httpx.Client, facts: dict[str, Any]) -> None:
    found = re.search(r'<meta name="shop-front-version" content="([^"]*)">', client.get("/").text)
    assert found is not None
    assert found[1] == facts["components"]["shop-front"]


def test_the_banner_warns_as_the_environment_says(client: httpx.Client, facts: dict[str, Any]) -> None:
    banner = facts["values"]["shop_banner"]
    page = client.get("/").text
    assert (banner in page and 'class="banner"' in page) if banner else 'class="banner"' not in page


def test_nothing_else_is_shown(client: httpx.Client) -> None:
    for path in ("/nginx.conf", "/run", "/.git/config", "/shop.db", "/%2e%2e/etc/passwd"):
        answer = client.get(path)
        assert answer.status_code in (400, 404), path


def test_a_customer_orders_and_finds_the_order_again(client: httpx.Client, dataset: dict[str, Any]) -> None:
    """Each instance keeps its own orders, so the customer looks until the balancer leads to the one that has it.

    That one must have it unchanged, and no other may pretend to.
    """
    chosen = client.get("/api/products", params={"category": dataset["categories"][0]["id"]}).json()["products"][:2]
    lines = [{"product": product["id"], "quantity": 2} for product in chosen]
    placed = client.post("/api/orders", json={"customer": "Ada", "lines": lines})
    assert placed.status_code == 201
    assert placed.json()["total"] == sum(2 * product["price"] for product in chosen)
    for _ in range(50):
        found = client.get(f"/api/orders/{placed.json()['id']}")
        if found.headers["X-Instance"] == placed.headers["X-Instance"]:
            assert found.status_code == 200
            assert found.json() == placed.json()
            return
        assert found.status_code == 404
    raise AssertionError(f"the balancer never led back to {placed.headers['X-Instance']}, which took the order")


def test_what_is_not_there_is_said_to_be_missing(client: httpx.Client) -> None:
    for path in ("/api/products/none", "/api/orders/none", "/nowhere"):
        assert client.get(path).status_code == 404


def test_customers_come_in_numbers(client: httpx.Client) -> None:
    def visit(_: int) -> int:
        return client.get("/api/products", headers={"Connection": "close"}).status_code

    with ThreadPoolExecutor(8) as crowd:
        assert set(crowd.map(visit, range(200))) == {200}

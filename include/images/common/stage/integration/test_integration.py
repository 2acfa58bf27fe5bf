"""The components with each other, their values and their data: through the front to the API and its store."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


def test_both_components_are_the_certified_versions(client: httpx.Client, facts: dict[str, Any]) -> None:
    assert client.get("/healthz").json()["components"] == facts["components"]


def test_it_runs_with_the_values_of_its_environment(client: httpx.Client, facts: dict[str, Any]) -> None:
    health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["environment"] == facts["environment"]
    assert client.get("/api/products").json()["currency"] == facts["values"]["shop_currency"]


def test_the_api_and_its_front_are_on_the_same_instance(client: httpx.Client, facts: dict[str, Any]) -> None:
    answer = client.get("/healthz")
    assert answer.json()["instance"] == answer.headers["X-Instance"]
    assert answer.json()["release"] == facts["version"]


def test_the_store_holds_the_dataset(client: httpx.Client, dataset: dict[str, Any]) -> None:
    rows = {"categories": len(dataset["categories"]), "products": len(dataset["products"])}
    assert client.get("/api/dataset").json() == {"name": dataset["name"], "rows": rows}


def test_every_product_arrives_unchanged(client: httpx.Client, dataset: dict[str, Any]) -> None:
    expected = sorted(dataset["products"], key=lambda product: str(product["id"]))
    assert client.get("/api/products").json()["products"] == expected


def test_each_category_has_its_products(client: httpx.Client, dataset: dict[str, Any]) -> None:
    for category in dataset["categories"]:
        found = client.get("/api/products", params={"category": category["id"]}).json()["products"]
        expected = {product["id"] for product in dataset["products"] if product["category"] == category["id"]}
        assert {product["id"] for product in found} == expected
        assert expected


def test_an_order_takes_its_prices_from_the_store(client: httpx.Client, dataset: dict[str, Any]) -> None:
    product = dataset["products"][0]
    answer = client.post(
        "/api/orders", json={"customer": "stage", "lines": [{"product": product["id"], "quantity": 3}]}
    )
    assert answer.status_code == 201
    assert answer.json()["total"] == 3 * product["price"]


def test_the_order_limit_is_the_environments(
    client: httpx.Client, facts: dict[str, Any], dataset: dict[str, Any]
) -> None:
    limit = facts["values"]["shop_order_limit"]

    def order(quantity: int) -> int:
        lines = [{"product": dataset["products"][0]["id"], "quantity": quantity}]
        return client.post("/api/orders", json={"customer": "stage", "lines": lines}).status_code

    assert (order(limit), order(limit + 1)) == (201, 422)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"customer": "x", "lines": [{"product": "none", "quantity": 1}]}', 422)],
    ids=["not JSON", "not an order", "unknown product"],
)
def test_the_front_passes_on_why_an_order_is_refused(client: httpx.Client, content: bytes, status: int) -> None:
    answer = client.post("/api/orders", content=content)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_body_too_large_is_stopped(client: httpx.Client) -> None:
    assert client.post("/api/orders", content=b"x" * 70_000).status_code == 413


def test_slow_requests_are_answered_where_the_environment_has_them(client: httpx.Client, facts: dict[str, Any]) -> None:
    expected = 200 if facts["values"]["shop_slow_requests"] else 404
    assert client.get("/api/slow", params={"seconds": "0.2"}).status_code == expected

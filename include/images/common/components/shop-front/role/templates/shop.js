"use strict";

// Fills the table from the API and says which instance and release have answered.
async function showProducts() {
  const answer = await fetch("/api/products");
  const { currency, products } = await answer.json();
  const price = new Intl.NumberFormat(undefined, { style: "currency", currency });
  const rows = products.map((product) => {
    const row = document.createElement("tr");
    for (const text of [product.title, product.category, price.format(product.price / 100)]) {
      row.appendChild(document.createElement("td")).textContent = text;
    }
    return row;
  });
  document.querySelector("#products").replaceChildren(...rows);
  document.querySelector("#instance").textContent = answer.headers.get("X-Instance");
  document.querySelector("#release").textContent = answer.headers.get("X-Release");
}

showProducts();

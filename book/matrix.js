// Filters and order of the verdict matrix. Without this script the page shows every statement, in the sources' order.
"use strict";
(function () {
  const form = document.getElementById("filters");
  const table = document.getElementById("matrix");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const shown = document.getElementById("shown");
  const exact = ["source", "group", "verdict", "kind"];
  const names = [...exact, "text", "sort"];
  const ranks = ["fails", "holds in part", "depends on", "no difference", "holds", "open", "not comparable", "not run"];
  const heads = Array.from(table.querySelectorAll("th[data-sort]"));

  const number = (text) => Math.abs(parseFloat(text.replace("\u2212", "-").replace(/[^\d.-]/g, "")));
  const cell = (row, label) => row.querySelector(`[data-label="${label}"]`).textContent;
  const keys = {
    says: (row) => row.querySelector(".clamp").textContent.replace(/^\s*\S+\s*/, "").toLowerCase(),
    difference: (row) => -(number(cell(row, "Difference")) || 0),
    verdict: (row) => ranks.indexOf(row.dataset.word),
    n: (row) => -Number(row.dataset.n),
  };

  function order(name) {
    const key = keys[name];
    const sorted = key
      ? rows.map((row, i) => [key(row), i, row]).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] - b[1]))
      : rows.map((row) => [0, 0, row]);
    body.append(...sorted.map((each) => each[2]));
    for (const head of heads) {
      if (head.dataset.sort === name) head.setAttribute("aria-sort", name === "n" || name === "difference" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function apply(scroll) {
    const wanted = Object.fromEntries(names.map((name) => [name, form.elements[name].value.trim()]));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(
        exact.every((name) => !wanted[name] || row.dataset[name] === wanted[name]) &&
        words.every((word) => text.includes(word))
      );
      count += row.hidden ? 0 : 1;
    }
    order(wanted.sort);
    shown.textContent = count + " of " + rows.length + " statements shown";
    const place = new URLSearchParams(names.filter((name) => wanted[name]).map((name) => [name, wanted[name]])).toString();
    if (place || location.hash.includes("=")) history.replaceState(null, "", "#" + place);
    if (scroll) toResult();
  }

  // What was found must be in view: else the choice seems to do nothing.
  function toResult() {
    const first = rows.find((row) => !row.hidden);
    const box = (first || table).getBoundingClientRect();
    if (box.top < 0 || box.bottom > innerHeight || form.getBoundingClientRect().top < 0) form.scrollIntoView();
  }

  function fromAddress() {
    const chosen = location.hash.includes("=");
    if (chosen) {
      const given = new URLSearchParams(location.hash.slice(1));
      for (const name of names) form.elements[name].value = given.get(name) || "";
    }
    apply(chosen);
    const target = !chosen && location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.matches("#matrix tr")) target.querySelector("details").open = true;
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      form.elements.sort.value = form.elements.sort.value === head.dataset.sort ? "" : head.dataset.sort;
      apply(false);
    });
    head.replaceChildren(button);
  }
  form.hidden = false;
  form.addEventListener("input", () => apply(true));
  form.addEventListener("reset", () => setTimeout(() => apply(false)));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();

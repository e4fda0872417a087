// Filters of the verdict matrix. Without this script the page shows every statement.
"use strict";
(function () {
  const form = document.getElementById("filters");
  const rows = Array.from(document.querySelectorAll("#matrix tbody tr"));
  const shown = document.getElementById("shown");
  const names = ["source", "group", "verdict", "kind", "text"];

  function apply() {
    const wanted = Object.fromEntries(names.map((name) => [name, form.elements[name].value.trim()]));
    const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const visible =
        ["source", "group", "verdict", "kind"].every((name) => !wanted[name] || row.dataset[name] === wanted[name]) &&
        words.every((word) => text.includes(word));
      row.hidden = !visible;
      count += visible ? 1 : 0;
    }
    shown.textContent = count + " of " + rows.length + " statements shown";
    const chosen = new URLSearchParams(names.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));
    const place = chosen.toString();
    if (place || location.hash.includes("=")) {
      history.replaceState(null, "", "#" + place);
    }
  }

  function fromAddress() {
    if (location.hash.includes("=")) {
      const chosen = new URLSearchParams(location.hash.slice(1));
      for (const name of names) form.elements[name].value = chosen.get(name) || "";
    }
    apply();
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();

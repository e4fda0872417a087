// Full-text search over search-index.js: [file, title, [[anchor, heading, text], ...]] for every page.
"use strict";
(function () {
  const form = document.getElementById("search");
  const list = document.getElementById("results");
  const found = document.getElementById("found");
  const most = 60;
  const index = window.SEARCH.flatMap(([page, title, sections]) =>
    sections.map(([anchor, heading, text]) => ({
      page, title, anchor, heading, text,
      head: (heading + " " + title).toLowerCase(), low: (heading + " " + text).toLowerCase(),
    })));

  function score(entry, words) {
    let sum = entry.page.match(/^[a-z0-9]+\.c\d+\.html$/) ? 2 : 0;
    for (const word of words) {
      if (!entry.low.includes(word) && !entry.head.includes(word)) return 0;
      const whole = new RegExp("(^|[^a-z0-9])" + word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + "($|[^a-z0-9])");
      sum += 1 + (entry.head.includes(word) ? 6 : 0) + (whole.test(entry.head) ? 6 : 0) + (whole.test(entry.low) ? 3 : 0);
    }
    return sum;
  }

  function snippet(text, words) {
    const low = text.toLowerCase();
    const places = words.map((word) => low.indexOf(word)).filter((at) => at >= 0);
    const from = Math.max(0, (places.length ? Math.min(...places) : 0) - 60);
    const part = (from ? "…" : "") + text.slice(from, from + 220) + (from + 220 < text.length ? "…" : "");
    return marked(part, words);
  }

  function marked(text, words) {
    const made = document.createDocumentFragment();
    const any = new RegExp("(" + words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|") + ")", "gi");
    text.split(any).forEach((piece, i) => {
      if (i % 2) made.append(Object.assign(document.createElement("mark"), { textContent: piece }));
      else made.append(piece);
    });
    return made;
  }

  function search() {
    const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    list.replaceChildren();
    found.textContent = "";
    if (!words.length) return;
    const hits = index.map((entry) => [score(entry, words), entry]).filter((hit) => hit[0]);
    hits.sort((a, b) => b[0] - a[0]);
    const perPage = {};
    const best = hits.filter(([, entry]) => (perPage[entry.page] = (perPage[entry.page] || 0) + 1) <= 2).slice(0, most);
    found.textContent = hits.length + (hits.length === 1 ? " section" : " sections") + (hits.length > best.length ? ", the best " + best.length + " shown" : "");
    for (const [, entry] of best) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = entry.page + (entry.anchor ? "#" + encodeURIComponent(entry.anchor) : "");
      link.append(marked(entry.heading && entry.heading !== entry.title ? entry.title + " › " + entry.heading : entry.title, words));
      const text = document.createElement("p");
      text.append(snippet(entry.text, words));
      item.append(link, text);
      list.append(item);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    history.replaceState(null, "", "?q=" + encodeURIComponent(form.elements.q.value));
    search();
  });
  form.addEventListener("input", search);
  form.elements.q.value = new URLSearchParams(location.search).get("q") || "";
  search();
  form.elements.q.focus();
})();

// Curves of trained runs, drawn as SVG from curves-<source>.js: runs of {run, label, settings, statements, epoch, round, seeds}.
"use strict";
(function () {
  const form = document.getElementById("explorer");
  const chart = document.getElementById("chart");
  const list = document.getElementById("list");
  const at = document.getElementById("at");
  const table = document.getElementById("values");
  const [width, height, left, right, top, bottom] = [760, 420, 56, 16, 14, 44];
  const dashes = ["", "7 4", "2 3"];
  // Student's t at 95 %, two-sided, by degrees of freedom.
  const t = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201];
  let runs = [];
  let drawn = [];

  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const field = (name) => form.elements[name];
  const show = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(Math.abs(value) < 10 ? 2 : 1)).replace("-", "\u2212");

  function load(source) {
    return new Promise((done) => {
      if (window.CURVES && window.CURVES[source]) return done();
      const script = Object.assign(document.createElement("script"), { src: "curves-" + source + ".js", onload: done });
      document.head.append(script);
    });
  }

  // Mean, and its interval, of the seeds that have a value at place i.
  function mean(run, measure, i) {
    const values = Object.values(run.seeds).map((seed) => (seed[measure] || [])[i]).filter((v) => v !== undefined);
    const n = values.length;
    if (!n) return null;
    const m = values.reduce((a, b) => a + b, 0) / n;
    const sd = Math.sqrt(values.reduce((a, b) => a + (b - m) ** 2, 0) / (n - 1));
    const half = n > 1 ? (t[Math.min(n - 1, t.length - 1)] * sd) / Math.sqrt(n) : null;
    return { n, m, low: half === null ? null : m - half, high: half === null ? null : m + half };
  }

  function fill() {
    const statement = field("statement").value;
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const known = new Set(ticked());
    list.replaceChildren();
    const fitting = runs.filter((run) => (!statement || run.statements.includes(statement)) &&
      words.every((word) => (run.run + " " + run.label + " " + run.settings).toLowerCase().includes(word)));
    for (const run of fitting) {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: run.run, checked: known.has(run.run) });
      label.title = run.settings;
      label.append(box, " " + run.label + (run.group === "grid" ? " (grid)" : ""));
      list.append(label);
    }
    if (!fitting.length) list.textContent = "No run fits.";
    if (!list.querySelector(":checked")) first();
  }

  const ticked = () => Array.from(list.querySelectorAll(":checked"), (box) => box.value);
  const first = () => list.querySelectorAll("input").forEach((box, i) => { box.checked = i < 8; });

  function scale(low, high, from, to) {
    const span = high - low || 1;
    return (value) => from + ((value - low) / span) * (to - from);
  }

  function ticks(low, high) {
    const rough = (high - low) / 7 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const made = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9; k += 1) made.push(+(k * step).toPrecision(10));
    return made;
  }

  function draw() {
    const measure = field("measure").value;
    const axis = field("axis").value;
    const chosen = ticked();
    drawn = runs.filter((run) => chosen.includes(run.run));
    chart.replaceChildren();
    const means = drawn.map((run) => run[axis].map((_, i) => mean(run, measure, i)));
    const values = [];
    means.forEach((all, k) => all.forEach((each, i) => {
      if (!each) return;
      values.push(each.m);
      if (field("bands").checked && each.low !== null) values.push(each.low, each.high);
      if (field("seeds").checked) Object.values(drawn[k].seeds).forEach((s) => s[measure] && s[measure][i] !== undefined && values.push(s[measure][i]));
    }));
    if (!values.length) {
      chart.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, drawn.length ? "These runs have no such values." : "Tick a run to draw it."));
      chart.setAttribute("aria-label", "Nothing is drawn");
      read();
      return;
    }
    const percent = measure !== "test_loss";
    let [low, high] = [Math.min(...values), Math.max(...values)];
    [low, high] = percent ? [Math.max(0, low - 2), Math.min(100, high + 2)] : [Math.max(0, low - 0.05), high + 0.05];
    const most = Math.max(...drawn.map((run) => Math.max(...run[axis])));
    const x = scale(0, most, left, width - right);
    const y = scale(low, high, height - bottom, top);
    frame(x, y, most, low, high, measure, axis);
    drawn.forEach((run, k) => curve(run, k, means[k], x, y, measure, axis));
    at.step = "any";
    at.max = most;
    if (+at.value > most || at.dataset.axis !== axis) at.value = most;
    at.dataset.axis = axis;
    chart.append(svg("line", { id: "cursor", class: "grid", y1: top, y2: height - bottom }));
    chart.setAttribute("aria-label", field("measure").selectedOptions[0].text + " of " + drawn.map((run) => run.label).join(", "));
    chart.dataset.most = most;
    read();
  }

  function frame(x, y, most, low, high, measure, axis) {
    for (const value of ticks(low, high)) {
      chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
      chart.append(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    }
    for (const value of ticks(0, most)) {
      chart.append(svg("text", { x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, value.toLocaleString("en-GB")));
    }
    chart.append(svg("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, axis === "epoch" ? "epochs" : "communication rounds"));
    chart.append(svg("text", { x: 12, y: top - 2 }, field("measure").selectedOptions[0].text));
  }

  function curve(run, k, means, x, y, measure, axis) {
    const style = { class: "c" + (k % 8), "stroke-dasharray": dashes[Math.floor(k / 8) % dashes.length] };
    const points = means.map((each, i) => each && [x(run[axis][i]), each]).filter(Boolean);
    const path = (list) => list.map(([px, py], i) => (i ? "L" : "M") + px.toFixed(1) + " " + py.toFixed(1)).join("");
    const banded = points.filter(([, each]) => each.low !== null);
    if (field("bands").checked && banded.length) {
      const edge = [...banded.map(([px, e]) => [px, y(e.high)]), ...banded.map(([px, e]) => [px, y(e.low)]).reverse()];
      chart.append(svg("path", { class: "band c" + (k % 8), d: path(edge) + "z" }));
    }
    if (field("seeds").checked) {
      for (const seed of Object.values(run.seeds)) {
        const line = (seed[measure] || []).map((value, i) => [x(run[axis][i]), y(value)]);
        if (line.length) chart.append(svg("path", { ...style, class: "seed c" + (k % 8), d: path(line) }));
      }
    }
    chart.append(svg("path", { ...style, class: "mean c" + (k % 8), d: path(points.map(([px, e]) => [px, y(e.m)])) }));
  }

  // The values at the place of the slider, which pointer and keyboard move.
  function read() {
    const [measure, axis] = [field("measure").value, field("axis").value];
    const body = table.tBodies[0];
    body.replaceChildren();
    const where = +at.value;
    drawn.forEach((run, k) => {
      let i = 0;
      run[axis].forEach((value, j) => { if (Math.abs(value - where) < Math.abs(run[axis][i] - where)) i = j; });
      const found = mean(run, measure, i);
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      const key = svg("svg", { class: "key", width: 30, height: 10, "aria-hidden": "true" });
      key.append(svg("path", { class: "mean c" + (k % 8), d: "M1 5h28", "stroke-dasharray": dashes[Math.floor(k / 8) % dashes.length] }));
      const link = Object.assign(document.createElement("a"), { href: `runs-${field("source").value}.html#${run.run}`, textContent: run.label });
      head.append(key, " ", link);
      row.append(head);
      const texts = found ? [show(found.m), found.low === null ? "one seed" : show(found.low) + " to " + show(found.high), String(found.n)] : ["–", "–", "0"];
      for (const text of texts) row.insertCell().textContent = text;
    });
    const unit = axis === "epoch" ? "epoch" : "round";
    table.caption.textContent = drawn.length ? field("measure").selectedOptions[0].text + " at the evaluation nearest to " + unit + " " + show(where) : "";
    const cursor = document.getElementById("cursor");
    if (cursor) {
      const px = scale(0, +chart.dataset.most, left, width - right)(where);
      cursor.setAttribute("x1", px);
      cursor.setAttribute("x2", px);
    }
  }

  function point(event) {
    if (!drawn.length || !chart.dataset.most) return;
    const box = chart.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * width;
    at.value = Math.min(Math.max((px - left) / (width - right - left), 0), 1) * +chart.dataset.most;
    read();
  }

  function address() {
    const names = ["source", "statement", "text", "measure", "axis"];
    const given = names.filter((name) => field(name).value).map((name) => [name, field(name).value]);
    history.replaceState(null, "", "#" + new URLSearchParams(given));
  }

  async function choose(source, statement) {
    await load(source);
    runs = window.CURVES[source] || [];
    const known = [...new Set(runs.flatMap((run) => run.statements))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    field("statement").replaceChildren(new Option("any", ""), ...known.map((name) => new Option(name, name)));
    field("statement").value = known.includes(statement) ? statement : "";
    list.replaceChildren();
    fill();
    draw();
  }

  async function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of ["text", "measure", "axis"]) if (given.get(name)) field(name).value = given.get(name);
    const sources = Array.from(field("source").options, (option) => option.value);
    if (sources.includes(given.get("source"))) field("source").value = given.get("source");
    await choose(field("source").value, given.get("statement"));
  }

  form.addEventListener("input", async (event) => {
    const name = event.target.name;
    if (name === "source") await choose(field("source").value, "");
    else {
      if (name === "statement") list.replaceChildren();
      if (name === "statement" || name === "text") fill();
      draw();
    }
    address();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  list.addEventListener("input", draw);
  document.getElementById("all").addEventListener("click", () => { first(); draw(); });
  document.getElementById("none").addEventListener("click", () => { list.querySelectorAll("input").forEach((box) => { box.checked = false; }); draw(); });
  at.addEventListener("input", read);
  chart.addEventListener("pointermove", point);
  window.addEventListener("hashchange", fromAddress);
  form.hidden = false;
  document.getElementById("drawn").hidden = false;
  fromAddress();
})();

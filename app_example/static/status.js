"use strict";
/* The status page: shows what the server's events say of each endpoint, about each second.
   Whatever comes from outside goes into the page as text, never as HTML. */

const $ = (id) => document.getElementById(id);

const EVENTS = "/api/status/events";
const SILENT_MS = 10_000; // there is an event each second: after so long without one the connection is dead
const AGAIN_MS = 3_000;
const SLOT_S = 15;
const SLOTS = 60;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* Nothing is written that is there already: a reader's selection and place stay. */
function write(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/* ---------- the connection ---------- */

let source = null;
let watchdog = 0;
let again = 0;

function connect() {
  disconnect();
  source = new EventSource(EVENTS);
  source.onmessage = ({ data }) => {
    listen();
    tellConnection("live");
    show(JSON.parse(data));
  };
  source.onerror = () => {
    tellConnection("lost");
    if (source.readyState === EventSource.CLOSED) reconnectLater(); // else the browser itself comes back
  };
  listen();
}

function disconnect() {
  source?.close();
  clearTimeout(watchdog);
  clearTimeout(again);
}

function listen() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    tellConnection("lost");
    connect();
  }, SILENT_MS);
}

function reconnectLater() {
  disconnect();
  again = setTimeout(connect, AGAIN_MS);
}

const CONNECTION = {
  live: "Live",
  lost: "Connection lost: these figures are old. Trying again …",
};

function tellConnection(state) {
  const told = $("connection");
  if (told.dataset.state === state) return;
  told.dataset.state = state;
  told.textContent = CONNECTION[state];
  document.body.classList.toggle("is-stale", state === "lost");
}

/* A page that nobody sees asks for nothing: a browser has six connections to a server, for all of its tabs. */
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

/* ---------- functions ---------- */

const sections = new Map(); // by the function's name

function show({ functions, minutes }) {
  $("empty").hidden = functions.length > 0;
  const names = functions.map((each) => each.function);
  for (const [name, { section }] of sections) {
    if (names.includes(name)) continue;
    section.remove(); // the server was started anew, and has not asked for it yet
    sections.delete(name);
  }
  for (const each of functions) {
    if (!sections.has(each.function)) sections.set(each.function, newSection(each.function, minutes));
    showFunction(sections.get(each.function), each);
  }
}

function newSection(name, minutes) {
  const section = $("function").content.firstElementChild.cloneNode(true);
  const heading = section.querySelector("h2");
  heading.textContent = name;
  heading.id = `function-${name}`;
  section.setAttribute("aria-labelledby", heading.id);
  section.dataset.function = name;
  const table = section.querySelector("table");
  table.setAttribute("aria-labelledby", heading.id);
  section.querySelector(".latency").textContent = `Latency, last ${minutes} min`;
  $("functions").append(section);
  return { section, table, rows: new Map() };
}

function showFunction({ section, table, rows }, told) {
  write(section.querySelector(".summary"), summary(told));
  const names = told.endpoints.map(({ name }) => name);
  for (const [name, row] of rows) {
    if (names.includes(name)) continue;
    row.body.remove();
    rows.delete(name);
  }
  for (const endpoint of told.endpoints) {
    if (!rows.has(endpoint.name)) rows.set(endpoint.name, newRow(endpoint.name));
    const row = rows.get(endpoint.name);
    const place = table.tBodies[names.indexOf(endpoint.name)];
    if (place !== row.body) table.insertBefore(row.body, place ?? null);
    showEndpoint(row, endpoint, told.function);
  }
  showBudgets(section, told.budgets);
  showSources(section, told.sources);
}

function summary({ since, calls, failed_calls, call_errors, elsewhere }) {
  const parts = [`${count(calls)} ${calls === 1 ? "call" : "calls"} since ${new Date(since * 1000).toLocaleString()}`];
  parts.push(failed_calls ? `${count(failed_calls)} failed (${errors(call_errors)})` : "none failed");
  if (elsewhere) parts.push(`${count(elsewhere)} of them at no endpoint, or at one that is gone`);
  return `${parts.join(", ")}.`;
}

function errors(byLabel) {
  return Object.entries(byLabel)
    .filter(([label]) => label !== "cancelled")
    .map(([label, times]) => `${label}\u00a0×${count(times)}`)
    .join(", ");
}

/* ---------- endpoints ---------- */

const NUMBERS = {
  in_flight: "In flight",
  calls: "Calls",
  failed: "Failed attempts",
  p50: "p50",
  p95: "p95",
  first: "First content",
  input: "Tokens in",
  cached: "Cached",
  output: "Tokens out",
  reasoning: "Reasoning",
  cost: "Cost",
};

function cell(tag, role, className, name) {
  const made = element(tag, className);
  made.setAttribute("role", role); // as a card on a narrow screen it is a table still, for who hears it
  if (name) made.dataset.name = name;
  return made;
}

function newRow(name) {
  const body = element("tbody");
  body.setAttribute("role", "rowgroup");
  body.dataset.endpoint = name;
  const cells = { endpoint: cell("th", "rowheader", "endpoint"), health: cell("td", "cell", "health") };
  cells.endpoint.scope = "row";
  cells.health.append(element("span", "words"), element("span", "small"));
  cells.breaker = cell("td", "cell", "breaker", "Breaker");
  for (const [key, title] of Object.entries(NUMBERS)) {
    cells[key] = cell("td", "cell", "figure", title);
    cells[key].append(element("span", "value"), element("span", "small"));
  }
  const figures = cell("tr", "row");
  figures.append(...Object.values(cells));
  const plot = cell("td", "cell", "plot");
  plot.colSpan = Object.keys(cells).length;
  const below = cell("tr", "row");
  below.append(plot);
  body.append(figures, below);
  return { body, cells, plot, drawn: "", health: null };
}

function showEndpoint(row, told, functionName) {
  const { cells } = row;
  if (!cells.endpoint.hasChildNodes()) {
    cells.endpoint.append(element("span", "", told.name), element("span", "small"));
  }
  write(cells.endpoint.lastChild, told.server);
  showHealth(row, told, functionName);
  write(cells.breaker, told.breaker);
  number(cells.in_flight, count(told.in_flight));
  number(cells.calls, count(told.calls));
  number(cells.failed, count(told.failed), errors(told.errors));
  cells.failed.classList.toggle("some", told.failed > 0);
  number(cells.p50, time(told.p50_s));
  number(cells.p95, time(told.p95_s));
  number(cells.first, time(told.first_content_s));
  showTokens(cells, told.tokens);
  showCost(cells.cost, told.cost);
  draw(row, told);
}

function showHealth(row, { name, health }, functionName) {
  const { level, words, rest_s, why } = health;
  row.body.dataset.level = level;
  write(row.cells.health.firstChild, words);
  const rest = rest_s ? `for ${rest_s < 1 ? 1 : Math.round(rest_s)} s` : "";
  write(row.cells.health.lastChild, [why, rest].filter(Boolean).join(", "));
  if (row.health !== null && row.health !== words) {
    $("changes").textContent = `${functionName}, ${name}: ${words}${why ? `, ${why}` : ""}`;
  }
  row.health = words;
}

function number(where, text, small = "", isUnknown = false) {
  write(where.firstChild, text);
  write(where.lastChild, small);
  where.firstChild.classList.toggle("unknown", isUnknown);
}

function showTokens(cells, { input, output, cached, reasoning, untold }) {
  const note = untold ? `${count(untold)} untold` : "";
  for (const [key, tokens] of [["input", input], ["output", output]]) {
    if (tokens === null) number(cells[key], "unknown", note, true);
    else number(cells[key], count(tokens), note);
  }
  number(cells.cached, cached === null ? "–" : count(cached));
  number(cells.reasoning, reasoning === null ? "–" : count(reasoning));
}

function showCost(where, { known, answers, unpriced }) {
  if (!answers) number(where, "–");
  else if (known === null) number(where, "unknown", "", true);
  else number(where, money(known), unpriced ? `${count(unpriced)} more unknown` : "");
}

/* ---------- numbers ---------- */

function count(number) {
  return number.toLocaleString();
}

function time(seconds) {
  if (seconds === null) return "–";
  if (seconds >= 9.995) return `${seconds.toFixed(1)} s`;
  if (seconds >= 0.9995) return `${seconds.toFixed(2)} s`;
  return seconds >= 0.00995 ? `${(seconds * 1000).toFixed(0)} ms` : `${(seconds * 1000).toFixed(1)} ms`;
}

function money(amount) {
  if (amount === 0) return "0";
  if (amount < 0.0001) return "< 0.0001";
  const digits = amount < 100 ? 4 : 2;
  return amount.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/* ---------- plots ---------- */

const MARGIN = { left: 56, right: 8, top: 10, bottom: 20 };

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/* Minutes to the right, time upwards from 0; a slot in which nothing was answered is a gap. */
function draw(row, { name, history }) {
  const width = Math.round(row.plot.clientWidth);
  const key = JSON.stringify([width, history]);
  if (!width || row.drawn === key) return;
  row.drawn = key;
  const height = 112;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": inWords(name, history) });
  const across = (width - MARGIN.left - MARGIN.right) / SLOTS;
  const x = (slot) => MARGIN.left + (slot + SLOTS - history.length + 0.5) * across;
  const most = nice(Math.max(0, ...history.flatMap(([p50, p95]) => [p50 ?? 0, p95 ?? 0])));
  const floor = height - MARGIN.bottom;
  const y = (seconds) => floor - (seconds / most) * (floor - MARGIN.top);
  plot.append(...axes(width, floor, y, most));
  if (most) {
    plot.append(...line(history.map(([, p95]) => p95), "p95", x, y));
    plot.append(...line(history.map(([p50]) => p50), "p50", x, y));
  } else {
    plot.append(svg("text", { class: "nothing", x: width / 2, y: floor / 2 + 4 }, "no answers in 15 minutes"));
  }
  history.forEach(([, , failed], slot) => failed && plot.append(failure(x(slot), floor, failed)));
  row.plot.replaceChildren(plot);
}

function axes(width, floor, y, most) {
  const right = width - MARGIN.right;
  const drawn = [svg("line", { class: "axis", x1: MARGIN.left, y1: floor, x2: right, y2: floor })];
  for (const part of most ? [0.5, 1] : []) {
    const at = y(part * most);
    drawn.push(svg("line", { class: "axis", x1: MARGIN.left, y1: at, x2: right, y2: at }));
    drawn.push(svg("text", { x: MARGIN.left - 8, y: at + 4, "text-anchor": "end" }, time(part * most)));
  }
  for (const minutes of [15, 10, 5, 0]) {
    const at = right - (minutes * 60 * (right - MARGIN.left)) / (SLOTS * SLOT_S);
    const anchor = minutes === 0 ? "end" : minutes === 15 ? "start" : "middle";
    drawn.push(svg("text", { x: at, y: floor + 16, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
  }
  return drawn;
}

/* One path for each run of slots with answers; a slot between gaps is a dot. */
function line(values, className, x, y) {
  const drawn = [];
  let run = [];
  const finish = () => {
    if (run.length > 1) drawn.push(svg("path", { class: className, d: `M${run.join("L")}` }));
    else if (run.length) {
      const [cx, cy] = run[0].split(" ");
      drawn.push(svg("circle", { class: `dot ${className}`, cx, cy, r: 2.5 }));
    }
    run = [];
  };
  values.forEach((value, slot) => {
    if (value === null) finish();
    else run.push(`${x(slot).toFixed(1)} ${y(value).toFixed(1)}`);
  });
  finish();
  return drawn;
}

function failure(x, floor, failed) {
  const mark = svg("path", { class: "failure", d: `M${x - 3} ${floor - 3}l6 6m0 -6l-6 6` });
  mark.append(svg("title", {}, `${failed} failed`));
  return mark;
}

/* The next of 1, 2, 5, 10, ... that is at least so much. */
function nice(most) {
  if (most <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most * 0.999);
}

function inWords(name, history) {
  const told = history.filter(([p50]) => p50 !== null);
  if (!told.length) return `Latency of ${name}: no answers in the last 15 minutes.`;
  const medians = told.map(([p50]) => p50);
  const slowest = Math.max(...told.map(([, p95]) => p95));
  return (
    `Latency of ${name} in the last 15 minutes: p50 from ${time(Math.min(...medians))} to` +
    ` ${time(Math.max(...medians))}, p95 up to ${time(slowest)}.`
  );
}

/* ---------- budgets ---------- */

function showBudgets(section, budgets) {
  const list = section.querySelector(".budgets ul");
  section.querySelector(".budgets").hidden = budgets.length === 0;
  while (list.children.length > budgets.length) list.lastChild.remove();
  while (list.children.length < budgets.length) list.append(newBudget());
  budgets.forEach((budget, place) => showBudget(list.children[place], budget));
}

function newBudget() {
  const item = element("li");
  item.append(element("span"), element("meter"), element("span"));
  return item;
}

function showBudget(item, { budget, of, limit, spent, is_spent, ends_in_s }) {
  const [title, meter, facts] = item.children;
  const isTokens = budget.includes("tokens");
  const amount = isTokens ? (number) => count(Math.round(number)) : money;
  write(title, `${budget}, ${of}`);
  meter.max = limit || 1;
  meter.high = 0.8 * meter.max;
  meter.value = Math.min(limit ? spent : 1, meter.max);
  meter.setAttribute("aria-label", `spent of ${budget}, ${of}`);
  const begins = `begins anew in ${duration(ends_in_s)}`;
  write(facts, `${is_spent ? "used up: " : ""}${amount(spent)} of ${count(limit)}, ${begins}`);
  facts.classList.toggle("is-spent", is_spent);
}

function duration(seconds) {
  if (seconds < 120) return `${Math.ceil(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/* ---------- sources ---------- */

function showSources(section, sources) {
  const list = section.querySelector(".sources ul");
  section.querySelector(".sources").hidden = sources.length === 0;
  while (list.children.length > sources.length) list.lastChild.remove();
  while (list.children.length < sources.length) list.append(newSource());
  sources.forEach((source, place) => showSource(list.children[place], source));
}

function newSource() {
  const item = element("li");
  item.append(element("span", "words"), element("span"), element("span", "quiet"));
  return item;
}

function showSource(item, { source, version, is_cached, taken_s, error, level }) {
  const [title, inForce, why] = item.children;
  item.dataset.level = level;
  write(title, source);
  if (taken_s === null) write(inForce, "nothing of it is in force yet");
  else write(inForce, `${version}${is_cached ? ", from the disk" : ""}, in force for ${duration(taken_s)}`);
  write(why, error ?? "");
}

if (!document.hidden) connect();

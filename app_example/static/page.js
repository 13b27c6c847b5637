"use strict";
/* The page: asks, shows the answer as it comes, its sources, and who answered.
   Whatever comes from outside goes into the page as text, never as HTML. */

const $ = (id) => document.getElementById(id);

const STOPPED = "Stopped.";

let asking = null; // the AbortController of the question under way

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* ---------- asking ---------- */

async function ask(question) {
  const controller = new AbortController();
  asking = controller;
  begin(question);
  try {
    await read(question, controller.signal);
  } catch (error) {
    if (controller.signal.aborted) tell(STOPPED);
    else tell(error instanceof Refused ? error.message : "The page lost its server. Is it still running?");
  } finally {
    asking = null;
    end();
    await showStatus();
  }
}

class Refused extends Error {}

async function read(question, signal) {
  const response = await fetch("/api/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ question }),
    signal,
  });
  if (response.status === 422) throw new Refused("Please ask a question of 1 to 2,000 characters.");
  if (!response.ok) throw new Refused(`The page's server failed (${response.status}). Its log tells why.`);
  let isWhole = false;
  for await (const item of lines(response.body)) {
    show(item);
    isWhole = item.kind === "done" || item.kind === "trouble";
  }
  if (!isWhole) throw new Refused("The answer was cut off. Ask again; if it happens again, look at the server's log.");
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const complete = (rest + value).split("\n");
    rest = complete.pop();
    for (const line of complete) yield JSON.parse(line);
  }
}

/* ---------- showing ---------- */

function begin(question) {
  $("asked").textContent = question;
  $("answer").replaceChildren();
  $("answer").setAttribute("aria-busy", "true");
  $("trouble").hidden = true;
  $("sources").replaceChildren();
  $("sources-section").hidden = true;
  $("answer-section").hidden = false;
  $("button").textContent = "Stop";
  $("button").classList.add("stop");
}

function end() {
  $("answer").setAttribute("aria-busy", "false");
  linkNumbers($("answer"));
  $("button").textContent = "Ask";
  $("button").classList.remove("stop");
}

function show(item) {
  if (item.kind === "piece") $("answer").append(item.text);
  else if (item.kind === "sources") showSources(item.sources);
  else if (item.kind === "trouble") tell(item.message);
}

function tell(message) {
  const hasSources = !$("sources-section").hidden;
  const isAnswered = $("answer").textContent !== "";
  $("trouble").textContent =
    hasSources && !isAnswered && message !== STOPPED
      ? `${message} The passages below were found all the same.`
      : message;
  $("trouble").classList.toggle("mild", message === STOPPED);
  $("trouble").hidden = false;
}

function showSources(sources) {
  $("sources").replaceChildren(...sources.map(source));
  $("sources-section").hidden = sources.length === 0;
}

function source({ file, heading, text }, index) {
  const where = element("span", "where");
  where.append(element("span", "heading", heading || file), element("span", "file", file));
  const summary = element("summary");
  summary.append(element("span", "number", String(index + 1)), where);
  const details = element("details");
  details.id = `source-${index + 1}`;
  details.append(summary, element("div", "text", text));
  const item = element("li");
  item.append(details);
  return item;
}

/* [2] in an answer becomes a link that opens the second source. */
function linkNumbers(answer) {
  const parts = answer.textContent.split(/(\[\d{1,2}\])/);
  answer.replaceChildren(...parts.map((part) => numberLink(part) ?? document.createTextNode(part)));
}

function numberLink(part) {
  const number = /^\[(\d{1,2})\]$/.exec(part)?.[1];
  if (!number || !$(`source-${number}`)) return null;
  const link = element("a", "", part);
  link.href = `#source-${number}`;
  link.addEventListener("click", () => ($(`source-${number}`).open = true));
  return link;
}

/* ---------- who answered ---------- */

async function showStatus() {
  let status;
  try {
    status = await (await fetch("/api/status")).json();
  } catch {
    return; // the question has told of it already
  }
  showAbout(status);
  $("endpoints").replaceChildren(...status.endpoints.map((record) => endpoint(record, status.stand_ins)));
  $("status-empty").hidden = status.endpoints.length > 0;
}

function showAbout({ documents, stand_ins, warnings }) {
  $("about").textContent = documents.passages
    ? `${documents.passages} passages: ${documents.titles.join(" · ")}`
    : "There are no documents yet.";
  const notices = [...warnings];
  if (documents.problem) notices.unshift(documents.problem);
  else if (!documents.passages) notices.unshift("Ingest some first: python -m app_example ingest FOLDER");
  if (stand_ins.length) {
    notices.push(
      `Nothing is set for ${stand_ins.join(" and ")}, so a local stand-in answers there. A stand-in is no language` +
        " model: its vectors count words, and its answers quote the passages.",
    );
  }
  $("notice").textContent = notices.join("\n");
  $("notice").hidden = notices.length === 0;
}

function endpoint(record, standIns) {
  const item = element("li", record.error || record.status >= 400 ? "failed" : "");
  item.dataset.function = record.function;
  const name = element("div", "function", record.function);
  if (standIns.includes(record.function)) name.append(element("span", "badge", "stand-in"));
  const facts = element("div", "facts");
  facts.append(element("strong", "", outcome(record)), ` in ${record.took_ms} ms`);
  item.append(name, element("div", "server", record.server), facts, element("div", "facts", counts(record)));
  return item;
}

function outcome({ status, error }) {
  if (status === null) return "no answer";
  return status >= 400 || error ? `failed (${status})` : `${status} OK`;
}

function counts({ answered, failed }) {
  return `${answered} answered, ${failed} failed`;
}

/* ---------- the form ---------- */

$("button").addEventListener("click", (event) => {
  if (!asking) return; // the form's own submit asks
  event.preventDefault();
  asking.abort();
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking) return;
  const question = $("question").value.trim();
  if (question) ask(question);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!asking) $("form").requestSubmit();
  }
});

$("question").addEventListener("input", () => {
  const box = $("question");
  box.style.height = "auto"; // set from a script: the page's policy forbids only styles in the HTML
  box.style.height = `${box.scrollHeight}px`;
});

showStatus();

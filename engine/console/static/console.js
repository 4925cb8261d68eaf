// Shows what the console tells, each second. Whatever comes from outside is set as text, never as markup.
import { drawHour } from "./chart.js";

const SILENT_MS = 5_000;
const byId = (id) => document.getElementById(id);
const STAGES = ["captured", "fetched", "invoked", "settled"];
const REASONS = {
  not_started: "no subscriber listened", disconnected: "the connection was lost", dirty_set_full: "more keys changed than could be held",
  events_off: "the server's events were off, or may have been", dataset: "the dataset was replaced, or may have been", moved: "the node is now read at another server",
};
let used = {};
let heardMs = 0;

// Words and numbers

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });
const rate = (count, seconds) => (seconds > 0 ? number(count / seconds, count / seconds < 10 ? 1 : 0) : "–");
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1_000) return `${number(ms)} ms`;
  if (ms < 120_000) return `${number(ms / 1_000, ms < 10_000 ? 1 : 0)} s`;
  return ms < 7_200_000 ? `${number(ms / 60_000)} min` : `${number(ms / 3_600_000)} h`;
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB"];
  let unit = 0;
  for (; value >= 1_000 && unit < units.length - 1; unit++) value /= 1_000;
  return `${number(value, unit && value < 10 ? 1 : 0)} ${units[unit]}`;
}

// Elements: each is made once, and changed only where its text is another, so that a reader is not interrupted

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(name, className = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  return element;
}

function children(parent, count, create) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(create());
  return [...parent.children];
}

// columns: {title, text(row), isNumber, isLong, tone(row)}; the first one names its row
function table(place, label, columns, rows, empty) {
  if (!rows.length) {
    if (!place.querySelector(".empty")) place.replaceChildren(make("p", "empty"));
    say(place.firstElementChild, empty);
    return;
  }
  if (!place.querySelector("table")) {
    const scroll = make("div", "scroll"), made = make("table"), head = make("thead"), line = make("tr");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${label}, as a table`);
    for (const [element, role] of [[made, "table"], [head, "rowgroup"], [line, "row"]]) element.setAttribute("role", role);
    for (const column of columns) {
      const cell = make("th", column.isNumber ? "number" : "");
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      cell.textContent = column.title;
      line.append(cell);
    }
    head.append(line);
    const body = make("tbody");
    body.setAttribute("role", "rowgroup");
    made.append(head, body);
    scroll.append(made);
    place.replaceChildren(scroll);
  }
  const lines = children(place.querySelector("tbody"), rows.length, () => {
    const line = make("tr");
    line.setAttribute("role", "row");
    columns.forEach((column, index) => {
      const cell = make(index ? "td" : "th", column.isNumber ? "number" : column.isLong ? "long" : "");
      cell.setAttribute("role", index ? "cell" : "rowheader");
      if (index) cell.dataset.label = column.title;
      else cell.scope = "row";
      line.append(cell);
    });
    return line;
  });
  rows.forEach((row, at) => columns.forEach((column, index) => {
    const cell = lines[at].children[index], text = column.text(row);
    say(cell, text);
    cell.classList.toggle("blank", text === "");
    cell.dataset.tone = column.tone ? column.tone(row) : "";
  }));
}

// The parts of the page

function showHealth(health) {
  document.body.dataset.condition = health.condition;
  say(byId("condition"), health.condition);
  const first = health.findings[0];
  say(byId("line"), first ? first.what : health.line.replace(/^well:? ?/, "") || "no finding");
  document.title = `${health.condition} – Ingest engine`;
  const items = children(byId("findings"), health.findings.length, () => {
    const item = make("li");
    item.append(make("span", "what"), make("span", "hint"), make("a"));
    return item;
  });
  health.findings.forEach((finding, at) => {
    const [what, hint, link] = items[at].children;
    items[at].dataset.condition = finding.condition;
    // The first one is in the sentence above.
    say(what, at ? finding.what : "");
    say(hint, finding.hint);
    hint.hidden = !finding.hint;
    const runbook = byId(`runbook-${finding.topic}`);
    link.hidden = !runbook;
    say(link, runbook ? `Runbook: ${runbook.querySelector("h3").textContent}` : "");
    if (runbook) link.href = `#${runbook.id}`;
    else link.removeAttribute("href");
  });
}

function showNow(view) {
  const minute = view.last_minute ?? { seconds: 0, counts: {}, lag_ms: {} };
  const { seconds, counts } = minute, settled = minute.lag_ms.settled;
  const waiting = view.totals.keys_waiting + view.totals.keys_in_flight;
  const facts = [
    ["Oldest undelivered change", span(view.lag_ms), "about 1 s at rest"],
    ["Lag, last minute", settled ? span(settled.p99) : "–", settled ? `99 %; half within ${span(settled.p50)}` : "no changes"],
    ["Captured", `${rate(counts.events_read, seconds)}/s`, `${number(view.totals.events_read)} since the start`],
    ["Delivered", `${rate(counts.records_delivered, seconds)}/s`, `${number(view.totals.records_delivered)} since the start`],
    ["Invocations", `${rate(counts.invocations, seconds)}/s`, `${number(counts.invocations_failed ?? 0)} failed in the last minute`],
    ["Keys waiting", number(waiting), `${number(view.totals.keys_backlog)} on disk`],
  ];
  const items = children(byId("now"), facts.length, () => {
    const item = make("div"), value = make("dd");
    value.append(make("span"), make("small"));
    item.append(make("dt"), value);
    return item;
  });
  facts.forEach(([title, value, note], at) => {
    const [term, data] = items[at].children;
    say(term, title);
    say(data.children[0], value);
    say(data.children[1], note);
  });
}

function showLags(view) {
  const of = (window, stage, name) => span(view[window]?.lag_ms[stage]?.[name]);
  const column = (title, window, name) => ({ title, isNumber: true, text: (stage) => of(window, stage, name) });
  table(byId("lags"), "Lag by stage", [
    { title: "Stage", text: (stage) => stage },
    column("Minute, 50 %", "last_minute", "p50"), column("Minute, 99 %", "last_minute", "p99"),
    column("Minute, highest", "last_minute", "max"), column("Hour, 50 %", "last_hour", "p50"),
    column("Hour, 99 %", "last_hour", "p99"), column("Hour, highest", "last_hour", "max"),
  ], STAGES, "");
}

function showRoutes(view) {
  const failing = (route) => (route.failing_since_ms ? `failing for ${span(view.at_ms - route.failing_since_ms)}` : "delivering");
  const oldest = (route) => (route.oldest_ms ? `${span(Math.max(0, view.at_ms - route.oldest_ms))} ago` : "–");
  table(byId("routes"), "Routes", [
    { title: "Route", isLong: true, text: (route) => route.name },
    { title: "Function", isLong: true, text: (route) => route.function },
    { title: "State", text: failing, tone: (route) => (route.failing_since_ms ? "bad" : "") },
    { title: "Waiting", isNumber: true, text: (route) => number((route.keys_waiting ?? 0) + (route.keys_in_flight ?? 0)) },
    { title: "On disk", isNumber: true, text: (route) => number(route.keys_backlog ?? 0), tone: (route) => (route.keys_backlog ? "warn" : "") },
    { title: "Oldest", text: oldest },
    { title: "Last error", isLong: true, text: (route) => route.error ?? "" },
  ], view.routes, "No routes are configured.");
}

function showNodes(view) {
  const until = (one) => (one.settled_age_ms === null ? "not known yet" : `${span(one.settled_age_ms)} ago`);
  const feeds = (node) => ((node.feeds ?? []).length > 1 ? node.feeds : []);
  table(byId("nodes"), "Redis nodes", [
    { title: "Node", text: (node) => node.address || "redis.url" },
    { title: "Settled until", text: until, tone: (node) => (node.settled_age_ms > 10_000 ? "warn" : "") },
    { title: "Slots", text: (node) => String(node.slots).replace(/^slots /, "") },
    { title: "To be scanned", text: (node) => (node.slots_owed ? `${number(node.slots_owed)} slots` : "") },
    { title: "By subscriber and last bytes", isLong: true,
      text: (node) => feeds(node).map((feed) => `${feed.shard + 1}: ${until(feed)} (${feed.keys})`).join(", ") },
    { title: "Subscribers", text: (node) => node.shards.map((shard) => shard + 1).join(", ") },
    { title: "Id", text: (node) => node.id.slice(0, 8) },
  ], view.nodes ?? [], "No nodes are known yet.");
}

function showProcesses(view) {
  const seconds = (view.at_ms - (used.at_ms ?? 0)) / 1_000;
  const share = (name) => {
    const now = view.usages[name], before = used.usages?.[name];
    return now && before && now.cpu_s >= before.cpu_s && seconds > 0 ? `${number((100 * (now.cpu_s - before.cpu_s)) / seconds)} %` : "–";
  };
  const others = ["supervisor", "console"].map((name) => ({ name, state: "ready", pid: "", restarts: "", heartbeat_age_ms: null }));
  const rows = [...view.children, ...others];
  const cpu = Object.fromEntries(rows.map(({ name }) => [name, share(name)]));
  table(byId("processes"), "Processes", [
    { title: "Process", text: (one) => one.name },
    { title: "State", text: (one) => one.state, tone: (one) => (one.state === "ready" ? "" : "warn") },
    { title: "Restarts", isNumber: true, text: (one) => String(one.restarts), tone: (one) => (one.restarts ? "warn" : "") },
    { title: "CPU", isNumber: true, text: (one) => cpu[one.name] },
    { title: "Memory", isNumber: true, text: (one) => (view.usages[one.name] ? bytes(view.usages[one.name].memory_bytes) : "–") },
    { title: "In its rings", isNumber: true, text: (one) => (one.role === "invoker" ? bytes(one.ring_bytes_waiting) : "") },
    { title: "Last beat", isNumber: true, text: (one) => (one.heartbeat_age_ms === null ? "" : `${span(one.heartbeat_age_ms)} ago`) },
  ], rows, "");
  used = { at_ms: view.at_ms, usages: view.usages };
}

function showHistory(history) {
  drawHour(byId("chart"), history.minutes, history.timeline, Date.now());
  const what = {
    gap: (one) => `${REASONS[one.reason] ?? one.reason}${one.count > 1 ? ` (${number(one.count)} times)` : ""}`,
    restart: (one) => `restarted, ${number(one.count)} in all`,
    repair: (one) => `looked at ${number(one.keys_looked_at ?? 0)} keys, found ${number(one.keys_repaired ?? 0)}; ` +
      (one.until_ms ? `took ${span(one.until_ms - one.at_ms)}` : "under way"),
  };
  table(byId("happened"), "What has happened", [
    { title: "When", text: (one) => clock(one.at_ms) },
    { title: "What", text: (one) => one.what },
    { title: "Process", text: (one) => one.process },
    { title: "Details", text: (one) => what[one.what]?.(one) ?? "" },
  ], [...history.timeline].reverse(), "No gaps, no repairs, no restarts.");
  table(byId("minutes"), "The last hour, by minute", [
    { title: "Minute to", text: (one) => clock(one.at_ms) },
    { title: "Lag 50 %", isNumber: true, text: (one) => span(one.lag_ms.settled?.p50) },
    { title: "Lag 99 %", isNumber: true, text: (one) => span(one.lag_ms.settled?.p99) },
    { title: "Delivered/s", isNumber: true, text: (one) => rate(one.counts.records_delivered, one.seconds) },
    { title: "Gaps", isNumber: true, text: (one) => number(one.counts.gaps) },
    { title: "Keys repaired", isNumber: true, text: (one) => number(one.counts.keys_repaired) },
  ], [...history.minutes].reverse(), "The first minute is not over yet.");
}

function show(view) {
  showHealth(view.health);
  if (!view.running) {
    say(byId("about"), "");
    return;
  }
  const part = view.slice === "0/1" ? "" : `, slice ${view.slice}`;
  say(byId("about"), `version ${view.version}${part}, ${view.state}${view.ready ? "" : " (not all feeds are proved)"}, up ${span(view.at_ms - view.started_at_ms)}`);
  for (const part of [showNow, showLags, showRoutes, showNodes, showProcesses]) part(view);
}

// The connection

function connected(state) {
  const element = byId("connection");
  element.dataset.state = state;
  say(element, state === "live" ? "live" : `not connected; shown as of ${heardMs ? clock(heardMs) : "never"}`);
}

// A runbook that is chosen takes the focus, so that the keyboard and a screen reader go on from there.
function focusRunbook() {
  const section = location.hash.startsWith("#runbook-") && byId(location.hash.slice(1));
  if (section) section.focus();
}

const source = new EventSource("events");
source.addEventListener("message", (event) => {
  heardMs = Date.now();
  show(JSON.parse(event.data));
  connected("live");
});
source.addEventListener("history", (event) => showHistory(JSON.parse(event.data)));
source.addEventListener("error", () => connected("lost"));
setInterval(() => Date.now() - heardMs > SILENT_MS && connected("lost"), 1_000);
addEventListener("hashchange", focusRunbook);
focusRunbook();

// The last hour as a picture: lag by a logarithmic scale, what was delivered, and gaps, repairs and restarts below.
const SPACE = "http://www.w3.org/2000/svg";
const HOUR_MS = 3_600_000;
const HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 10, FLOOR = 190;
const LANES = [["gap", 204], ["repair", 218], ["restart", 232]];
const LABELS = [[1, "1 ms"], [10, "10 ms"], [100, "100 ms"], [1_000, "1 s"], [10_000, "10 s"], [60_000, "1 min"], [600_000, "10 min"], [3_600_000, "1 h"]];

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export function drawHour(place, minutes, timeline, nowMs) {
  const width = Math.max(320, Math.min(1_160, place.clientWidth || 960));
  const svg = document.createElementNS(SPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", inWords(minutes, timeline));
  const x = (ms) => LEFT + ((width - LEFT - RIGHT) * (ms - (nowMs - HOUR_MS))) / HOUR_MS;
  const highest = Math.max(1_000, ...minutes.map((one) => one.lag_ms.settled?.p99 ?? 0));
  const labels = LABELS.filter(([ms], at) => at < 4 || LABELS[at - 1][0] < highest);
  const top = labels.at(-1)[0];
  const y = (ms) => FLOOR - ((FLOOR - TOP) * Math.log(Math.max(1, ms))) / Math.log(top);
  for (const [ms, label] of labels) {
    draw(svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(ms), y2: y(ms) });
    draw(svg, "text", { x: LEFT - 8, y: y(ms) + 4, "text-anchor": "end" }, label);
  }
  drawRates(svg, minutes, x);
  for (const name of ["p50", "p99"]) drawLag(svg, minutes, name, x, y);
  drawLanes(svg, timeline, x, nowMs, width);
  const every = width < 600 ? 30 : 10;
  for (let minute = 0; minute <= 60; minute += every) {
    const at = x(nowMs - minute * 60_000);
    const anchor = minute === 0 ? "end" : minute === 60 ? "start" : "middle";
    draw(svg, "text", { x: at, y: HEIGHT - 6, "text-anchor": anchor }, minute ? `−${minute} min` : "now");
  }
  place.replaceChildren(svg);
}

function drawRates(svg, minutes, x) {
  const rates = minutes.map((one) => one.counts.records_delivered / Math.max(1, one.seconds));
  const most = Math.max(1, ...rates);
  minutes.forEach((one, at) => {
    const begin = Math.max(LEFT, x(one.at_ms - one.seconds * 1_000)), height = ((FLOOR - TOP) * 0.9 * rates[at]) / most;
    if (x(one.at_ms) > begin) draw(svg, "rect", { class: "rate", x: begin, y: FLOOR - height, width: x(one.at_ms) - begin, height });
  });
}

function drawLag(svg, minutes, name, x, y) {
  const middle = (one) => x(one.at_ms - one.seconds * 500);
  const seen = minutes.map((one) => (one.lag_ms.settled && middle(one) >= LEFT ? [middle(one), y(one.lag_ms.settled[name])] : null));
  let path = "";
  seen.forEach((point, at) => {
    if (point) path += `${seen[at - 1] ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    // A minute between two without changes has no line.
    if (point && !seen[at - 1] && !seen[at + 1]) draw(svg, "circle", { class: `dot ${name}`, cx: point[0], cy: point[1], r: 2.5 });
  });
  if (path) draw(svg, "path", { class: `line ${name}`, d: path });
}

function drawLanes(svg, timeline, x, nowMs, width) {
  for (const [what, top] of LANES) {
    draw(svg, "line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: top + 5, y2: top + 5 });
    draw(svg, "text", { x: LEFT - 8, y: top + 9, "text-anchor": "end" }, what);
    for (const one of timeline.filter((it) => it.what === what)) {
      const until = x(what === "repair" ? one.until_ms || nowMs : one.at_ms);
      const begin = Math.max(LEFT, x(one.at_ms));
      if (until >= LEFT) draw(svg, "rect", { class: what, x: begin - 1.5, y: top, width: Math.max(4, until - begin + 3), height: 10, rx: 2 });
    }
  }
}

function inWords(minutes, timeline) {
  const lags = minutes.filter((one) => one.lag_ms.settled).map((one) => one.lag_ms.settled.p99);
  const count = (what) => timeline.filter((one) => one.what === what).length;
  const lag = lags.length ? `lag of 99 % of the changes between ${Math.min(...lags)} and ${Math.max(...lags)} ms by the minute` : "no changes";
  return `The last hour: ${lag}; ${count("gap")} gaps, ${count("repair")} repairs, ${count("restart")} restarts. The tables below say the same.`;
}

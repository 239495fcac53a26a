// Charts, drawn as SVG. What each shows is in a table beside it.

import { rate } from "./number.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [380, 150, 66, 8, 22];
/** Minutes that a chart goes back. */
export const MINUTES = 5;

function make(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The next of 1, 2, 5, 10, 20, ... */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? 10 * power;
}

/** Pieces of a line: where a rate is not known, it is broken. */
function path(samples, way, x, y) {
  let d = "";
  let drawing = false;
  for (const sample of samples) {
    if (sample[way] === null) {
      drawing = false;
      continue;
    }
    d += `${drawing ? "L" : "M"}${x(sample.at).toFixed(1)} ${y(sample[way]).toFixed(1)}`;
    // A single point is seen, too.
    if (!drawing) d += "h0.1";
    drawing = true;
  }
  return d;
}

/** What all charts of rates have: rules with their rates, and the title. Returns where a rate is. */
function frame(name, most) {
  const top = nice(most);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [make("title", {}, name)];
  for (const share of [0, 0.5, 1]) {
    const at = y(top * share);
    parts.push(make("line", { class: "rule", x1: LEFT, x2: WIDTH - 4, y1: at, y2: at }));
    parts.push(make("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, rate(top * share)));
  }
  return { parts, y };
}

/**
 * Draws hours of slots, each as long as it was. `slots`: `{begin, end, from, to}`, milliseconds and bits per second or
 * null, oldest first.
 */
export function slots(svg, name, slots, hours) {
  const most = Math.max(1_000, ...slots.flatMap((one) => [one.from ?? 0, one.to ?? 0]));
  const { parts, y } = frame(`Rates of ${name}, ${hours} h back, in five minutes each`, most);
  const [first, last] = [slots[0].begin, slots.at(-1).end];
  const x = (at) => LEFT + ((at - first) / (last - first)) * (WIDTH - LEFT - 4);
  for (let part = 0; part <= 4; part += 1) {
    const at = first + ((last - first) * part) / 4;
    const anchor = part === 4 ? "end" : "middle";
    parts.push(make("text", { x: x(at), y: HEIGHT - 5, "text-anchor": anchor }, new Date(at).toISOString().slice(11, 16)));
  }
  for (const way of ["from", "to"]) {
    const corners = slots.flatMap((one) => [{ at: one.begin, [way]: one[way] }, { at: one.end, [way]: one[way] }]);
    parts.push(make("path", { class: way, d: path(corners, way, x, y) }));
  }
  svg.replaceChildren(...parts);
}

/** Draws the last minutes. `samples`: `{at, from, to}`, milliseconds and bits per second or null, oldest first. */
export function rates(svg, name, samples, now) {
  const most = Math.max(1_000, ...samples.flatMap((one) => [one.from ?? 0, one.to ?? 0]));
  // As soon as there is more than a minute, all five.
  const minutes = samples.length !== 0 && now - samples[0].at > 60_000 ? MINUTES : 1;
  const x = (at) => LEFT + ((at - now) / (minutes * 60_000) + 1) * (WIDTH - LEFT - 4);
  const { parts, y } = frame(`Rates of ${name}, ${minutes} min back`, most);
  const [step, unit, ms] = minutes === 1 ? [20, "s", 1_000] : [1, "min", 60_000];
  for (let back = 0; back * ms <= minutes * 60_000; back += step) {
    const anchor = back === 0 ? "end" : "middle";
    const label = back === 0 ? "now" : `\u2212${back} ${unit}`;
    parts.push(make("text", { x: x(now - back * ms), y: HEIGHT - 5, "text-anchor": anchor }, label));
  }
  for (const way of ["from", "to"]) parts.push(make("path", { class: way, d: path(samples, way, x, y) }));
  svg.replaceChildren(...parts);
}

/** An empty chart, described by the element with this id. */
export function empty(described, width = WIDTH, height = HEIGHT) {
  return make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": described });
}

const BAR = [1_000, 16];
const CLASSES = ["E3", "E2", "E1", "opening", "unverified", "exempt", "clear", "would_drop"];

/** An empty bar, described likewise. */
export function bar(described) {
  return empty(described, ...BAR);
}

/** One bar of a tenant's bytes by class. `sums`: bytes by class, BigInt. */
export function evidence(svg, name, sums) {
  const total = [...sums.values()].reduce((sum, one) => sum + one, 0n);
  const parts = [make("title", {}, `Classes of encryption of ${name}`)];
  let x = 0;
  CLASSES.forEach((of, place) => {
    const bytes = sums.get(of) ?? 0n;
    if (total === 0n || bytes === 0n) return;
    const width = (Number((bytes * 1_000_000n) / total) / 1_000_000) * BAR[0];
    const part = make("rect", { class: `part c${place}`, x, y: 0, width, height: BAR[1] });
    part.append(make("title", {}, `${of}: ${bytes} bytes`));
    parts.push(part);
    x += width;
  });
  svg.replaceChildren(...parts);
}

/** The classes of a tenant in words, largest first: the bar's caption. */
export function classes(sums) {
  const total = [...sums.values()].reduce((sum, one) => sum + one, 0n);
  const shares = [...sums].sort((a, b) => (a[1] < b[1] ? 1 : -1));
  return shares.map(([of, bytes]) => `${of} ${(Number((bytes * 10_000n) / total) / 100).toFixed(2)} %`).join(", ");
}

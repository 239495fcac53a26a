// The page: asks for an overview every two seconds while somebody looks, and shows it.

import { ask } from "./ask.js";
import { MINUTES, bar, classes, empty, evidence, rates } from "./chart.js";
import { moment, perSecond, rate, span, whole } from "./number.js";
import * as past from "./history.js";
import * as statement from "./statement.js";
import { alarm, fill, list, say } from "./table.js";

const EVERY_MS = 2_000;
const LEDGER_EVERY_MS = 10_000;
/** Charts at once; the table has all tenants. */
const CHARTS_MAX = 12;
const by = (id) => document.getElementById(id);

let last = null;
let paused = false;
/** By tenant's number: `{at, from, to}`, oldest first. */
const history = new Map();
const cards = new Map();

const called = (tenant) => tenant.name || String(tenant.id);
const sum = (lines, key) => lines.reduce((all, line) => all + BigInt(line[key]), 0n);

/** What came between two overviews; a port that came or went, or a pause, leaves a gap. */
function sample(now) {
  const before = new Map((last?.tenants ?? []).map((tenant) => [tenant.id, tenant]));
  const elapsed = last ? BigInt(now.boot_ns) - BigInt(last.boot_ns) : 0n;
  const at = Date.now();
  for (const tenant of now.tenants) {
    const old = before.get(tenant.id);
    const known = old && old.registers === tenant.registers && elapsed < BigInt(EVERY_MS) * 4_000_000n;
    const of = (way) => (known ? perSecond(old[way].l2_bytes, tenant[way].l2_bytes, elapsed) : null);
    const samples = history.get(tenant.id) ?? [];
    samples.push({ at, from: of("from"), to: of("to") });
    history.set(tenant.id, samples.filter((one) => one.at > at - MINUTES * 60_000));
  }
  for (const id of history.keys()) {
    if (!now.tenants.some((tenant) => tenant.id === id)) history.delete(id);
  }
  last = now;
}

function latest(tenant) {
  return history.get(tenant.id)?.at(-1) ?? { from: null, to: null };
}

function tenants(now) {
  const filter = by("filter").value;
  const wanted = now.tenants.filter((tenant) => called(tenant).includes(filter));
  fill(by("tenants-table"), wanted.map((tenant) => {
    const rates = latest(tenant);
    return {
      key: String(tenant.id),
      cells: [called(tenant), String(tenant.id), String(tenant.ports), rate(rates.from), rate(rates.to),
        whole(tenant.from.l2_bytes), whole(tenant.to.l2_bytes), whole(tenant.from.packets),
        whole(tenant.to.packets), whole(sum(tenant.drops, "packets").toString())],
    };
  }), new Set([3, 4, 5, 6, 7, 8, 9]));
  say(by("shown"), `${wanted.length} of ${now.tenants.length}`);
  charts(wanted);
}

function card(tenant) {
  const known = cards.get(tenant.id);
  if (known) return known;
  const title = document.createElement("h3");
  title.id = `chart-title-${tenant.id}`;
  const svg = empty(title.id);
  const caption = document.createElement("figcaption");
  const keys = ["from", "to"].map((way) => {
    const key = document.createElement("span");
    key.className = `key-${way}`;
    return key;
  });
  caption.append(keys[0], " \u00b7 ", keys[1]);
  const figure = document.createElement("figure");
  figure.append(svg, caption);
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const [place, name] of ["Time, UTC", "From", "To"].entries()) {
    const cell = document.createElement("th");
    cell.scope = "col";
    if (place) cell.className = "n";
    cell.textContent = name;
    head.append(cell);
  }
  table.createTBody();
  scroll.append(table);
  details.append(summary, scroll);
  const element = document.createElement("article");
  element.className = "card";
  element.setAttribute("aria-labelledby", title.id);
  element.append(title, figure, details);
  const made = { element, title, svg, keys, details, summary, table };
  cards.set(tenant.id, made);
  return made;
}

function charts(wanted) {
  const busy = (tenant) => history.get(tenant.id)?.reduce((all, one) => all + (one.from ?? 0) + (one.to ?? 0), 0) ?? 0;
  // The busiest, and then in the order of the table: cards do not change places all the time.
  const chosen = new Set([...wanted].sort((a, b) => busy(b) - busy(a)).slice(0, CHARTS_MAX));
  const shown = wanted.filter((tenant) => chosen.has(tenant));
  const place = by("charts");
  shown.forEach((tenant, at) => {
    const { element, title, svg, keys, details, summary, table } = card(tenant);
    const samples = history.get(tenant.id) ?? [];
    say(title, called(tenant));
    rates(svg, called(tenant), samples, Date.now());
    const now = latest(tenant);
    say(keys[0], `from ${rate(now.from)}`);
    say(keys[1], `to ${rate(now.to)} (dashed)`);
    say(summary, `Numbers of this chart: ${called(tenant)}`);
    if (details.open) {
      const time = (one) => new Date(one.at).toISOString().slice(11, 19);
      const rows = [...samples].reverse().map((one) => ({
        key: String(one.at), cells: [time(one), rate(one.from), rate(one.to)],
      }));
      fill(table, rows, new Set([1, 2]));
    }
    if (place.children[at] !== element) place.insertBefore(element, place.children[at] ?? null);
  });
  const ids = new Set(shown.map((tenant) => tenant.id));
  for (const [id, { element }] of cards) {
    if (ids.has(id)) continue;
    element.remove();
    cards.delete(id);
  }
  const more = wanted.length - shown.length;
  say(by("charts-note"), more > 0 ? `${more} more tenants are in the table; the busiest have a chart.` : "");
}

function listed(now, what, of) {
  return now.tenants.flatMap((tenant) => tenant[what].map((line) => ({
    key: `${tenant.id} ${line.direction} ${line[of]}`,
    cells: [called(tenant), line.direction, line[of], whole(line.packets), whole(line.l2_bytes)],
  })));
}

function drops(now) {
  const rows = listed(now, "drops", "reason");
  fill(by("drops-table"), rows, new Set([3, 4]));
  by("drops-none").hidden = rows.length !== 0;
}

function encryption(now) {
  const rows = listed(now, "evidence", "class");
  fill(by("evidence-table"), rows, new Set([3, 4]));
  by("evidence-none").hidden = rows.length !== 0;
  const place = by("evidence-charts");
  const some = now.tenants.filter((tenant) => tenant.evidence.length !== 0).slice(0, CHARTS_MAX);
  const known = new Map([...place.children].map((figure) => [figure.dataset.tenant, figure]));
  for (const tenant of some) {
    const sums = new Map();
    for (const line of tenant.evidence) sums.set(line.class, (sums.get(line.class) ?? 0n) + BigInt(line.l2_bytes));
    let figure = known.get(String(tenant.id));
    known.delete(String(tenant.id));
    if (!figure) {
      figure = document.createElement("figure");
      figure.dataset.tenant = String(tenant.id);
      const caption = document.createElement("figcaption");
      caption.id = `evidence-${tenant.id}`;
      figure.append(bar(caption.id), caption);
      place.append(figure);
    }
    evidence(figure.firstElementChild, called(tenant), sums);
    say(figure.lastElementChild, `${called(tenant)}: ${classes(sums)}`);
  }
  for (const figure of known.values()) figure.remove();
}

function windows(meter) {
  if (!meter) {
    alarm(by("windows-alarm"), null);
    list(by("windows-list"), [["Meter", "none: bytes are counted, and no record is kept"]]);
    return;
  }
  const age = meter.age_ns === null ? "not since this daemon started" : `${span(meter.age_ns)} ago`;
  alarm(by("windows-alarm"), meter.unmetered === "0" ? null : `UNMETERED ${meter.unmetered} times; last: ${meter.unmetered_last}`);
  list(by("windows-list"), [
    ["Last closed", meter.committed_window === null ? "none yet" : `window ${meter.committed_window}`],
    ["Closed at", meter.committed === null ? "\u2013" : moment(meter.committed)],
    ["Age", age],
    ["Length", span(meter.window_ns)],
    ["Closed by this daemon", whole(meter.windows)],
    ["UNMETERED", whole(meter.unmetered)],
    ["Bytes that no flow accounts for", whole(meter.unattributed_bytes)],
    ["Interfaces not audited", meter.not_audited.join(", ") || "none"],
  ]);
}

function sinks(all) {
  fill(by("sinks-table"), all.map((sink) => ({
    key: sink.name,
    bad: sink.error !== null || sink.fork,
    cells: [sink.name, sink.lag === null ? "not known" : whole(sink.lag), whole(sink.confirmed), whole(sink.delivered),
      `in ${span(BigInt(sink.next_try_ms) * 1_000_000n)}`, `${sink.fork ? "FORK: " : ""}${sink.error ?? "none"}`],
  })), new Set([1, 2, 3, 4]));
  by("sinks-none").hidden = all.length !== 0;
}

function show(now) {
  say(by("host"), now.host);
  document.title = `octroi ${now.host}`;
  say(by("gate"), `${now.mechanism}, policy revision ${now.revision}; ports: ${now.ports.blessed} blessed, ${now.ports.waiting} waiting, ${now.ports.retired} retired; ${moment(now.at)}`);
  say(by("version"), `octroi ${now.version}`);
  tenants(now);
  drops(now);
  encryption(now);
  windows(now.meter);
  alarm(by("ledger-alarm"), now.meter?.error ?? null);
  sinks(now.sinks);
  past.tenants(now.tenants, now.at);
  statement.tenants(now.tenants);
}

async function ledger() {
  const meter = last?.meter;
  if (!meter) {
    list(by("ledger-list"), [["Ledger", "none"]]);
    return;
  }
  const found = await ask("/v1/ledger");
  const lag = BigInt(found.records) - BigInt(found.head.size);
  list(by("ledger-list"), [
    ["File", found.ledger],
    ["Id", found.ledger_id],
    ["Begun by host", found.host],
    ["Records", whole(found.records)],
    ["Size", `${whole(found.file_bytes)} bytes`],
    ["Signed head", `${whole(found.head.size)} records, root ${found.head.root}, ${found.head.signatures} signature(s)`],
    ["Records after the head", whole(lag.toString())],
    ["Ledgers superseded", whole(meter.superseded)],
  ]);
}

async function turn() {
  const wait = EVERY_MS;
  if (!paused && !document.hidden) {
    try {
      const now = await ask("/v1/overview");
      sample(now);
      show(now);
      say(by("told"), "");
    } catch (error) {
      say(by("told"), `Not live: ${error.message}.`);
    }
  }
  setTimeout(turn, wait);
}

async function turnLedger() {
  let wait = LEDGER_EVERY_MS;
  if (!paused && !document.hidden) {
    try {
      if (last) await ledger();
      else wait = 500;
    } catch (error) {
      list(by("ledger-list"), [["Ledger", error.message]]);
    }
  }
  setTimeout(turnLedger, wait);
}

by("pause").addEventListener("click", () => {
  paused = !paused;
  by("pause").setAttribute("aria-pressed", String(paused));
  say(by("told"), paused ? "Paused: what is shown stays." : "");
});
by("filter").addEventListener("input", () => last && tenants(last));
past.begin();
statement.begin();
turn();
turnLedger();

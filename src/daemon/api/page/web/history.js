// Rates of before the page was opened: what the ledger has of each slot of five minutes.

import { ask } from "./ask.js";
import { empty, slots } from "./chart.js";
import { moment, rate, whole } from "./number.js";
import { fill, options, say } from "./table.js";

const SLOT_MS = 300_000;
const by = (id) => document.getElementById(id);

/** The host's clock as it last said it, milliseconds. */
let now = null;
let chart = null;

/** A time as the API takes and says it. */
const time = (ms) => new Date(ms).toISOString().replace(".000Z", "Z");

/** Bits per second of a slot; the one that is not over is as long as it has been. `null`: the ledger has nothing of it. */
function bits(bytes, begin) {
  const ms = Math.min(SLOT_MS, now - begin);
  return bytes === null || ms <= 0 ? null : Number((BigInt(bytes) * 8_000n) / BigInt(Math.max(1, Math.round(ms))));
}

async function look(hours) {
  const tenant = by("history-tenant").value;
  if (!tenant || now === null) return;
  const name = by("history-tenant").selectedOptions[0].text;
  say(by("history-told"), "Adding up …");
  try {
    const to = Math.floor(now / SLOT_MS) * SLOT_MS + SLOT_MS;
    const from = to - hours * 3_600_000;
    const found = await ask(`/v1/usage?tenant=${tenant}&from=${time(from)}&to=${time(to)}&step=slot&by=direction`);
    const bytes = new Map();
    for (const item of found.items) {
      if (item.what === "usage") bytes.set(`${Date.parse(item.from)} ${item.direction}`, item.l2_bytes);
    }
    const rows = [];
    for (let begin = from; begin < to; begin += SLOT_MS) {
      const of = (way) => bytes.get(`${begin} ${way}`) ?? null;
      rows.push({ begin, bytes: [of("from"), of("to")], from: bits(of("from"), begin), to: bits(of("to"), begin) });
    }
    const known = (count) => (count === null ? "\u2013" : whole(count));
    fill(by("history-table"), [...rows].reverse().map((row) => ({
      key: String(row.begin),
      cells: [moment(time(row.begin)), known(row.bytes[0]), known(row.bytes[1]), rate(row.from), rate(row.to)],
    })), new Set([1, 2, 3, 4]));
    if (!chart) {
      chart = empty("history-caption", 380, 150);
      by("history-figure").prepend(chart);
    }
    slots(chart, name, rows.map((row) => ({ ...row, end: row.begin + SLOT_MS })), hours);
    say(by("history-caption"), `Rates of ${name} in the last ${hours} h: from it, and to it (dashed)`);
    by("history-figure").hidden = false;
    say(by("history-told"), `${rows.length} times five minutes of ${name}.`);
  } catch (error) {
    say(by("history-told"), error.message);
  }
}

/** The tenants that can be chosen, and the host's time. */
export function tenants(all, at) {
  now = Date.parse(at);
  options(by("history-tenant"), all.map((one) => [String(one.id), one.name || String(one.id)]));
}

/** Begins. */
export function begin() {
  by("history-form").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("button[data-hours]")) {
    button.addEventListener("click", () => look(Number(button.dataset.hours)));
  }
}

// Statements to download, and the usage that they are made of.

import { ask, keep } from "./ask.js";
import { moment, whole } from "./number.js";
import { fill, options, say } from "./table.js";

const by = (id) => document.getElementById(id);
const told = (text) => say(by("statement-told"), text);

/** Months from the first to the last, the last one first. */
export function months(first, last) {
  const found = [];
  let [year, month] = last.split("-").map(Number);
  for (;;) {
    const name = `${year}-${String(month).padStart(2, "0")}`;
    if (name < first || found.length >= 600) return found;
    found.push(name);
    month -= 1;
    if (month === 0) [year, month] = [year - 1, 12];
  }
}

/** The first day of the month after this one. */
export function after(name) {
  const [year, month] = name.split("-").map(Number);
  return month === 12 ? `${year + 1}-01-01` : `${year}-${String(month + 1).padStart(2, "0")}-01`;
}

async function look() {
  const tenant = by("tenant").value;
  if (!tenant) return;
  try {
    const found = await ask(`/v1/statements?tenant=${tenant}`);
    const names = found.first_month ? months(found.first_month, found.last_month) : [];
    options(by("month"), names.map((name) => [name, name]));
    const rows = found.issued.map((one) => ({
      key: `${one.number} ${one.version}`,
      cells: [one.month, one.number, one.version, moment(one.issued), whole(one.l2_bytes), one.sha256],
    }));
    fill(by("issued-table"), rows, new Set([4]));
    by("issued-none").hidden = rows.length !== 0;
    told(names.length === 0 ? "There is no record of this tenant yet." : "");
  } catch (error) {
    told(error.message);
  }
}

async function usage() {
  const [tenant, month] = [by("tenant").value, by("month").value];
  if (!tenant || !month) return;
  told("Adding up …");
  try {
    const found = await ask(`/v1/usage?tenant=${tenant}&from=${month}-01&to=${after(month)}`);
    const rows = found.items.filter((item) => item.what === "usage").map((item) => ({
      key: `${item.port} ${item.direction} ${item.zone}`,
      cells: [item.port, item.direction, item.zone_name || String(item.zone), whole(item.packets),
        whole(item.l2_bytes), whole(item.l3_bytes)],
    }));
    fill(by("usage-table"), rows, new Set([3, 4, 5]));
    told(`Usage of ${month}: ${rows.length} rows.`);
  } catch (error) {
    told(error.message);
  }
}

async function download(format) {
  const [tenant, month, lang] = [by("tenant").value, by("month").value, by("lang").value];
  if (!tenant || !month) return;
  told("Making it …");
  try {
    const path = `/v1/statement?tenant=${tenant}&month=${month}&format=${format}&lang=${lang}`;
    await keep(path, `statement-${tenant}-${month}.${format}`);
    told(`Statement of ${month} as ${format.toUpperCase()}: downloaded.`);
  } catch (error) {
    told(error.message);
  }
}

/** The tenants that can be chosen. */
export function tenants(all) {
  const none = by("tenant").options.length === 0;
  options(by("tenant"), all.map((one) => [String(one.id), one.name || String(one.id)]));
  // Also where there was no record when it was asked last.
  if (none || by("month").options.length === 0) look();
}

/** Begins. */
export function begin() {
  by("statement-form").addEventListener("submit", (event) => event.preventDefault());
  by("tenant").addEventListener("change", look);
  by("usage-show").addEventListener("click", usage);
  for (const button of document.querySelectorAll("button[data-format]")) {
    button.addEventListener("click", () => download(button.dataset.format));
  }
}

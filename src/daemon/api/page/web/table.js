// Tables and lists that change in place: what is focused or selected stays.

function cell(kind, text, number) {
  const made = document.createElement(kind);
  if (kind === "th") made.scope = "row";
  if (number) made.className = "n";
  made.textContent = text;
  return made;
}

/** Sets a text only where it is another one: assistive programs hear of changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Fills a table. `rows`: `{key, cells, bad}`; the first cell is the row's name. `numbers`: from which cell on they are
 * set as numbers, a set of places.
 */
export function fill(table, rows, numbers) {
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach(({ key, cells, bad }, place) => {
    let row = known.get(key);
    known.delete(key);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.key = key;
      cells.forEach((text, at) => row.append(cell(at === 0 ? "th" : "td", text, numbers.has(at))));
    }
    cells.forEach((text, at) => say(row.cells[at], text));
    row.classList.toggle("bad", Boolean(bad));
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
  for (const row of known.values()) row.remove();
}

/** Fills a list of names and values: pairs of texts. */
export function list(element, pairs) {
  const known = new Map();
  for (const term of element.querySelectorAll("dt")) known.set(term.textContent, term.nextElementSibling);
  for (const [name, value] of pairs) {
    let said = known.get(name);
    known.delete(name);
    if (!said) {
      const term = document.createElement("dt");
      term.textContent = name;
      said = document.createElement("dd");
      element.append(term, said);
    }
    say(said, value);
  }
  for (const said of known.values()) {
    said.previousElementSibling.remove();
    said.remove();
  }
}

/** Shows an alarm, or hides it. */
export function alarm(element, text) {
  say(element, text ?? "");
  element.hidden = !text;
}

/** Fills a choice with values and names; what was chosen stays chosen. */
export function options(select, values) {
  const same = [...select.options].map((one) => `${one.value} ${one.text}`).join("\n");
  if (same === values.map(([value, text]) => `${value} ${text}`).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value)));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
}

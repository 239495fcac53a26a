// Asks the daemon. The header is what no other site can send.

const PATIENCE_MS = 40_000;

async function response(path) {
  let answer;
  try {
    answer = await fetch(path, {
      headers: { "octroi-page": "1" }, cache: "no-store", credentials: "omit", redirect: "error",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    throw new Error(`the daemon does not answer (${error.name})`);
  }
  if (answer.ok) return answer;
  let detail = `status ${answer.status}`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // What is no JSON has no more to say than its status.
  }
  throw new Error(detail);
}

/** What a path says, as JSON. */
export async function ask(path) {
  return (await response(path)).json();
}

/** Lets the browser keep what a path says, as a file of this name. */
export async function keep(path, name) {
  const address = URL.createObjectURL(await (await response(path)).blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  // The browser has taken it over by then, or never will.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

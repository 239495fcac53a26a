#!/usr/bin/env python3
"""Opens the page in Chromium and does what somebody does who has no mouse. Standard library only.

`look.py CHROMIUM` reads a JSON object: `url`, `out` (a directory), `axe` (the file of axe-core, or null), `rebind` (a name that the
browser takes for this host) and `foreign` (a port for a site of somebody else). It prints one JSON object: what the tables say, what
the keyboard reaches, what was asked of whom, what the console said, what axe found, and what another site could read.
"""
import base64
import http.server
import json
import pathlib
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "browser"))
import page  # noqa: E402

PATIENCE_S = 40
SIZES = ((1180, 1500), (400, 900))
PICTURE = (1180, 1240)
VIOLATIONS = """addEventListener('securitypolicyviolation', (event) => {
  (window.broken ??= []).push(event.violatedDirective + ' ' + event.blockedURI);
});"""
TABLES = """(() => {
  const text = (cell) => cell.innerText.trim();
  const tables = {}, lists = {};
  for (const table of document.querySelectorAll('table[id]'))
    tables[table.id] = [...table.tBodies[0].rows].map((row) => [...row.cells].map(text));
  for (const list of document.querySelectorAll('dl'))
    lists[list.id] = Object.fromEntries([...list.querySelectorAll('dt')].map((term) => [text(term), text(term.nextElementSibling)]));
  return { tables, lists };
})()"""
# What can be used, by name, in the order of the document.
USABLE = """(() => {
  const all = 'a[href], button, input, select, summary, [tabindex="0"]';
  return [...document.querySelectorAll(all)].filter((one) => one.checkVisibility()).map(window.called);
})()"""
CALLED = """window.called = (one) => one.tagName + ' ' + (one.id || one.getAttribute('href') || one.dataset.format ||
  one.getAttribute('aria-labelledby') || one.innerText);"""
# What a site of somebody else can try: each must fail, or say nothing.
ATTACK = """(async () => {
  const found = {};
  const to = %r;
  const tries = {
    plain: () => fetch(to + '/v1/overview'),
    marked: () => fetch(to + '/v1/overview', { headers: { 'octroi-page': '1' } }),
    blind: () => fetch(to + '/v1/overview', { mode: 'no-cors' }).then((answer) => { if (answer.type !== 'opaque') return answer; throw 0; }),
    change: () => fetch(to + '/v1/ports', { method: 'POST', body: '{}', headers: { 'content-type': 'text/plain' } }),
    script: () => new Promise((done, failed) => {
      const script = Object.assign(document.createElement('script'), { src: to + '/number.js', type: 'module', onload: done, onerror: failed });
      document.head.append(script);
    }),
    image: () => new Promise((done, failed) => {
      document.body.append(Object.assign(new Image(), { src: to + '/icon.svg', onload: done, onerror: failed }));
    }),
    style: () => new Promise((done, failed) => {
      document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href: to + '/page.css', onload: done, onerror: failed }));
    }),
  };
  for (const [name, attempt] of Object.entries(tries))
    found[name] = await attempt().then(() => 'read', () => 'refused');
  return found;
})()"""


def until(what, done):
    begun = time.monotonic()
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() - begun > PATIENCE_S:
            raise SystemExit(f"{what}: never")
        time.sleep(0.1)


class Page(page.Browser):
    """The page in a browser."""

    def promised(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise SystemExit(f"{answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key, code, text=None):
        of = {"key": key, "code": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **of, **({"text": text} if text else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **of)

    def size(self, width, height):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        self.events = [event for event in self.events if event.get("method") != "Page.loadEventFired"]

    def look(self):
        return self.value(TABLES)

    def scheme(self, scheme):
        self.ask("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        return self.value(page.COLOURS)

    def picture(self, path, width, height):
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


def tabbed(browser):
    """What Tab goes through, once around, from the first element of the page on."""
    reached = []
    for _ in range(200):
        browser.press("Tab", 9)
        name = browser.value("document.activeElement === document.body ? null : window.called(document.activeElement)")
        if name in reached:
            break
        # Between the last and the first, the focus is the browser's own.
        if name is not None:
            reached.append(name)
    first = reached.index(browser.value(USABLE)[0])
    return reached[first:] + reached[:first]


def by_keyboard(browser, element, key="Enter", code=13, text="\r"):
    browser.value(f"document.querySelector({element!r}).focus()")
    browser.press(key, code, text)


def downloads(browser, out):
    """The three files, asked for by Enter on their buttons."""
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(out))
    found = {}
    for kind in "html", "csv", "json":
        by_keyboard(browser, f"button[data-format={kind}]")
        until(f"the {kind}", lambda: list(out.glob(f"statement-*.{kind}")))
        until("its end", lambda: not list(out.glob("*.crdownload")))
        found[kind] = str(next(out.glob(f"statement-*.{kind}")))
    return found


def axe(browser, path, url):
    """Serious and critical findings in both colour schemes. The page's policy forbids what axe does: it is off for this alone."""
    browser.ask("Page.setBypassCSP", enabled=True)
    found = {}
    for scheme in "light", "dark":
        browser.scheme(scheme)
        browser.open(url)
        until("rows", lambda: browser.value("document.querySelectorAll('#tenants-table tbody tr, #ledger-list dt').length > 6"))
        by_keyboard(browser, "summary")
        browser.promised(pathlib.Path(path).read_text() + ";0")
        run = "axe.run(document).then((found) => ({ passes: found.passes.length, violations: found.violations.map((one) => [one.id, one.impact, one.nodes[0].html]) }))"
        found[scheme] = browser.promised(run)
    browser.ask("Page.setBypassCSP", enabled=False)
    return found


def foreign(browser, wanted):
    """A site of somebody else, and a name that was made to mean this host."""
    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>foreign</title><body>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", wanted["foreign"]), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.open(f"http://127.0.0.1:{wanted['foreign']}/")
    tried = browser.promised(ATTACK % wanted["url"].rstrip("/"))
    browser.events.clear()
    browser.open(f"http://{wanted['rebind']}:{wanted['url'].rstrip('/').rsplit(':', 1)[1]}/")
    answers = [event["params"]["response"]["status"] for event in browser.events if event.get("method") == "Network.responseReceived"]
    server.shutdown()
    return tried, answers[:1]


def look(browser, wanted):
    out, url = pathlib.Path(wanted["out"]), wanted["url"]
    for script in VIOLATIONS, CALLED:
        browser.ask("Page.addScriptToEvaluateOnNewDocument", source=script)
    browser.size(*SIZES[0])
    found = {}
    browser.open(url)
    # While they send there are rates, and a line in each chart.
    rates = "[...document.querySelectorAll('#tenants-table tbody tr')].every((row) => /[kMG]bit/.test(row.cells[3].innerText))"
    lines = "[...document.querySelectorAll('svg path.from')].filter((path) => /L.*L.*L/.test(path.getAttribute('d'))).length"
    until("rates", lambda: browser.value(rates) and browser.value(lines) == 2)
    found["live"] = browser.look()
    print("live", file=sys.stderr, flush=True)
    still, last = 0, None
    while still < 3:
        time.sleep(2.2)
        now = browser.look()["tables"]["tenants-table"]
        totals = [row[5:] for row in now]
        still, last = (still + 1 if totals == last else 0), totals
    # Both spans, by keyboard; the day is compared.
    found["history"] = {}
    for hours, slots in (1, 12), (24, 288):
        by_keyboard(browser, f"button[data-hours='{hours}']")
        rows = "document.querySelectorAll('#history-table tbody tr').length"
        until("history", lambda: browser.value(f"{rows} === {slots}"))
        found["history"][hours] = browser.look()["tables"]["history-table"]
    found["history_drawn"] = browser.value("[...document.querySelectorAll('#history-figure path')].every((path) => path.getAttribute('d').includes('L'))")
    by_keyboard(browser, "#usage-show")
    until("usage", lambda: browser.value("document.querySelectorAll('#usage-table tbody tr').length > 0"))
    found["still"] = browser.look()
    found["told"] = browser.value("document.getElementById('statement-told').innerText")
    found["downloads"] = downloads(browser, out)
    found["usable"], found["reached"] = browser.value(USABLE), tabbed(browser)
    # The pause stops what moves, and says so.
    by_keyboard(browser, "#pause")
    found["paused"] = browser.value("[document.getElementById('pause').ariaPressed, document.getElementById('told').innerText]")
    by_keyboard(browser, "#pause")
    # A filter leaves one row, and one chart.
    browser.value("document.getElementById('filter').focus()")
    browser.ask("Input.insertText", text="bob")
    found["filtered"] = browser.value("[document.querySelectorAll('#tenants-table tbody tr').length, document.querySelectorAll('.card').length]")
    browser.value("document.getElementById('filter').value = ''; document.getElementById('filter').dispatchEvent(new Event('input'))")
    found["fits"] = []
    for size in reversed(SIZES):
        browser.size(*size)
        found["fits"].append(browser.value(page.FITS))
    for scheme in "light", "dark":
        found[scheme] = browser.scheme(scheme)
        browser.value("document.activeElement?.blur()")
        browser.picture(out / f"page-{scheme}.png", *PICTURE)
    of = lambda method: [event["params"] for event in browser.events if event.get("method") == method]
    found["requests"] = sorted({event["request"]["url"] for event in of("Network.requestWillBeSent")})
    found["console"] = [entry["entry"]["text"] for entry in of("Log.entryAdded")] + of("Runtime.consoleAPICalled")
    found["console"] += of("Runtime.exceptionThrown")
    found["broken"] = browser.value("window.broken ?? []")
    # One that would be asked, to show that it would be seen.
    browser.value("document.body.append(Object.assign(new Image(), { src: 'http://localhost:9/x.png' }))")
    found["control"] = until("a violation", lambda: browser.value("window.broken ?? null"))
    found["axe"] = axe(browser, wanted["axe"], url) if wanted["axe"] else None
    found["foreign"], found["rebound"] = foreign(browser, wanted)
    return found


def main(chromium):
    wanted = json.load(sys.stdin)
    rules = f"--host-resolver-rules=MAP {wanted['rebind']} 127.0.0.1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Page(chromium, profile, rules)
        try:
            print(json.dumps(look(browser, wanted)), flush=True)
        finally:
            browser.process.kill()
            browser.process.wait()


if __name__ == "__main__":
    signal.alarm(240)
    main(sys.argv[1])

#!/usr/bin/env python3
"""Opens pages in Chromium, headless, over its debugging pipe, and says what they did. Standard library only.

`page.py CHROMIUM` reads a JSON object from standard input: `pages`, a list of `{"name", "file"}`, and `out`, a directory
for screenshots (`NAME-light.png`, `-dark`, `-print`) and `NAME.pdf`. It prints a JSON object a page: the requests that
left it, what the console said, the sums of the charts, whether it fits its width, its colours, and the PDF's pages.
"""
import base64
import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 60
WIDTH = 1000
# Of a picture: down to the charts.
HEIGHT = 1400
# Sums by direction and zone of what the bars say they are; BigInt, because a double ends at 2^53.
SUMS = """(() => {
  const sums = {};
  for (const svg of document.querySelectorAll('svg[data-direction]'))
    for (const bar of svg.querySelectorAll('rect[data-bytes]')) {
      const key = svg.dataset.direction + ' ' + bar.dataset.zone;
      sums[key] = (BigInt(sums[key] || 0) + BigInt(bar.dataset.bytes)).toString();
    }
  return sums;
})()"""
COLOURS = "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; })()"
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
# Bars that a reader sees: with a height, and within their chart.
BARS = """(() => {
  let seen = 0, outside = 0;
  for (const bar of document.querySelectorAll('rect[data-bytes]')) {
    const chart = bar.ownerSVGElement.getBoundingClientRect(), box = bar.getBoundingClientRect();
    seen += box.height > 0;
    outside += box.top < chart.top - 1 || box.bottom > chart.bottom + 1 || box.right > chart.right + 1;
  }
  return [seen, outside];
})()"""


class Browser:
    """Chromium, and one page of it."""

    def __init__(self, chromium, profile, *options):
        # The browser reads from 3 and writes to 4; by way of 100, because either may be one of these already.
        ours = [os.pipe(), os.pipe()]
        (child_in, self.to), (self.back, child_out) = ours

        def places():
            os.dup2(child_in, 100)
            os.dup2(child_out, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        self.process = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
             "--disable-dev-shm-usage", *options, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=places, close_fds=False)
        os.close(child_in)
        os.close(child_out)
        self.rest, self.events, self.number, self.session, self.asked = b"", [], 0, None, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in "Page", "Network", "Runtime", "Log":
            self.ask(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            # A page that computes for ever answers nothing: say so, and what it was asked.
            if not select.select([self.back], [], [], PATIENCE_S)[0]:
                raise SystemExit(f"the browser has said nothing for {PATIENCE_S} s; asked last: {self.asked}")
            part = os.read(self.back, 1 << 20)
            if not part:
                raise SystemExit("the browser ended")
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def ask(self, method, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        self.asked = data[:300]
        while data:
            data = data[os.write(self.to, data):]
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message())

    def value(self, expression):
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def screenshot(self, path, media, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)
        colours = self.value(COLOURS)
        if path:
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
            picture = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
            path.write_bytes(base64.b64decode(picture["data"]))
        return colours


def look(browser, page, out):
    browser.events.clear()
    url = pathlib.Path(page["file"]).resolve().as_uri()
    browser.ask("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
    browser.ask("Page.navigate", url=url)
    browser.wait("Page.loadEventFired")
    time.sleep(0.3)
    browser.value("1")
    of = lambda method: [event["params"] for event in browser.events if event.get("method") == method]
    requests = [event["request"]["url"] for event in of("Network.requestWillBeSent")]
    said = [entry["entry"]["text"] for entry in of("Log.entryAdded")] + of("Runtime.consoleAPICalled")
    said += of("Runtime.exceptionThrown")
    picture = lambda kind: out / f"{page['name']}-{kind}.png"
    found = {
        "page": page["name"], "asked": requests.count(url), "requests": [one for one in requests if one != url],
        "console": said, "sums": browser.value(SUMS), "bars": browser.value(BARS), "fits": browser.value(FITS),
        "title": browser.value("document.title"), "lang": browser.value("document.documentElement.lang"),
        "light": browser.screenshot(picture("light"), "", "light"),
        "dark": browser.screenshot(picture("dark"), "", "dark"),
        "print": browser.screenshot(picture("print"), "print", "dark"),
    }
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])
    pdf = base64.b64decode(browser.ask("Page.printToPDF", preferCSSPageSize=True)["data"])
    (out / f"{page['name']}.pdf").write_bytes(pdf)
    found["pdf_pages"] = len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))
    return found


def main(chromium):
    wanted = json.load(sys.stdin)
    out = pathlib.Path(wanted["out"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, profile)
        try:
            for page in wanted["pages"]:
                print(json.dumps(look(browser, page, out)), flush=True)
        finally:
            browser.process.kill()
            browser.process.wait()


if __name__ == "__main__":
    import signal
    signal.alarm(PATIENCE_S * 3)
    main(sys.argv[1])

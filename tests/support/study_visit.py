"""The page of the user study in a real browser, offline, with a clock that stands still."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest
from scotoma.bench.paper.study.score import read_results

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("SCOTOMA_CHROMIUM") or next(
    filter(None, map(shutil.which, BROWSERS)), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium; install one or name it in SCOTOMA_CHROMIUM"
)
PHONE = {
    "viewport": {"width": 360, "height": 640},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
DESK = {"viewport": {"width": 1000, "height": 700}}
# Longer than what the page takes for the second tap of one finger.
PAUSE = 1234
# The key under which a browser has the answers of the person whose turn it is.
STATE = """(() => {
  const turn = Object.keys(localStorage).find((key) => key.endsWith("-turn"));
  return turn.replace(/turn$/, localStorage[turn]);
})()"""


@contextmanager
def running():
    """A browser."""
    with api.sync_playwright() as playwright:
        # Root has no sandbox; the page is our own.
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page that is open. Its clock stands still but for :meth:`wait`."""

    def __init__(self, browser, path, **options):
        self.path = path
        self.context = browser.new_context(accept_downloads=True, **{**DESK, **options})
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.clock.install(time="2026-01-02T03:04:05Z")
        self.page.clock.pause_at("2026-01-02T03:05:00Z")
        self.page.goto(path.as_uri())

    def wait(self, ms=PAUSE):
        self.page.clock.run_for(ms)

    def begin(self, name=""):
        self.page.fill("#name", name)
        self.page.click("text=Begin")

    def press(self, key, ms=PAUSE):
        self.wait(ms)
        self.page.keyboard.press(key)

    def answer(self, keys):
        for key in keys:
            self.press(key)

    def place(self):
        return self.page.inner_text("#place")

    def seed(self):
        return self.state()["seed"]

    def state(self):
        """What the device keeps of the person whose turn it is; None between two."""
        return json.loads(self.page.evaluate(f"localStorage[{STATE}] ?? 'null'"))

    def save(self, folder):
        with self.page.expect_download() as expected:
            self.page.click("#save")
        name = expected.value.suggested_filename
        expected.value.save_as(folder / name)
        return folder / name

    def result(self, folder, asked):
        """The saved file, as it is scored."""
        (result,) = read_results([self.save(folder)], asked)
        return result

    def saved_sides(self, folder, asked):
        return [answer.side for answer in self.result(folder, asked).answers]

    def close(self):
        """Nothing has gone wrong, and nothing was asked for but the page's own file, and data: and
        blob: that it made itself."""
        self.context.close()
        assert self.errors == []
        outside = [u for u in self.requests if not u.startswith(("data:", "blob:"))]
        assert outside and set(outside) == {self.path.as_uri()}


def check_fits(at, width=360):
    """Nothing to scroll sideways, and whatever can be touched is at least 44 pixels both ways."""
    assert at.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = at.page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, summary")]
        .filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect().toJSON())"""
    )
    assert boxes
    for box in boxes:
        assert box["width"] >= 44 and box["height"] >= 44
        assert box["left"] >= 0 and box["right"] <= width

"""What the page of the user study keeps: reloads, full storage, other people and other tabs."""

import contextlib
import json

import pytest
from scotoma.bench.paper.study.page import write_page
from scotoma.bench.paper.study.score import read_results
from study_pairs import study
from study_visit import PHONE, STATE, api, check_fits, needs_browser

pytestmark = needs_browser
# A browser's storage that is full after so many writes.
FULL = """{
  const set = Storage.prototype.setItem;
  let left = %d;
  Storage.prototype.setItem = function (...given) {
    if (left-- <= 0) throw new Error("full");
    set.apply(this, given);
  };
}"""
NO_STORAGE = {
    "forbidden": "Object.defineProperty(window, 'localStorage', { get() { throw new Error(); } })",
    "none": "Object.defineProperty(window, 'localStorage', { value: null })",
    "full": FULL % 0,
    "silent": "Storage.prototype.setItem = () => {}",
}
STAY = "Keep this page open and save before you leave."


def test_a_reload_goes_on(visit, tmp_path):
    asked = study(20, 8)
    at = visit(asked)
    at.begin("me")
    for _ in range(3):
        at.press("1")
    before = at.page.inner_text("#left .label"), at.page.get_attribute("#left img", "src")
    at.page.reload()
    assert at.place() == "4 of 8"
    assert before == (
        at.page.inner_text("#left .label"),
        at.page.get_attribute("#left img", "src"),
    )
    for _ in range(5):
        at.press("2")
    at.page.reload()
    assert at.page.inner_text("#thanks") == "Thank you"
    [result] = read_results([at.save(tmp_path)], asked)
    assert [answer.side for answer in result.answers] == ["left"] * 3 + ["right"] * 5


def test_a_page_of_another_study_begins_anew(visit):
    at = visit(study(20, 8))
    at.begin()
    at.press("1")
    write_page(study(20, 8, seed=8), at.path)
    at.page.reload()
    assert at.page.locator("#start").is_visible()


@pytest.mark.parametrize(
    "change",
    ["state.seed = '0123456789abcdef'", "state.seed = 7", "delete state.answers", "state = 'x'"],
)
def test_a_kept_state_that_does_not_fit_is_dropped(visit, change):
    at = visit(study(20, 8))
    at.begin()
    at.press("1")
    at.page.evaluate(
        f"(change) => {{ const key = {STATE};"
        "let state = JSON.parse(localStorage[key]);"
        f"{change}; localStorage[key] = JSON.stringify(state); }}"
    )
    at.page.reload()
    assert at.page.locator("#start").is_visible()


def closes(at):
    """What the browser asks before it closes the page, which stays open."""
    asked = []

    def stay(dialog):
        asked.append(dialog.type)
        dialog.dismiss()

    at.page.once("dialog", stay)
    with contextlib.suppress(api.TimeoutError), at.page.expect_event("close", timeout=1000):
        at.page.close(run_before_unload=True)
    return asked


@pytest.mark.parametrize("script", NO_STORAGE.values(), ids=NO_STORAGE)
def test_without_storage_nothing_is_promised(visit, tmp_path, script):
    """All works but for reloads, of which the page says so, and asks before it goes."""
    asked = study(4, 2)
    at = visit(asked)
    assert "you can stop and go on later" in at.page.inner_text("#start ul")
    at.page.evaluate("localStorage.clear()")
    at.context.add_init_script(script)
    at.page.reload()
    words = at.page.inner_text("#start ul")
    assert STAY in words and "later" not in words and "on this device" not in words
    at.begin()
    at.press("1")
    at.page.click("#stop")
    words = at.page.inner_text("#end")
    assert STAY in words and "later" not in words and "on this device" not in words
    assert closes(at) == ["beforeunload"]
    at.page.click("#back")
    at.press("2")
    assert STAY in at.page.inner_text("#end")
    # The next person's turn, too, loses nothing.
    at.page.click("#next")
    at.wait()
    assert closes(at) == ["beforeunload"]
    at.page.click("#people button")
    [result] = read_results([at.save(tmp_path)], asked)
    assert result.complete and [answer.side for answer in result.answers] == ["left", "right"]
    # Nobody knows whether the file was saved.
    assert closes(at) == ["beforeunload"]


def test_storage_that_fills_up(visit, tmp_path):
    """In the middle: what is left of the page's promises is what it can keep."""
    asked = study(20, 4)
    at = visit(asked)
    at.context.add_init_script(FULL % 4)  # whose turn twice, a beginning, one answer
    at.page.reload()
    at.begin()
    at.press("1")
    assert len(at.state()["answers"]) == 1
    for key in "212":
        at.press(key)
    assert len(at.state()["answers"]) == 1
    assert STAY in at.page.inner_text("#answered")
    assert closes(at) == ["beforeunload"]
    [result] = read_results([at.save(tmp_path)], asked)
    assert [answer.side for answer in result.answers] == ["left", "right"] * 2


def test_who_gave_no_answer_loses_none(visit):
    at = visit(study(4, 2))
    at.begin()
    at.page.evaluate(
        "localStorage[Object.keys(localStorage).find((k) => k.endsWith('-turn'))] = ''"
    )
    at.page.reload()
    assert at.page.locator("#start").is_visible() and not at.page.locator("#earlier").is_visible()
    at.context.add_init_script(NO_STORAGE["forbidden"])
    at.page.reload()
    at.begin()
    assert closes(at) == [] and at.page.is_closed()


def test_with_storage_nothing_asks_before_it_closes(visit):
    at = visit(study(4, 2))
    at.begin()
    at.press("1")
    assert closes(at) == [] and at.page.is_closed()


def answered(at, name, keys="11"):
    """A person answers all, with these keys."""
    at.begin(name)
    for key in keys:
        at.press(key)


@pytest.mark.parametrize("how", ["click", "double click", "taps", "keys"])
def test_next_person(visit, tmp_path, how):
    """However often it is pressed, the answers before are there, to be saved or gone on with."""
    asked = study(4, 2)
    at = visit(asked, **(PHONE if how == "taps" else {}))
    press = {
        "click": lambda: at.page.click("#next"),
        "double click": lambda: at.page.dblclick("#next"),
        "taps": lambda: tap_twice(at, "#next"),
        "keys": lambda: [at.page.press("#next", "Enter"), at.page.keyboard.press("Enter")],
    }[how]
    seeds = []
    for name, keys in (("Ann", "12"), ("Ben", "21")):
        answered(at, name, keys)
        seeds.append(at.seed())
        press()
        assert at.page.locator("#start").is_visible() and at.state() is None
        assert at.page.input_value("#name") == ""
        assert "Ann" not in at.page.inner_text("body")
        if how == "taps":
            check_fits(at)
        # Nor does a second press begin for whoever is next, or take the answers back.
        at.page.click("text=Begin")
        at.page.click("#people button")
        assert at.page.locator("#start").is_visible()
        at.wait()
    assert len(set(seeds)) == 2
    at.page.reload()
    people = at.page.locator("#people button")
    assert people.count() == 2
    assert all(text.endswith(": 2 of 2, not saved yet") for text in people.all_inner_texts())
    for place, sides in enumerate([["left", "right"], ["right", "left"]]):
        people.nth(place).click()
        assert at.seed() == seeds[place]
        [result] = read_results([at.save(tmp_path)], asked)
        assert (result.person, result.person_seed) == (("Ann", "Ben")[place], seeds[place])
        assert [answer.side for answer in result.answers] == sides
        at.page.click("#next")
        at.wait()
    assert not any("not saved" in text for text in people.all_inner_texts())


def tap_twice(at, what):
    """As fast as a finger can, at one place of the screen."""
    box = at.page.locator(what).bounding_box()
    for _ in range(2):
        at.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_who_was_put_away_in_the_middle_goes_on(visit, tmp_path):
    asked = study(20, 4)
    at = visit(asked)
    answered(at, "Ann", "12")
    at.page.click("#stop")
    at.page.click("#next")
    at.wait()
    check_fits(at, 1000)
    at.page.click("#people button")
    assert at.page.inner_text("#thanks") == "Stopped for now"
    at.page.click("#back")
    assert at.place() == "3 of 4"
    for key in "12":
        at.press(key)
    [result] = read_results([at.save(tmp_path)], asked)
    assert result.complete and [a.side for a in result.answers] == ["left", "right"] * 2


def test_another_tab_goes_on_with_the_same(visit):
    """At once; and after it was asleep, when it heard of nothing."""
    at = visit(study(20, 4))
    at.begin()
    at.press("1")
    other = at.context.new_page()
    other.goto(at.path.as_uri())
    assert other.inner_text("#place") == "2 of 4"
    at.wait()
    other.keyboard.press("1")
    api.expect(at.page.locator("#place")).to_have_text("3 of 4")
    asleep = "addEventListener('storage', (e) => e.stopImmediatePropagation(), { capture: true })"
    at.context.add_init_script(asleep)
    at.page.reload()
    at.wait()
    other.keyboard.press("1")
    assert at.place() == "3 of 4"
    at.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    assert at.place() == "4 of 4"


def test_nothing_says_that_a_file_was_saved(visit):
    """A browser that ignores downloads: the page cannot know, and keeps the answers."""
    asked = study(4, 2)
    at = visit(asked)
    answered(at, "Ann")
    at.page.evaluate("HTMLAnchorElement.prototype.click = () => {}")
    at.page.click("#save")
    said = at.page.inner_text("#saved")
    assert said.startswith(f"Look for study-{asked.digest[:8]}-ann.json in your downloads.")
    at.page.click("#next")
    at.wait()
    at.page.reload()
    at.page.click("#people button")
    assert json.loads(at.page.input_value("#text"))["person"] == "Ann"

"""The page of the user study in a browser: keys, fingers, looks, and nothing from outside; what it
keeps over reloads, full storage, other people and other tabs."""

import contextlib
import json
import re

import pytest
from scotoma.bench.paper.study.score import read_results, score
from scotoma.bench.paper.study.study import QUESTION, write_page
from study_pairs import pair, study
from study_visit import DESK, PHONE, STATE, api, check_fits, needs_browser

pytestmark = needs_browser


def answers_of(path, asked):
    [result] = read_results([path], asked)
    return result


def test_fifty_pairs_with_the_keyboard(visit, tmp_path):
    """Each key chooses its side, and the file says what was pressed, when, and what stood where."""
    asked = study(60, 50)
    at = visit(asked)
    at.begin("Anna B.")
    order = at.state()["order"]
    keys = ["ArrowLeft", "ArrowRight", "1", "2", "ArrowRight"]
    sides = ["left", "right", "left", "right", "right"] * 10
    for number in range(50):
        assert at.place() == f"{number + 1} of 50"
        at.press(keys[number % 5], ms=1000 + number)
    assert at.page.inner_text("#answered") == "All 50 pairs are answered."
    path = at.save(tmp_path)
    assert path.name == f"study-{asked.digest[:8]}-anna-b.json"
    result = answers_of(path, asked)
    assert result.person == "Anna B."
    assert result.head | {"format": 1} == asked.head | {"study": asked.digest}
    assert [answer.side for answer in result.answers] == sides
    assert [answer.ms for answer in result.answers] == [1000 + number for number in range(50)]
    assert [(a.pair, a.a_side) for a in result.answers] == [(o["pair"], o["aSide"]) for o in order]
    a = sum(side == one["aSide"] for side, one in zip(sides, order, strict=True))
    [person] = score([result]).people.itertuples()
    assert (person.a, person.b) == (a, 50 - a)
    found = json.loads(path.read_text())
    assert (found["started"], found["finished"]) == (
        "2026-01-02T03:05:00.000Z",
        f"2026-01-02T03:05:{sum(range(1000, 1050)) / 1000:06.3f}Z",
    )
    assert at.page.evaluate("navigator.userAgent") not in path.read_text()


def test_pairs_are_different_and_sides_balanced(visit):
    """And of 24 people each pair and side comes up about as often as chance has it."""
    pairs, count, people = 9, 5, 24
    asked = study(pairs, count)
    at, known = visit(asked), {each.number for each in asked.pairs}
    chosen, left, first = [], 0, set()
    for _ in range(people):
        at.page.evaluate("localStorage.clear()")
        at.page.reload()
        at.begin()
        order = at.state()["order"]
        numbers, sides = [one["pair"] for one in order], [one["aSide"] for one in order]
        assert len(order) == count == len(set(numbers)) and set(numbers) <= known
        assert {sides.count("left"), sides.count("right")} == {count // 2, count - count // 2}
        chosen += numbers
        left += sides[0] == "left"
        first.add(numbers[0])
    expected = people * count / pairs
    assert all(abs(chosen.count(n) - expected) < 4 * expected**0.5 for n in known)
    assert 1 < left < people - 1 and len(first) > 3


def test_with_fingers_on_a_telephone(visit, tmp_path):
    asked = study(30, 12, pairs=[pair(n, side=32) for n in range(30)])
    at = visit(asked, **PHONE)
    check_fits(at)
    assert at.page.locator("#begin button").is_visible()
    at.page.tap("text=Begin")
    sides = []
    for number in range(12):
        check_fits(at)
        assert not at.page.locator(".keys").is_visible()
        assert at.page.evaluate("document.body.scrollHeight <= window.innerHeight")
        side = ("left", "left", "right")[number % 3]
        at.wait()
        at.page.tap(f"#{side} img")
        sides.append(side)
    check_fits(at)
    at.page.tap("summary")
    check_fits(at)
    result = at.result(tmp_path, asked)
    assert [answer.side for answer in result.answers] == sides and result.person == ""


@pytest.mark.parametrize("options", [PHONE, DESK], ids=["telephone", "desk"])
@pytest.mark.parametrize("side", [28, 512])
def test_images_are_whole_multiples_and_equal(visit, options, side):
    """Every pixel of an image is as many of the screen's; only larger images are shrunk."""
    at = visit(study(1, 1, pairs=[pair(side=side)]), **options)
    at.begin()
    widths = at.page.evaluate(
        "[...document.querySelectorAll('.picture img')].map((e) => e.getBoundingClientRect().width)"
    )
    smoothing = at.page.evaluate(
        "getComputedStyle(document.querySelector('.picture img')).imageRendering"
    )
    assert widths[0] == widths[1] and widths[0] >= 96
    scale = widths[0] * options.get("device_scale_factor", 1) / side
    assert smoothing == ("pixelated" if scale >= 1 else "auto")
    assert scale < 1 or abs(scale - round(scale)) < 1e-3


def test_undo(visit, tmp_path):
    """By key and by button, from the end too; what was taken back is not in the file."""
    asked = study(20, 4)
    at = visit(asked)
    at.begin()
    assert at.page.locator("#undo").is_disabled()
    at.page.keyboard.press("Backspace")
    at.answer("121")
    at.page.keyboard.press("Backspace")
    at.page.click("#undo")
    assert at.place() == "2 of 4"
    at.answer("112")
    assert at.page.locator("#end").is_visible()
    at.page.keyboard.press("Backspace")
    assert at.place() == "4 of 4" and at.state()["finished"] is None
    at.press("1")
    assert at.saved_sides(tmp_path, asked) == ["left"] * 4


def test_stopping_saving_and_going_on(visit, tmp_path):
    """Half the answers are a result, and so are all of them later; the later one counts."""
    asked = study(20, 12)
    at = visit(asked)
    at.begin("Zoë")
    at.answer("111")
    before = at.page.inner_text("#left .label"), at.page.get_attribute("#left img", "src")
    at.page.reload()
    assert at.place() == "4 of 12"
    shown = at.page.inner_text("#left .label"), at.page.get_attribute("#left img", "src")
    assert shown == before
    at.press("2")
    at.page.click("#stop")
    half = at.save(tmp_path)
    assert half.name == f"study-{asked.digest[:8]}-zo.json"
    half = half.rename(tmp_path / "half.json")
    assert len(answers_of(half, asked).answers) == 4
    assert json.loads(half.read_text())["finished"] is None
    at.page.click("#next")
    at.wait()
    at.page.click("#people button")
    assert at.page.inner_text("#thanks") == "Stopped for now"
    at.page.click("#back")
    assert at.place() == "5 of 12"
    at.answer("11111111")
    # What was saved before does not hold the last answers.
    assert at.state()["saved"] is False
    at.page.reload()
    assert at.page.inner_text("#thanks") == "Thank you"
    [result] = read_results([half, at.save(tmp_path)], asked)
    assert len(result.answers) == 12 and result.notes


def test_what_can_be_copied_is_the_file_and_nothing_says_that_it_was_saved(visit, tmp_path):
    """Of a browser that ignores downloads the page cannot know, and it keeps the answers."""
    asked = study(4, 2)
    at = visit(asked)
    at.begin("Ann")
    at.answer("11")
    at.page.click("summary")
    text = at.page.input_value("#text")
    assert text == at.save(tmp_path).read_text() and json.loads(text)["person"] == "Ann"
    at.page.click("#copy")
    at.page.wait_for_function("document.querySelector('#saved').textContent.includes('copied')")
    area = at.page.locator("#text")
    assert area.evaluate("(e) => e.value.slice(e.selectionStart, e.selectionEnd)") == text
    at.page.evaluate("HTMLAnchorElement.prototype.click = () => {}")
    at.page.click("#save")
    said = at.page.inner_text("#saved")
    assert said.startswith(f"Look for study-{asked.digest[:8]}-ann.json in your downloads.")
    at.page.click("#next")
    at.wait()
    at.page.reload()
    at.page.click("#people button")
    assert at.page.input_value("#text") == text


def test_a_second_tap_is_not_an_answer(visit):
    at = visit(study(20, 8))
    at.begin()
    at.page.keyboard.press("1")
    assert at.place() == "1 of 8"
    at.wait()
    at.page.dblclick("#left")
    assert at.place() == "2 of 8"
    at.wait()
    at.page.keyboard.press("Control+1")
    at.page.keyboard.down("2")
    at.wait()
    at.page.keyboard.down("2")
    assert at.place() == "3 of 8"


def test_images_and_labels_stand_where_the_order_says_and_tell_no_group(visit):
    """Neither words nor names of elements say which image is whose."""
    asked = study(9, 5)
    at = visit(asked)
    texts = [at.page.inner_text("body")]
    at.begin()
    by_number = {each.number: each for each in asked.pairs}
    sources = set()
    for one in at.state()["order"]:
        texts.append(at.page.inner_text("body"))
        shown = at.page.locator("#ask").evaluate("(e) => e.outerHTML")
        texts.append(re.sub(r'src="[^"]*"', "", shown))
        for side in ("left", "right"):
            which = 0 if side == one["aSide"] else 1
            each = by_number[one["pair"]]
            assert at.page.inner_text(f"#{side} .label") == each.predicted[which]
            pixels = at.page.evaluate(
                """async (id) => {
                const image = document.querySelector(`#${id} img`);
                await image.decode();
                const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                return [...context.getImageData(0, 0, canvas.width, canvas.height).data]
                    .filter((_, i) => i % 4 < 3);
                }""",
                side,
            )
            assert pixels == each.images[which].ravel().tolist()
            sources.add(at.page.get_attribute(f"#{side} img", "src"))
        at.press("1")
    assert len(sources) == 10
    texts.append(at.page.inner_text("body"))
    for text in texts:
        assert not re.search("defective|standard|resnet|adversarial|attack|network", text, re.I)


HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- \u2028 & {{style}} 'b"


def test_hostile_names_are_words(visit, tmp_path):
    """Of classes, study and person."""
    pairs = [pair(n, predicted=(HOSTILE, HOSTILE), true_class=HOSTILE + "!") for n in range(2)]
    groups = {"a": HOSTILE, "b": HOSTILE + "2"}
    asked = study(2, 2, pairs=pairs, title=HOSTILE, groups=groups, settings={HOSTILE: HOSTILE})
    at = visit(asked)
    images = at.page.locator("img").count()
    seen = HOSTILE.replace("\u2028 ", "")
    assert at.page.inner_text("#start h1").replace("\u2028", "").split() == seen.split()
    at.begin("<img src=x>/../é")
    assert at.page.inner_text("#left .label") == seen
    at.answer("11")
    path = at.save(tmp_path)
    assert at.page.locator("img").count() == images == 2
    assert at.page.title() == seen
    assert path.name == f"study-{asked.digest[:8]}-img-src-x.json"
    result = answers_of(path, asked)
    assert result.person == "<img src=x>/../é" and result.head["title"] == HOSTILE


def test_the_policy_stops_what_would_slip_through(visit):
    at = visit(study(2, 2))
    failures = []
    at.page.on("requestfailed", lambda request: failures.append((request.url, request.failure)))
    at.page.evaluate(
        """() => {
        const image = document.createElement("img");
        image.setAttribute("onerror", "document.title = 'broken'");
        image.src = "data:,";
        document.body.append(image);
        const script = document.createElement("script");
        script.textContent = "document.title = 'broken'";
        document.body.append(script);
        const other = document.createElement("img");
        other.src = "https://example.org/x.png";
        document.body.append(other);
        }"""
    )
    at.page.wait_for_timeout(100)
    assert at.page.title() == "Images and labels"
    refused = [error for error in at.errors if "Content Security Policy" in error]
    assert len(refused) == 3
    at.errors.clear()
    # Playwright hears of the request, which the browser did not make.
    assert failures == [("https://example.org/x.png", "csp")]
    at.requests.remove("https://example.org/x.png")


def test_for_screen_readers(visit):
    """Names of all that can be pressed, progress said aloud, focus on the question."""
    at = visit(study(4, 2))
    page = at.page
    assert page.get_by_label("Name or pseudonym").is_visible()
    at.begin()
    assert page.get_by_role("status").inner_text() == "Pair 1 of 2"
    assert page.get_attribute("#status", "aria-live") == "polite"
    assert page.evaluate("document.activeElement.textContent") == QUESTION
    label = page.inner_text("#left .label")
    assert page.get_by_role("button", name=f"left image {label}").count() == 1
    assert page.get_by_role("progressbar", name="Pairs answered").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "left"
    width = "getComputedStyle(document.activeElement).outlineWidth"
    assert page.evaluate(width) == "3px"
    at.wait()
    page.keyboard.press("Enter")
    assert at.place() == "2 of 2"
    assert page.evaluate("document.activeElement.id") == "question"
    assert page.get_by_role("status").inner_text() == "Pair 2 of 2"
    assert page.evaluate("document.querySelector('progress').value") == 1


def test_reduced_motion(visit):
    """The bar moves, but for those who want none; by its rules, as its style cannot be read."""
    rules = """() => [...document.styleSheets[0].cssRules].flatMap((rule) => [...(rule.media
      ? (matchMedia(rule.media.mediaText).matches ? rule.cssRules : []) : [rule])])
      .filter((rule) => rule.selectorText?.includes("progress-value") && rule.style.transition)
      .map((rule) => rule.style.transition)"""
    assert visit(study(4, 2)).page.evaluate(rules)[-1] == "width 0.15s"
    assert visit(study(4, 2), reduced_motion="reduce").page.evaluate(rules)[-1] == "none"


# --- What it keeps.

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


def test_answers_that_are_not_this_study_s_are_dropped(visit):
    """Those of another study, and a kept state that does not fit."""
    at = visit(study(20, 8))
    for change in (
        *("state.seed = 7", "delete state.answers", "state = 'x'", "state.order[0].pair = 0"),
        None,
    ):
        at.begin()
        at.press("1")
        if change is None:
            write_page(study(20, 8, seed=8), at.path)
        else:
            at.page.evaluate(
                f"() => {{ const key = {STATE}; let state = JSON.parse(localStorage[key]);"
                f"{change}; localStorage[key] = JSON.stringify(state); }}"
            )
        at.page.reload()
        assert at.page.locator("#start").is_visible(), change
        assert not at.page.locator("#earlier").is_visible(), change


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


@pytest.mark.parametrize(
    "how",
    ["silent", *(pytest.param(h, marks=pytest.mark.slow) for h in ("forbidden", "none", "full"))],
)
def test_without_storage_nothing_is_promised(visit, tmp_path, how):
    """All works but for reloads, of which the page says so, and asks before it goes."""
    asked = study(4, 2)
    at = visit(asked)
    assert "you can stop and go on later" in at.page.inner_text("#start ul")
    at.page.evaluate("localStorage.clear()")
    at.context.add_init_script(NO_STORAGE[how])
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
    assert at.saved_sides(tmp_path, asked) == ["left", "right"]
    # Nobody knows whether the file was saved.
    assert closes(at) == ["beforeunload"]


def test_storage_that_fills_up(visit, tmp_path):
    """In the middle: what is left of the page's promises is what it can keep."""
    asked = study(20, 4)
    at = visit(asked)
    at.context.add_init_script(FULL % 4)  # whose turn twice, a beginning, one answer
    at.page.reload()
    at.begin()
    at.answer("1212")
    assert len(at.state()["answers"]) == 1
    assert STAY in at.page.inner_text("#answered")
    assert closes(at) == ["beforeunload"]
    assert at.saved_sides(tmp_path, asked) == ["left", "right"] * 2


def test_who_gave_no_answer_loses_none_and_storage_asks_nothing(visit):
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
    at = visit(study(4, 2))
    at.begin()
    at.press("1")
    assert closes(at) == [] and at.page.is_closed()


@pytest.mark.parametrize(
    "how", ["taps", "keys", pytest.param("double click", marks=pytest.mark.slow)]
)
def test_next_person(visit, tmp_path, how):
    """However often it is pressed, the answers before are there, to be saved or gone on with."""
    asked = study(4, 2)
    at = visit(asked, **(PHONE if how == "taps" else {}))
    press = {
        "double click": lambda: at.page.dblclick("#next"),
        "taps": lambda: tap_twice(at, "#next"),
        "keys": lambda: [at.page.press("#next", "Enter"), at.page.keyboard.press("Enter")],
    }[how]
    seeds = []
    for name, keys in (("Ann", "12"), ("Ben", "21")):
        at.begin(name)
        at.answer(keys)
        seeds.append(at.seed())
        press()
        assert at.page.locator("#start").is_visible() and at.state() is None
        assert at.page.input_value("#name") == ""
        assert "Ann" not in at.page.inner_text("body")
        check_fits(at, 360 if how == "taps" else 1000)
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
        result = at.result(tmp_path, asked)
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

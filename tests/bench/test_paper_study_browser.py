"""The page of the user study in a browser: keys, fingers, looks, and nothing from outside."""

import itertools
import re
from pathlib import Path

import pytest
from scotoma.bench.paper.study.draw import assignment
from scotoma.bench.paper.study.page import write_page
from scotoma.bench.paper.study.pairs import QUESTION
from scotoma.bench.paper.study.score import read_results, score
from study_pairs import pair, study
from study_visit import DESK, PHONE, check_fits, needs_browser

pytestmark = needs_browser


def test_fifty_pairs_with_the_keyboard(visit, tmp_path):
    """Each key chooses its side, and the file says what was pressed, when, and what stood where."""
    asked = study(60, 50)
    at = visit(asked)
    at.begin("Anna B.")
    keys = ["ArrowLeft", "ArrowRight", "1", "2", "ArrowRight"]
    sides = ["left", "right", "left", "right", "right"]
    for number in range(50):
        assert at.place() == f"{number + 1} of 50"
        at.press(keys[number % 5], ms=1000 + number)
    assert at.page.inner_text("#answered") == "All 50 pairs are answered."
    path = at.save(tmp_path)
    assert path.name == f"study-{asked.digest[:8]}-anna-b.json"
    [result] = read_results([path], asked)
    assert (result.person, result.complete, result.study) == ("Anna B.", True, asked.digest)
    assert result.head["groups"] == asked.groups and result.head["settings"] == asked.settings
    assert [answer.side for answer in result.answers] == sides * 10
    assert [answer.ms for answer in result.answers] == [1000 + number for number in range(50)]
    order = assignment(asked.numbers, 50, result.person_seed)
    a = sum(side == a_side for side, (_, a_side) in zip(sides * 10, order, strict=True))
    scores = score([result])
    assert (scores.people[0].a, scores.people[0].b) == (a, 50 - a)
    assert (result.started, result.finished) == (
        "2026-01-02T03:05:00.000Z",
        f"2026-01-02T03:05:{sum(range(1000, 1050)) / 1000:06.3f}Z",
    )
    agent = at.page.evaluate("navigator.userAgent")
    assert agent not in path.read_text()


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
    [result] = read_results([at.save(tmp_path)], asked)
    assert [answer.side for answer in result.answers] == sides and result.person == ""


@pytest.mark.parametrize("options", [PHONE, DESK], ids=["telephone", "desk"])
@pytest.mark.parametrize("side", [8, 28, 32, 64, 512])
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
    for key in "121":
        at.press(key)
    at.page.keyboard.press("Backspace")
    at.page.click("#undo")
    assert at.place() == "2 of 4"
    for key in "112":
        at.press(key)
    assert at.page.locator("#end").is_visible()
    at.page.keyboard.press("Backspace")
    assert at.place() == "4 of 4" and at.state()["finished"] is None
    at.press("1")
    [result] = read_results([at.save(tmp_path)], asked)
    assert [answer.side for answer in result.answers] == ["left"] * 4


def test_stopping_saving_and_going_on(visit, tmp_path):
    """Half the answers are a result, and so are all of them later; the later one counts."""
    asked = study(20, 12)
    at = visit(asked)
    at.begin("Zoë")
    for _ in range(11):
        at.press("1")
    at.page.click("#stop")
    half = at.save(tmp_path)
    assert half.name == f"study-{asked.digest[:8]}-zo.json"
    half = half.rename(tmp_path / "half.json")
    [result] = read_results([half], asked)
    assert (len(result.answers), result.finished, result.person) == (11, None, "Zoë")
    at.page.reload()
    at.page.click("#back")
    assert at.place() == "12 of 12"
    at.press("1")
    # What was saved before does not hold the last answer.
    assert at.state()["saved"] is False
    [result] = read_results([half, at.save(tmp_path)], asked)
    assert result.complete and result.notes


def test_what_can_be_copied_is_the_file(visit, tmp_path):
    asked = study(4, 2)
    at = visit(asked)
    at.begin()
    at.press("1")
    at.press("1")
    at.page.click("summary")
    text = at.page.input_value("#text")
    assert text == at.save(tmp_path).read_text()
    at.page.click("#copy")
    at.page.wait_for_function("document.querySelector('#saved').textContent.includes('copied')")
    area = at.page.locator("#text")
    assert area.evaluate("(e) => e.value.slice(e.selectionStart, e.selectionEnd)") == text


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


def test_browser_and_python_draw_the_same(visit):
    """Of 40 seeds, for even and odd counts and as many pairs as there are."""
    at = visit(study(1, 1))
    source = (Path(write_page.__code__.co_filename).parent / "draw.js").read_text()
    seeds = [f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(38)] + ["0" * 16, "f" * 16]
    cases = [
        (list(range(5, 5 + n)), k, s)
        for (n, k), s in itertools.product([(7, 7), (60, 50), (300, 25)], seeds)
    ]
    found = at.page.evaluate(
        f"(cases) => {{ {source}; return cases.map((c) => assignment(...c)); }}", cases
    )
    for case, drawn in zip(cases, found, strict=True):
        assert [(d["pair"], d["aSide"]) for d in drawn] == assignment(*case)
    # 2^32 is no multiple of 3: its last number would make 0 likelier, and is drawn again.
    below = "const numbers = [2 ** 32 - 1, 5]; return equally(() => numbers.shift())(3);"
    assert at.page.evaluate(f"() => {{ {source}; {below} }}") == 2


def test_images_and_labels_stand_where_the_seed_says(visit):
    asked = study(9, 5)
    at = visit(asked)
    at.begin()
    by_number = {each.number: each for each in asked.pairs}
    sources = set()
    for number, a_side in assignment(asked.numbers, 5, at.seed()):
        for side in ("left", "right"):
            which = 0 if side == a_side else 1
            each = by_number[number]
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


def test_the_page_does_not_tell_the_groups_apart(visit):
    """Neither words nor names of elements say which image is whose."""
    at = visit(study(9, 3))
    texts = [at.page.inner_text("body")]
    at.begin()
    for _ in range(3):
        texts.append(at.page.inner_text("body"))
        shown = at.page.locator("#ask").evaluate("(e) => e.outerHTML")
        texts.append(re.sub(r'src="[^"]*"', "", shown))
        at.press("1")
    texts.append(at.page.inner_text("body"))
    for text in texts:
        assert not re.search("defective|standard|resnet|adversarial|attack|network", text, re.I)


HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- \u2028 & {{style}} 'b"


def test_hostile_names_are_words(visit, tmp_path):
    """Of classes, study and person."""
    pairs = [pair(n, predicted=(HOSTILE, HOSTILE), true_class=HOSTILE + "!") for n in range(2)]
    asked = study(
        2,
        2,
        pairs=pairs,
        title=HOSTILE,
        groups={"a": HOSTILE, "b": HOSTILE + "2"},
        settings={HOSTILE: HOSTILE},
    )
    at = visit(asked)
    images = at.page.locator("img").count()
    seen = HOSTILE.replace("\u2028 ", "")
    assert at.page.inner_text("#start h1").replace("\u2028", "").split() == seen.split()
    at.begin("<img src=x>/../é")
    assert at.page.inner_text("#left .label") == seen
    at.press("1")
    at.press("1")
    path = at.save(tmp_path)
    assert at.page.locator("img").count() == images == 2
    assert at.page.title() == seen
    assert path.name == f"study-{asked.digest[:8]}-img-src-x.json"
    [result] = read_results([path], asked)
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


LUMINANCE = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, two) => {
    const [a, b] = [luminance(one), luminance(two)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = channels(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || e.disabled) continue;
    const style = getComputedStyle(e);
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (own || e.value) found.push([e.outerHTML.slice(0, 60), "text",
      ratio(channels(style.color), behind(e))]);
    if (/^(BUTTON|INPUT|TEXTAREA|PROGRESS)$/.test(e.tagName)) found.push([e.id, "edge",
      ratio(channels(style.borderTopColor), behind(e.parentElement))]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(visit, scheme):
    """WCAG 2.2, AA: 4.5 for words, 3 for the edges of what can be pressed; in both schemes."""
    at = visit(study(4, 2), color_scheme=scheme)
    dark = at.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 26)"
    assert dark == (scheme == "dark")
    measured = at.page.evaluate(LUMINANCE)
    at.begin()
    measured += at.page.evaluate(LUMINANCE)
    at.press("1")
    measured += at.page.evaluate(LUMINANCE)
    at.press("1")
    at.page.click("summary")
    at.page.click("#next")
    measured += at.page.evaluate(LUMINANCE)
    assert len(measured) > 40 and {kind for _, kind, _ in measured} == {"text", "edge"}
    least = {"text": 4.5, "edge": 3}
    assert [m for m in measured if m[2] < least[m[1]]] == []


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

"""The built documentation: links that lead somewhere, and pages for readers without eyes, without a mouse, in the dark.

Skipped where no pages are built; .ci/run builds them, and runs this file afterwards.
"""

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from shared import ROOT

PAGES = ROOT / "foveal" / "pages"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not (PAGES / "index.html").is_file(), reason="the pages are not built (foveal docs)")
# Pages of each kind that are looked at, beside those that `with_figures` finds.
KINDS = ("index.html", "search.html", "howto/ship.html", "results.html", "reference/doctor.html")


class Links(HTMLParser):
    """The addresses that a page names, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.addresses.add(value)
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)


def built():
    """Each built page, by its path."""
    found = {path: path.read_text("utf-8") for path in sorted(PAGES.rglob("*.html")) if "_static" not in path.parts}
    assert len(found) > 20
    return found


def wrong_links(links):
    """What is wrong with the addresses of pages: a line of text for each. Those outside are judged by their form."""
    found = []
    for path, page in links.items():
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme == "data" or address == "#":
                continue
            if parts.scheme:
                if not re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/[^\s<>]*)?", address):
                    found.append(f"{path.name}: {address} is no address")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{path.name}: there is no {address}")
            elif parts.fragment and target in links and unquote(parts.fragment) not in links[target].anchors:
                found.append(f"{path.name}: {address} has no such anchor")
    return found


def test_no_link_leads_nowhere():
    assert wrong_links({path: Links(text) for path, text in built().items()}) == []


def test_a_link_that_leads_nowhere_is_found():
    page = '<a href="#here"></a> <a href="no.html"></a> <a href="index.html#no"></a> <img src="http://x/y.png">'
    path = PAGES / "index.html"
    assert len(wrong_links({path: Links(page)})) == 4


def test_a_build_leaves_nothing_beside_the_pages():
    """What lies in the package, a wheel carries; MyST-NB would write executed notebooks there (docs/conf.py)."""
    assert not (PAGES.parent / "jupyter_execute").exists()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, the one of this machine."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the dependency group check-docs")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def with_figures():
    """A page for each kind of figure that a reader changes."""
    kinds = {}
    for path, text in built().items():
        for kind in re.findall(r'class="foveal-figure(?: foveal-frames)?" data-(?:figure|ready)="(\w+)"', text):
            kinds.setdefault(kind, path)
    assert len(kinds) >= 5
    return sorted(set(kinds.values()))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_pages_are_accessible(chromium, mode):
    """Contrast, alternative texts, names of controls, the order of headings, the language: axe-core's rules, of which
    those of WCAG 2 are the laws of many countries.
    """
    axe_module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the group check-docs")
    axe, found = axe_module.Axe(), []
    page = chromium.new_page(color_scheme=mode, viewport={"width": 1280, "height": 900})
    for path in [*with_figures(), *(PAGES / name for name in KINDS)]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.dataset.theme") == mode
        # Solutions are folded; they are looked at, too.
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        # Long listings take axe minutes, and look the same on all pages.
        context = None if path.name == "ship.html" else {"exclude": [["pre"]]}
        # In the dark only colours are others.
        rules = {
            "runOnly": ["color-contrast"] if mode == "dark" else ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]
        }
        for violation in axe.run(page, context, rules).response["violations"]:
            found += [f"{path.name}: {violation['id']}: {node['html'][:200]}" for node in violation["nodes"]]
    page.close()
    assert found == []


CONTROLS = "a[href], button, select, input, summary, [tabindex='0']"


def test_all_controls_of_figures_are_reached_by_the_keyboard_and_show_it(chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    for path in with_figures():
        page.goto(path.as_uri())
        for number in range(page.locator(".foveal-figure").count()):
            controls = page.locator(".foveal-figure").nth(number).locator(CONTROLS)
            controls.first.focus()
            for i in range(controls.count()):
                control = controls.nth(i)
                seen = control.evaluate(
                    "(e) => [document.activeElement === e, e.disabled === true, getComputedStyle(e).outlineStyle]"
                )
                assert seen[1] or (seen[0] and seen[2] != "none"), (path.name, control.evaluate("(e) => e.outerHTML"))
                if not seen[1]:
                    page.keyboard.press("Tab")
    page.close()


def test_no_page_is_wider_than_a_telephone(chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    wide = []
    for path in built():
        # All pages of the reference are made in one way.
        if path.parent.name != "reference" or path.name in ("explain.html", "nn.html"):
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(path.name)
    page.close()
    assert wide == []


def test_pictures_that_follow_each_other_can_be_read_on_a_telephone(chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    page.goto((PAGES / "course" / "initialisation.html").as_uri())
    assert page.locator(".foveal-frames img:not([hidden])").bounding_box()["width"] >= 600
    page.close()

"""The site in a real browser, opened as files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from spikedata.manifest import load_manifest
from spikedata_model.leaderboard.site import write_site
from tests.spikedata_model.leaderboard.site_results import (
    fake_result,
    make_paper,
    make_results,
    make_suite,
)

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATH = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(PATH is None, reason="no Chromium on this machine")

SUITES = [
    make_suite(seeds=(0, 1)),
    make_suite("other", title="Another", causal=False, step=None, seeds=(0,)),
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    results = [one for suite in SUITES for one in make_results(suite)]
    papers = [make_paper(), make_paper(suite="other", value=0.1, causality="unknown", labels="5 %")]
    data = [load_manifest("monkey-t")]
    write_site(results, folder, suites=SUITES, published=papers, manifests=data)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox needs rights that a test runner in a container does not have.
        chromium = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, site):
    """Open pages of the site; what they complain of or ask for fails the test."""
    contexts, problems = [], []

    def failed(request) -> None:
        if request.failure != "net::ERR_ABORTED":  # by going to the next page
            problems.append(f"failed: {request.url} {request.failure}")

    def visit(address: str = "index.html", **given):
        context = browser.new_context(**({"viewport": DESKTOP} | given))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", failed)
        page.on(
            "request",
            lambda request: request.url.startswith(site.as_uri()) or problems.append(request.url),
        )
        name, _, state = address.partition("#")
        page.goto((site / name).as_uri() + (f"#{state}" if state else ""))
        return page

    yield visit
    for one in contexts:
        one.close()
    assert problems == []


def until(page, condition: str) -> None:
    """Wait for a condition; Playwright's own way to wait is an `eval`, which the pages forbid."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(10)
    pytest.fail(f"never came true: {condition}")


def names(page) -> list[str]:
    """Return the decoders of the rows that are seen, in order."""
    return page.eval_on_selector_all(
        "#results tbody tr:not(.title)",
        "rows => rows.filter(r => !r.hidden).map(r => r.querySelector('bdi').textContent)",
    )


def values(page, key: str, body: int = 0) -> list[str]:
    """Return the sort values of a column in a table body."""
    return page.evaluate(
        """([key, body]) => {
            const table = document.querySelector('#results');
            const heads = [...table.tHead.rows[0].cells];
            const at = heads.findIndex(h => h.dataset.key === key);
            return [...table.tBodies[body].rows]
                .filter(r => !r.hidden && !r.classList.contains('title'))
                .map(r => r.cells[at].dataset.v ?? r.cells[at].textContent);
        }""",
        [key, body],
    )


def sorting(page) -> dict[str, str]:
    return page.eval_on_selector_all(
        "#results thead th[aria-sort]",
        "heads => Object.fromEntries(heads.map(h => [h.dataset.key, h.getAttribute('aria-sort')]))",
    )


def head(page, key: str):
    return page.locator(f"#results thead th[data-key={key}] button")


def every_page(site: Path) -> list[str]:
    """Return a page of each kind."""
    run = next((site / "run").glob("reach--poyo--*.html")).name
    return ["index.html", "suites.html", "data.html", "suite/reach.html", f"run/{run}",
            "data/monkey-t.html"]  # fmt: skip


# ------------------------------------------------------------------ sorting


def test_a_click_sorts_by_a_column_then_turns_it_round_then_undoes_it(opened):
    page = opened()
    written = names(page)

    head(page, "score").click()
    down = [float(one) for one in values(page, "score")]
    assert sorting(page) == {"score": "descending"}
    assert down == sorted(down, reverse=True)
    head(page, "score").click()
    assert sorting(page) == {"score": "ascending"}
    assert [float(one) for one in values(page, "score")] == down[::-1]
    head(page, "score").click()
    assert sorting(page) == {}
    assert names(page) == written


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_column_can_be_sorted_with_the_keyboard(opened, key):
    page = opened()
    head(page, "decoder").focus()
    page.keyboard.press(key)

    found = values(page, "decoder")
    assert sorting(page) == {"decoder": "ascending"}
    assert found == sorted(found)
    assert found[0].startswith("gru")
    focus = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert (focus, page.evaluate("document.activeElement.textContent")) == ("solid", "Decoder")


def test_numbers_that_are_not_there_stand_last_both_ways(opened):
    page = opened()
    for _ in range(2):
        head(page, "parameters").click()
        found = values(page, "parameters", body=1)
        assert found.count("") > 0
        assert all(one == "" for one in found[-found.count("") :])


def test_sorting_never_mixes_ours_with_what_does_not_rank_or_is_published(opened):
    page = opened()
    before = [set(values(page, "decoder", body)) for body in range(3)]
    for key in ("score", "decoder", "date", "labels"):
        head(page, key).click()
        assert [set(values(page, "decoder", body)) for body in range(3)] == before
    assert "Theirs" not in "".join(before[0] | before[1])
    assert "Theirs" in "".join(before[2])


def test_tables_of_other_pages_sort_too(opened):
    page = opened("suite/reach.html")
    table = page.locator("table.sortable").first
    table.locator("thead th[data-key=decoder] button").click()
    found = table.locator("tbody").first.locator("bdi").all_text_contents()

    assert found == ["gru", "kalman", "mlp", "poyo", "ridge", "wiener"]


# ------------------------------------------------------------------ filters and the address


def test_filters_narrow_the_rows_and_stand_in_the_address(opened):
    page = opened()
    everything = names(page)
    page.select_option("select[name=suite]", "other")
    page.select_option("select[name=labels]", "5 %")
    some = names(page)

    assert 0 < len(some) < len(everything)
    assert set(values(page, "labels")) == {"30.0"}
    assert "suite=other" in page.url
    assert "labels=5" in page.url
    assert f"{len(some)} of {len(everything)} rows" in page.inner_text("[role=status]")
    page.select_option("select[name=protocol]", "published")
    assert names(page) == ["Theirs"]
    assert "Not ranked" not in page.inner_text("#results")


def test_the_search_takes_words_in_any_order(opened):
    page = opened()
    page.fill("input[name=q]", "RANDOM poyo")

    assert set(names(page)) == {"poyo"}
    assert len(names(page)) == 2 * 3  # of two suites, with three label budgets
    page.fill("input[name=q]", "no such thing")
    assert names(page) == []
    assert page.inner_text("[role=status]").startswith("0 of ")


def test_causality_is_a_filter(opened):
    page = opened("index.html#causality=claimed")

    assert set(names(page)) == {"nearly there", "Theirs"}


def test_an_address_brings_back_the_view(opened):
    first = opened()
    first.select_option("select[name=suite]", "reach")
    first.fill("input[name=q]", "centre")
    head(first, "sd").click()
    state = first.url.partition("#")[2]
    second = opened(f"index.html#{state}")

    assert names(second) == names(first)
    assert sorting(second) == sorting(first) == {"sd": "descending"}
    assert second.input_value("input[name=q]") == "centre"
    assert second.input_value("select[name=suite]") == "reach"
    second.evaluate("location.hash = 'suite=other'")
    until(second, "document.querySelector('select[name=suite]').value === 'other'")
    assert second.input_value("input[name=q]") == ""


@pytest.mark.parametrize(
    "state", ["suite=nowhere", "sort=%3Cb%3E&order=up", "q=%22%5D%5B", "x", "%"]
)
def test_a_mistaken_address_breaks_nothing(opened, state):
    page = opened(f"index.html#{state}")
    chosen = page.eval_on_selector_all("select", "all => all.map(one => one.selectedIndex)")

    assert page.inner_text("[role=status]")
    assert (sorting(page), chosen) == ({}, [0, 0, 0, 0])


def test_clear_shows_everything_again(opened):
    page = opened("index.html#suite=reach&q=poyo&sort=score&order=asc")
    page.click("button[type=reset]")

    assert "#" not in page.url
    assert sorting(page) == {}
    assert page.inner_text("[role=status]").endswith(" rows.")


# ------------------------------------------------------------------ how it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_scrolls_sideways_or_complains(opened, site, viewport, scheme):
    page = opened(viewport=viewport, color_scheme=scheme)
    for address in every_page(site):
        page.goto((site / address).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, address


def test_what_is_too_wide_scrolls_in_its_own_box_and_with_the_keyboard(opened):
    page = opened(viewport=PHONE)
    box = page.locator(".scroll").first
    box.focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.scroll').scrollLeft > 0")

    assert box.evaluate("one => one.scrollWidth > one.clientWidth")


def luminance(colour: tuple[float, ...]) -> float:
    """Return relative luminance (WCAG 2.2, "relative luminance")."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: str, other: str) -> float:
    found = []
    for text in (one, other):
        rgb = [float(part) / 255 for part in re.findall(r"[\d.]+", text)[:3]]
        found.append(luminance(tuple(rgb)))
    return (max(found) + 0.05) / (min(found) + 0.05)


def test_contrast_is_computed_as_the_standard_does():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)


COLOURS = """() => {
    const behind = one => {
        for (; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (!/, 0\\)$|transparent/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = new Map();
    for (const one of document.querySelectorAll('body *')) {
        const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || !one.getClientRects().length) continue;
        const svg = one.namespaceURI.endsWith('svg');
        if (svg && one.tagName !== 'text') continue;
        const style = getComputedStyle(one);
        found.set([svg ? style.fill : style.color, behind(one)].join('|'), one.textContent);
    }
    return [...found];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(opened, site, scheme):
    """Contrast of text with what is behind it: at least 4.5 (WCAG 2.2, criterion 1.4.3)."""
    weak, seen = [], 0
    page = opened(color_scheme=scheme)
    for address in every_page(site):
        page.goto((site / address).as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for pair, text in page.evaluate(COLOURS):
            ink, paper = pair.split("|")
            seen += 1
            if contrast(ink, paper) < 4.5:
                weak.append((address, text, ink, paper))
    assert weak == []
    assert seen > 3 * len(every_page(site))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_stand_out_from_the_page(opened, scheme):
    """Contrast of at least 3 (WCAG 2.2, success criterion 1.4.11) of each mark's edge or fill."""
    page = opened("suite/reach.html", color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    marks = page.eval_on_selector_all(
        ".mark", "all => all.map(m => [getComputedStyle(m).stroke, getComputedStyle(m).fill])"
    )

    assert len(marks) > 20
    assert all(max(contrast(edge, paper), contrast(fill, paper)) >= 3 for edge, fill in marks)


def test_dark_mode_is_dark(opened):
    light, dark = (
        opened(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    )

    assert contrast(light, "rgb(0, 0, 0)") > 15
    assert contrast(dark, "rgb(255, 255, 255)") > 15


def test_without_scripts_the_tables_are_there_and_nothing_dead_is(opened, site):
    page = opened(java_script_enabled=False)

    assert page.locator("#results tbody tr").count() > 90
    assert page.locator("#results").is_visible()
    assert not page.locator("form.filters").is_visible()
    assert page.locator("thead button").count() == 0
    other = opened("suite/reach.html", java_script_enabled=False)
    assert other.locator("svg[role=group]").first.is_visible()


def test_nothing_moves_while_a_page_loads_or_a_column_is_sorted(opened):
    page = opened()
    shift = page.evaluate("""() => new Promise(done => {
        let total = 0;
        new PerformanceObserver(list => list.getEntries().forEach(e => total += e.value))
            .observe({type: 'layout-shift', buffered: true});
        setTimeout(() => done(total), 200);
    })""")
    width = "document.querySelector('#results').getBoundingClientRect().width"
    before = page.evaluate(width)
    head(page, "score").click()

    assert shift < 0.01
    assert page.evaluate(width) == before


def test_a_point_of_a_chart_leads_to_its_run(opened):
    page = opened("suite/reach.html")
    page.locator("svg[role=group] a[aria-label=poyo]").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/reach--poyo--*.html")

    assert page.inner_text("h1") == "poyo"


def test_a_script_in_a_result_does_not_run(browser, tmp_path):
    suite = SUITES[0]
    hostile = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    results = [one.model_copy(update={"decoder": hostile}) for one in make_results(suite)[:1]]
    write_site(results, tmp_path, suites=[suite], manifests=[], title=hostile)
    page = browser.new_page()
    for path in tmp_path.rglob("*.html"):
        page.goto(path.as_uri())
        assert page.title() != "owned"
        assert page.locator("img").count() == 0


def test_a_page_on_paper_has_no_controls(opened):
    page = opened()
    page.emulate_media(media="print")

    assert not page.locator("form.filters").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("#results").is_visible()


def test_of_many_rows_the_first_are_shown_until_all_are_asked_for(browser, tmp_path):
    suite = make_suite(seeds=(0,))
    results = [fake_result(suite, f"d{k}", skill=k / 40, seed=k, traces=()) for k in range(40)]
    write_site(results, tmp_path, suites=[suite], manifests=[], published=[make_paper()])
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())

    assert "241 rows. The first 200 are shown." in page.inner_text("[role=status]")
    assert len(names(page)) == 200
    papers = page.locator("tbody.published .title")
    assert not papers.is_visible()
    head(page, "score").click()  # sorts all rows, not those that were seen
    best = max(one.mean for result in results for one in result.summaries)
    assert float(values(page, "score")[0]) == best
    page.get_by_role("button", name="Show all 241 rows").click()
    assert len(names(page)) == 241
    assert papers.is_visible()


def test_the_folder_works_below_any_address_of_a_server(browser, site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(site.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page, missing = browser.new_page(), []
        page.on("response", lambda one: one.ok or missing.append(one.url))
        page.on("console", lambda message: missing.append(message.text))
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/{site.name}/index.html#q=poyo")
        assert set(names(page)) == {"poyo"}
        page.locator("#results a", has_text="poyo").first.click()
        page.wait_for_url("**/run/*.html")
        page.locator("nav a", has_text="Data").click()
        page.locator("a", has_text="monkey-t").first.click()
        page.wait_for_url("**/data/monkey-t.html")
        page.close()
        server.shutdown()

    assert missing == []

from __future__ import annotations

import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from spikedata.files import sha256_of
from spikedata.manifest import list_manifests
from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard import site as site_module
from spikedata_model.leaderboard.published import load_published
from spikedata_model.leaderboard.result import LeftOut, Result, Summary
from spikedata_model.leaderboard.site import LIST, write_site
from spikedata_model.leaderboard.suite import Budget, list_suites
from tests.spikedata_model.leaderboard.site_results import (
    Page,
    fake_result,
    make_paper,
    make_results,
    make_suite,
    read_site,
)

SUITE = make_suite()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(make_results(SUITE), folder, suites=[SUITE], published=[make_paper()])
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return read_site(sorted(site.rglob("*.html")))


def small(folder: Path, results, **given) -> list[Path]:
    """Write a site without manifests, which are many."""
    return write_site(results, folder, **({"suites": [SUITE], "manifests": []} | given))


def rows_of(text: str) -> list[str]:
    return re.findall(r"<tr.*?</tr>", text, re.DOTALL)


# ------------------------------------------------------------------ what a page is made of


def test_every_relative_address_leads_to_a_file_of_the_site(site, pages):
    broken = []
    for path, page in pages.items():
        ids = {attributes.get("id") for _, attributes in page.found}
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            inside = target.is_relative_to(site.resolve()) and target.is_file()
            if not inside or (not parts.path and parts.fragment not in ids):
                broken.append((path.name, address))
    assert broken == []
    assert len(pages) > len(list_manifests()) + 8


def test_nothing_is_loaded_from_elsewhere(site, pages):
    """Links may lead out; what a browser loads by itself may not."""
    for page in pages.values():
        loaded = [one.get("src") or one.get("href") for tag in ("script", "link", "img", "use")
                  for one in page.all(tag)]  # fmt: skip
        assert all(address and not urlsplit(address).scheme for address in loaded)
    texts = [path.read_text(encoding="utf-8") for path in (site / "assets").iterdir()]
    assert not any(re.search(r"@import|url\(|fetch\(|XMLHttp|https?://(?!www\.w3\.org)", text)
                   for text in texts)  # fmt: skip


def test_pages_are_well_formed_and_scripts_are_files(pages):
    for path, page in pages.items():
        ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
        assert page.unbalanced == [], path.name
        assert len(ids) == len(set(ids)), path.name
        assert all("src" in one for one in page.all("script")), path.name
        assert page.all("style") == []
        assert not [name for _, given in page.found for name in given
                    if name == "style" or name.startswith("on")]  # fmt: skip
        policy = next(one for one in page.all("meta") if one.get("http-equiv"))
        assert "unsafe" not in (policy["content"] or "")
        assert "default-src 'none'" in (policy["content"] or "")


def test_pages_can_be_heard(pages):
    """Landmarks, headings in order, captions, scopes, and words for every picture."""
    for path, page in pages.items():
        names = [name for name, _ in page.found]
        levels = [int(name[1]) for name in names if re.fullmatch(r"h[1-6]", name)]
        tables = len(page.all("table"))
        pictures = [one for one in page.all("svg") if one.get("aria-hidden") != "true"]
        ids = {attributes.get("id") for _, attributes in page.found}
        assert [names.count(one) for one in ("main", "header", "nav", "footer", "h1")] == [1] * 5
        assert levels[0] == 1, path.name
        assert all(b - a <= 1 for a, b in pairwise(levels)), path.name
        assert names.count("caption") == tables
        assert all(one.get("scope") for one in page.all("th"))
        assert all(set((one["aria-labelledby"] or "").split()) <= ids for one in pictures)
        assert names.count("figure") == len(pictures) == names.count("desc")
        assert page.all("html") == [{"lang": "en"}]


def test_every_chart_has_its_numbers_in_a_table(site):
    text = next((site / "suite").glob("*.html")).read_text(encoding="utf-8")
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)

    assert len(figures) == 2 * 5  # labels, step, latency, size and recordings, of two groups
    for one in figures:
        marks = re.sub(r'<ul class="legend">.*?</ul>', "", one, flags=re.DOTALL)
        points = marks.count('class="mark ')
        body = one.partition("<tbody>")[2]
        assert points == body.count("<tr>") > 0


def test_a_chart_has_no_number_that_is_none(site):
    for path in site.rglob("*.html"):
        shapes = re.findall(r'(?: d| transform| x1?| y1?| cx)="([^"]*)"', path.read_text("utf-8"))
        assert not [one for one in shapes if re.search(r"nan|inf|None|e[+-]\d", one)], path.name


# ------------------------------------------------------------------ what it says


def test_the_first_page_has_a_row_for_every_summary(site):
    rows = [row for row in rows_of((site / "index.html").read_text("utf-8")) if "data-suite" in row]
    ours = [row for row in rows if 'data-protocol="ours"' in row]
    results = make_results(SUITE)
    summaries = [one for result in results for one in result.summaries]

    assert len(ours) == len(summaries)
    assert sorted(float(re.findall(r'data-v="([^"]*)"', row)[1]) for row in ours) == sorted(
        one.mean for one in summaries
    )


def test_what_does_not_rank_and_what_papers_say_stand_apart(site):
    """Each table body sorts by itself, so nothing that is not comparable ends up among the rest."""
    for path in (site / "index.html", next((site / "suite").glob("*.html"))):
        text = path.read_text(encoding="utf-8")
        bodies = [part for part in re.findall(r"<tbody.*?</tbody>", text, re.DOTALL)]
        for body in bodies:
            names = set(re.findall(r"<bdi>(.*?)</bdi>", body))
            apart = [names & {"Theirs"}, names & {"older", "nearly there"},
                     names - {"Theirs", "older", "nearly there"}]  # fmt: skip
            assert sum(bool(one) for one in apart) <= 1
        assert "other version of the suite" in text
        assert "incomplete" in text


def test_runs_that_do_not_rank_are_in_no_chart(site):
    text = next((site / "suite").glob("*.html")).read_text(encoding="utf-8")
    charts = "".join(re.findall(r"<figure.*?</figure>", text, re.DOTALL))

    assert "poyo" in charts
    assert not re.search("older|nearly there|Theirs", charts)


def test_rows_of_a_suite_go_from_best_to_worst(site):
    text = next((site / "suite").glob("*.html")).read_text(encoding="utf-8")
    body = re.findall(r"<tbody>.*?</tbody>", text, re.DOTALL)[0]
    found = re.findall(r"<bdi>(.*?)</bdi>", body)
    means = {r.decoder: r.summaries[2].mean for r in make_results(SUITE)}

    assert sorted(found, key=lambda name: -means[name]) == found
    assert set(found) == {"wiener", "ridge", "kalman", "mlp", "gru", "poyo"}


def test_the_page_of_a_run_has_every_score_and_what_repeats_it(site, pages):
    result = make_results(SUITE)[5]
    path = next((site / "run").glob("reach--poyo--*.html"))
    page, text = pages[path], path.read_text(encoding="utf-8")

    for one in result.scores:
        assert repr(one.score) in text
    for said in (result.command, result.commit, result.suite_sha256, result.predictions_sha256,
                 "Some CPU", "torch 2.6.0", "other/one", "could not be read"):  # fmt: skip
        assert said in page.text
    assert page.text.count("estimate") >= 1
    assert len(page.all("figure")) == 3  # labels, recordings, and a trace


def test_the_json_of_a_run_is_the_result(site):
    results = {one.decoder: one for one in make_results(SUITE)}
    files = sorted((site / "run").glob("*.json"))

    assert len(files) == len(results)
    for path in files:
        again = Result.model_validate_json(path.read_text(encoding="utf-8"))
        assert again.model_dump_json() == results[again.decoder].model_dump_json()


def test_a_number_that_is_not_known_is_a_dash(tmp_path):
    nothing = Summary(group="CO", budget="all", mean=math.nan, sd=math.nan, low=math.nan,
                      high=math.nan, n_recordings=1, n_seeds=1, labelled_seconds=0.0)  # fmt: skip
    result = fake_result(SUITE, summaries=(nothing,), scores=(), fitted=(), traces=(), cost=None)
    small(tmp_path, [result])

    for path in tmp_path.rglob("*.html"):
        page = Page(path.read_text(encoding="utf-8"))
        assert not re.search(r"\bnan\b|\bNone\b", page.text), path.name
        assert "– stands for a number that is not known" in page.text
    row = next(r for r in rows_of((tmp_path / "index.html").read_text("utf-8")) if "ridge" in r)
    assert "<strong>–</strong>" in row
    assert 'data-v="nan"' not in row


def test_recordings_without_the_labels_of_a_budget_are_named(tmp_path):
    left = LeftOut(recording_id="perich/t_0_CO", budget="25 %", reason="too short by 3 s")

    small(tmp_path, [fake_result(SUITE, left_out=(left,)), fake_result(SUITE, "other")])

    (with_one, without) = sorted(tmp_path.glob("run/*.html"), key=lambda p: "other" in p.name)
    shown = Page(with_one.read_text()).text
    assert "25 %: perich/t_0_CO: too short by 3 s" in shown
    assert "but for recordings without the labels" in shown
    assert "labels of a budget" not in Page(without.read_text()).text
    table = Page((tmp_path / "suite/reach.html").read_text()).text
    assert table.count("fewer labels than a budget") == 1  # of one group
    assert "25 %: 1 of 3." in table


def test_what_is_said_when_pointed_at_is_also_written_on_the_page(site, pages):
    """A finger on a screen cannot point without touching."""
    for name in ("index.html", "suite/reach.html"):
        page = pages[site / name]
        hints = {one["title"] for kind in ("th", "span") for one in page.all(kind)
                 if one.get("title")}  # fmt: skip
        assert len(hints) > 4
        assert not {one for one in hints if one not in page.text}


@pytest.mark.parametrize(("kind", "shown"), [("spikedata", "0"), ("predictions", "–")])
def test_nobody_is_said_to_have_seen_nothing_who_does_not_say_so(tmp_path, kind, shown):
    small(tmp_path, [fake_result(SUITE, kind=kind, pretraining=None)])

    text = (tmp_path / "suite/reach.html").read_text()
    heads = re.findall(r'data-key="(\w+)"', text)
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", rows_of(text)[1])
    assert cells[heads.index("seen")] == shown


def test_a_manifest_says_which_suites_use_it(site):
    text = (site / "data" / "monkey-t.html").read_text(encoding="utf-8")
    other = (site / "data" / "sample.html").read_text(encoding="utf-8")

    assert 'href="../suite/reach.html"' in text
    assert 'href="../suite/reach.html"' not in other
    assert "a329216d2108dac0fff3fd3326c99f52f1bec6c354c2cdb330978e558caeb1f2" in other


def test_a_suite_that_only_results_name_has_a_page(tmp_path):
    small(tmp_path, [fake_result(make_suite("unheard-of"))])

    text = (tmp_path / "suite" / "unheard-of.html").read_text(encoding="utf-8")
    assert "Nothing but results of this suite is known here" in text
    assert "ridge" in text


def test_one_budget_and_one_score_are_enough(tmp_path):
    suite = make_suite("one", budgets=(Budget(),), seeds=(0,), groups=SUITE.groups[:1])
    small(tmp_path, [fake_result(suite)], suites=[suite])

    text = (tmp_path / "suite" / "one.html").read_text(encoding="utf-8")
    assert "score against labels" not in text
    assert "score by recording" in text


def test_no_result_at_all_makes_a_site(tmp_path):
    paths = small(tmp_path, [], suites=[])

    assert "There are no results yet." in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert set(paths) == {path for path in tmp_path.rglob("*") if path.is_file()}


def test_everything_that_is_shipped_has_its_page(tmp_path):
    write_site([], tmp_path, published=load_published())

    for name in list_suites():
        assert (tmp_path / "suite" / f"{name}.html").is_file()
    for name in list_manifests():
        assert (tmp_path / "data" / f"{name}.html").is_file()
    index = Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert all(one.method in index for one in load_published())


# ------------------------------------------------------------------ the files


def test_the_order_of_results_changes_no_byte(tmp_path):
    results = make_results(SUITE)
    small(tmp_path / "one", results)
    random.Random(3).shuffle(results)
    small(tmp_path / "two", results)

    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_writing_twice_changes_nothing(tmp_path):
    small(tmp_path, make_results(SUITE))
    before = bytes_of(tmp_path)
    small(tmp_path, make_results(SUITE))

    assert bytes_of(tmp_path) == before


NAMES = ["../../evil", "a/b", "Ünï cödé", "日本", "..", "", " ", "x" * 300, "CON", "a", "A", "a ",
         "<b>", "a\x00b", "c:\\d", "."]  # fmt: skip


def test_any_name_of_a_decoder_and_a_suite_stays_in_the_folder(tmp_path):
    folder = tmp_path / "deep" / "site"
    results = [fake_result(SUITE, name, suite=suite) for name in NAMES for suite in ("s", name)]
    paths = small(folder, results)

    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)
    found = [path for path in paths if path.parent.name == "run" and path.suffix == ".json"]
    kept = sorted(
        (one.suite, one.decoder)
        for one in (Result.model_validate_json(path.read_text("utf-8")) for path in found)
    )
    assert kept == sorted((one.suite, one.decoder) for one in results)
    assert len({str(path).lower() for path in paths}) == len(paths)


def test_a_suite_cannot_take_the_page_of_another(tmp_path):
    """The file name of "A" is known, so somebody can call a suite by it."""
    small(tmp_path, [fake_result(SUITE, suite="A")], suites=[])
    (taken,) = (path.stem for path in (tmp_path / "suite").iterdir())
    small(tmp_path, [fake_result(SUITE, suite=name) for name in ("A", taken)], suites=[])

    titles = {re.findall(r"<h1>(.*?)</h1>", path.read_text("utf-8"))[0]
              for path in (tmp_path / "suite").iterdir()}  # fmt: skip
    assert titles == {"A", taken}


def test_the_same_result_twice_has_two_pages(tmp_path):
    small(tmp_path, [fake_result(SUITE), fake_result(SUITE)])

    assert len(list((tmp_path / "run").glob("*.html"))) == 2


def test_pages_of_a_former_run_go_and_other_files_stay(tmp_path):
    results = make_results(SUITE)
    small(tmp_path, results)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run" / "mine.html").write_text("mine")
    gone = next((tmp_path / "run").glob("*older*.html"))
    changed = next((tmp_path / "run").glob("*older*.json"))
    changed.write_text("mine")
    small(tmp_path, results[:-1])

    assert not gone.exists()
    assert [(tmp_path / name).read_text() for name in ("notes.txt", "run/mine.html")] == [
        "mine"
    ] * 2
    assert changed.read_text() == "mine"
    assert str(changed.relative_to(tmp_path)) not in (tmp_path / LIST).read_text()


def test_somebody_elses_page_is_not_written_over(tmp_path):
    (tmp_path / "index.html").write_text("mine")

    with pytest.raises(SuiteError, match=r"index\.html, which was not written"):
        small(tmp_path, [])
    assert bytes_of(tmp_path) == {"index.html": b"mine"}


def test_a_list_that_names_files_outside_removes_nothing_there(tmp_path):
    folder, outside = tmp_path / "site", tmp_path / "precious.txt"
    outside.write_text("mine")
    small(folder, [])
    listed = json.loads((folder / LIST).read_text())
    for name in ("../precious.txt", str(outside), "run/../../precious.txt", "a\\..\\b"):
        listed["files"][name] = [sha256_of(outside)]
    (folder / LIST).write_text(json.dumps(listed))
    small(folder, [])

    assert outside.read_text() == "mine"


def test_a_folder_that_leads_elsewhere_is_not_followed(tmp_path):
    folder, outside = tmp_path / "site", tmp_path / "outside"
    for one in (folder, outside):
        one.mkdir()
    (folder / "run").symlink_to(outside)

    with pytest.raises(SuiteError, match="run/reach--ridge"):
        small(folder, [fake_result(SUITE)])
    assert list(outside.iterdir()) == []


def test_a_damaged_list_is_refused(tmp_path):
    small(tmp_path, [])
    (tmp_path / LIST).write_text("[]")

    with pytest.raises(SuiteError, match="not the list of files"):
        small(tmp_path, [])


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path, monkeypatch):
    """A page that was written before the crash is known to be ours."""
    write, done = site_module.write_whole, []

    def stop_after_five(path: Path, content: bytes | str, **given: bool) -> None:
        if len(done) == 5:
            raise OSError(28, "No space left on device")
        done.append(path)
        write(path, content, **given)

    with monkeypatch.context() as patch:
        patch.setattr(site_module, "write_whole", stop_after_five)
        with pytest.raises(OSError, match="No space"):
            small(tmp_path, make_results(SUITE))
    small(tmp_path, make_results(SUITE)[:1])
    small(tmp_path / "fresh", make_results(SUITE)[:1])

    fresh = bytes_of(tmp_path / "fresh")
    assert {name: data for name, data in bytes_of(tmp_path).items()
            if not name.startswith("fresh")} == fresh  # fmt: skip

"""What results, suites, papers and manifests say stays text, whatever it is."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from spikedata.manifest import Manifest, load_manifest
from spikedata_model.leaderboard.result import LeftOut
from spikedata_model.leaderboard.site import write_site
from tests.spikedata_model.leaderboard.site_results import (
    Page,
    fake_result,
    make_paper,
    make_suite,
)

HOSTILE = "</script></td></title><script>alert(1)</script><img src=x onerror=alert(1)>'\"&<!--"
SLUGS = {"name", "manifest", "target", "session", "id", "group", "suite"}  # the files refuse others
PLAIN = make_suite()


def replaced(value: Any, text: str, *keep: str) -> Any:
    """Return a model's fields with every free text replaced."""
    if isinstance(value, BaseModel):
        return {name: replaced(one, text, *keep) if name not in keep else one
                for name, one in value.model_dump().items()}  # fmt: skip
    if isinstance(value, str):
        return text
    if isinstance(value, dict):
        return {name: replaced(one, text, *keep) if name not in keep else one
                for name, one in value.items()}  # fmt: skip
    if isinstance(value, list | tuple):
        return type(value)(replaced(one, text, *keep) for one in value)
    return value


def result_of(text: str, keys: str | None = None):
    """Return a result whose texts, and the keys of whose tables, are `text`."""
    suite = make_suite(seeds=(0,))
    left = LeftOut(recording_id="a", budget="25 %", reason="b")
    plain = fake_result(suite, "ridge", left_out=(left,))
    fixed = {"suite_sha256", "kind", "causality", "metric", "date", "budget", "group"}
    fields = replaced(plain, text, *fixed)
    keys = text if keys is None else keys
    fields["data"] = {keys: next(iter(fields["data"].values()))}
    for one in fields["scores"]:
        one["phases"] = {"all": one["phases"]["all"], keys + "x": one["phases"]["hold"]}
    for one in fields["fitted"]:
        one["about"] = {keys: [text, {keys: 1}]}
    fields["machine"]["packages"] = {keys: text}
    return type(plain).model_validate(fields)


def site_of(folder: Path, text: str) -> dict[str, Page]:
    suite = make_suite(title=text, description=text, gap=0.0, gap_reason=text or "why",
                       references=(text,))  # fmt: skip
    paper = make_paper(method=text or "m", metric=text or "m", labels=text, latency=text,
                       protocol=text or "p", source=text or "s", read=text or "r")  # fmt: skip
    manifest = Manifest.model_validate(
        replaced(load_manifest("sample"), text, "harmonize", "kind", "sha256", "path", "role",
                 "etag", "asset_id", "md5", "doi", "root", "id", "session", "name")
        | {"name": "sample"}
    )  # fmt: skip
    results = [result_of(text), result_of("plain")]
    paths = write_site(results, folder, suites=[suite], published=[paper], manifests=[manifest],
                       title=text)  # fmt: skip
    return {str(p.relative_to(folder)): Page(p.read_text("utf-8")) for p in paths
            if p.suffix == ".html"}  # fmt: skip


def elements(pages: dict[str, Page]) -> Counter:
    """Count every element with the names of its attributes, over all pages."""
    return Counter(shape for page in pages.values() for shape in page.shape)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Counter:
    return elements(site_of(tmp_path_factory.mktemp("plain"), "x y"))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_no_text_changes_what_a_page_is_made_of(tmp_path_factory, harmless, text):
    pages = site_of(tmp_path_factory.mktemp("site"), text)

    assert all(page.unbalanced == [] for page in pages.values())
    assert elements(pages) == harmless


def test_markup_in_every_text_is_shown_as_text(tmp_path, harmless):
    pages = site_of(tmp_path, HOSTILE)

    assert elements(pages) == harmless
    assert all(page.unbalanced == [] for page in pages.values())
    assert HOSTILE in pages["index.html"].text
    assert all(HOSTILE in page.text for name, page in pages.items() if name.startswith("suite/"))
    written = "".join(path.read_text("utf-8") for path in tmp_path.rglob("*.html"))
    assert not re.search(r"<script(?! src)|<img|onerror=(?!alert\(1\)&gt;)", written)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x"]
)
def test_an_address_that_is_no_web_address_is_not_linked(tmp_path, link):
    suite = make_suite(references=(link,))
    write_site([fake_result(suite, link=link)], tmp_path, suites=[suite], manifests=[])

    for path in tmp_path.rglob("*.html"):
        for address in Page(path.read_text("utf-8")).addresses:
            assert not re.match(r"\s*(javascript|data):", address, re.IGNORECASE)

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.leaderboard.site_axes import MOST_TICKS, Axis, fitted, ticks
from spikedata_model.leaderboard.site_markup import (
    amount,
    count,
    decimal,
    file_name,
    out,
    plain,
    seconds,
    tag,
)
from tests.spikedata_model.leaderboard.site_results import Page

TEXT = st.text(alphabet=st.characters(), max_size=40) | st.sampled_from(
    ["</td></table><script>x</script>", "' onclick='x", '" onload="x', "]]>", "-->", "&lt;b&gt;",
     "<!--", "javascript:alert(1)", "../../etc/passwd", "\x00\x1b", "\u202egnp.exe", "\ud800"]
)  # fmt: skip


@given(TEXT, TEXT)
def test_text_stays_text_in_elements_and_in_attributes(text, other):
    page = Page(tag("p", text, " ", tag("b", other, title=text)))

    assert page.shape == [("p", ()), ("b", ("title",))]
    assert page.unbalanced == []
    kept = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    kept = "".join("\ufffd" if ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF else c
                   for c in kept)  # fmt: skip
    assert page.found[1][1]["title"] == kept
    assert page.text.startswith(kept)


@given(TEXT)
def test_what_is_written_can_be_encoded(text):
    assert plain(text).encode("utf-8").decode("utf-8") == plain(text)


def test_markup_is_escaped_once():
    inner = tag("i", "a & b")

    assert tag("p", inner) == "<p><i>a &amp; b</i></p>"
    assert plain(plain("<")) == "&lt;"


@given(TEXT)
def test_only_web_addresses_become_links(text):
    page = Page(out(text, "words"))

    assert [name for name, _ in page.found] in ([], ["a"])
    assert all(re.match(r"https?://[^/]", one) for one in page.addresses)


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "data:text/html,x", "//example.org", "https://", "vbscript:x",
     "JaVaScRiPt:alert(1)", "https://a b", 'https://a"onload=', "file:///etc/passwd", "http://[::1",
     "https:example.org", "\x01https://example.org"],
)  # fmt: skip
def test_other_addresses_are_shown_and_not_linked(address):
    assert Page(out(address, "words")).found == []


@pytest.mark.parametrize(
    ("address", "link"),
    [("https://example.org/a?b=1&c=2#d", "https://example.org/a?b=1&c=2#d"),
     ("http://example.org", "http://example.org"),
     ("10.1101/2025.01.01", "https://doi.org/10.1101/2025.01.01")],
)  # fmt: skip
def test_web_addresses_and_dois_are_linked(address, link):
    assert Page(out(address)).addresses == [link]


@given(st.text(max_size=300))
def test_any_name_makes_the_name_of_a_file_in_its_folder(name):
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,80}", file_name(name))
    assert ".." not in file_name(name)
    assert not file_name(name).endswith(".")


@given(st.lists(st.sampled_from(["A", "a", "a ", "a/", "á", "../a", "", " ", "con", "CON", "日本",
                                 "日", "a-b", "a b", 99 * "x", "x"]), unique=True))  # fmt: skip
def test_different_names_make_different_files(names):
    assert len({file_name(one) for one in names}) == len(names)


@pytest.mark.parametrize("name", ["con", "nul", "com1", "lpt9.txt", "aux"])
def test_no_file_has_the_name_of_a_device(name):
    assert file_name(name).partition(".")[0] != name.partition(".")[0]


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(FLOATS)
def test_every_number_has_a_text_without_letters_of_python(value):
    for show in (decimal, count, amount, seconds):
        text = show(value)

        assert not re.search(r"nan|inf|-", text), f"{show.__name__}({value}) is {text}"


@given(st.floats(min_value=1e-9, max_value=1e14))
def test_a_rounded_amount_is_near_the_number(value):
    text = amount(value, "s")
    prefixes = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number, unit = text.split()

    assert float(number) * prefixes[unit[:-1]] == pytest.approx(value, rel=6e-3)


ENDS = st.floats(min_value=-1e6, max_value=1e6)


@given(ENDS, st.floats(min_value=1e-3, max_value=1e6))
def test_ticks_are_few_and_inside(low, length):
    found = ticks(low, low + length)

    assert 2 <= len(found) <= MOST_TICKS + 1
    assert found == sorted(set(found))
    assert all(low - 1e-6 * length <= one <= low + length * (1 + 1e-6) for one in found)


@given(st.floats(min_value=1e-9, max_value=1e9), st.floats(min_value=1.2, max_value=1e9))
def test_ticks_of_ratios_are_few_and_inside(low, ratio):
    found = ticks(low, low * ratio, log=True)

    assert 2 <= len(found) <= MOST_TICKS + 1
    assert all(low * (1 - 1e-6) <= one <= low * ratio * (1 + 1e-6) for one in found)


@given(st.lists(FLOATS, max_size=6), st.booleans())
def test_every_number_with_a_place_lies_between_the_ends(values, log):
    values = [one for one in values if abs(one) < 1e150 and (abs(one) > 1e-150 or not one)]
    axis = Axis("x", log=log)
    scale = fitted(values, axis, 10.0, 90.0)

    for one in values:
        if axis.places(one):
            assert 10 <= scale.at(one) <= 90
    assert all(math.isfinite(scale.at(one)) for one in scale.ticks)


def test_a_number_below_the_floor_does_not_stretch_the_axis():
    scale = fitted([-1e5, 0.5, 0.9], Axis("R²", floor=-0.25), 0.0, 100.0)

    assert (scale.low, scale.at(-1e5)) == (-0.25, 0.0)
    assert scale.at(0.9) - scale.at(0.5) > 20

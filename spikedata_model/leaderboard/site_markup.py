"""HTML and SVG whose every text is escaped, and file names made of any name.

`tag` is the only way to markup: a plain string given to it is text, whatever it holds. What comes
from results, suites and manifests was written by others and is never trusted.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from html import escape
from urllib.parse import urlsplit

__all__ = [
    "DASH",
    "Child",
    "Markup",
    "amount",
    "count",
    "decimal",
    "file_name",
    "out",
    "plain",
    "seconds",
    "size",
    "tag",
]

DASH = "–"  # what stands for a number that is not there
VOID = {"br", "col", "hr", "img", "input", "link", "meta"}  # HTML Standard, 13.1.2, "void elements"
# What a text of HTML cannot hold (HTML Standard, 13.2.3.5): controls, surrogates, noncharacters.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17)
    )
    + "]"
)
SPECIAL = re.compile(f"[<>&\"']|{FORBIDDEN.pattern}")
LONGEST = 60  # letters of a file name before its hash; file systems take 255 bytes
# Names that Windows keeps for devices, whatever their ending.
DEVICES = {"con", "prn", "aux", "nul"} | {
    f"{kind}{n}" for kind in ("com", "lpt") for n in range(10)
}


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def plain(value: object) -> Markup:
    """Return any value as text of HTML; what HTML cannot hold becomes U+FFFD.

    Examples
    --------
    >>> plain('<b> & "c"')
    '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return value if isinstance(value, Markup) else Markup(_escaped(value))


def _escaped(value: object) -> str:
    """Return escaped text; most text needs nothing, and a big site has millions of them."""
    text = value if type(value) is str else str(value)
    if SPECIAL.search(text) is None:
        return text
    return escape(FORBIDDEN.sub("\ufffd", text))


def _add(parts: list[str], children: Iterable[Child]) -> None:
    for one in children:
        if type(one) is Markup:
            parts.append(one)
        elif isinstance(one, str | int | float):
            parts.append(_escaped(one))
        elif one is not None:
            _add(parts, one)


@cache
def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
        ``"td"``.
    *children
        `Markup` stands as it is, other values are text; None is nothing; iterables are opened.
    **attributes
        ``class_="n"`` and ``aria_label="x"`` become ``class`` and ``aria-label``. None and False
        are left out, True has no value.

    Examples
    --------
    >>> tag("a", "x < y", tag("br"), href="a.html", hidden=True)
    '<a href="a.html" hidden>x &lt; y<br></a>'
    """
    start = f"<{name}"
    for key, value in attributes.items():
        if value is True:
            start += f" {_attribute(key)}"
        elif value is not None and value is not False:
            text = value if type(value) is Markup else _escaped(value)
            start += f' {_attribute(key)}="{text}"'
    if name in VOID:
        return Markup(f"{start}>")
    parts = [start, ">"]
    _add(parts, children)
    parts.append(f"</{name}>")
    return Markup("".join(parts))


def out(address: str, words: Child = None) -> Markup:
    """Return a link to another site, or only the words where it is no plain http(s) address.

    Examples
    --------
    >>> out("javascript:alert(1)", "see")
    'see'
    >>> out("10.1/x")
    '10.1/x'
    """
    shown = address if words is None else words
    address = address.strip()
    if re.fullmatch(r"10\.\d{4,9}/\S+", address):  # a DOI; DOI Handbook, 2.2
        address = f"https://doi.org/{address}"
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good or re.search(r'[\s<>"\\^`{|}]', address) or FORBIDDEN.search(address):
        text: list[str] = []
        _add(text, [shown])
        return Markup("".join(text))
    return tag("a", shown, href=address, rel="noopener")


def file_name(name: str) -> str:
    """Return a name for a file, of a-z, 0-9 and ``._-``: different names give different ones.

    A name that is such already is kept; of any other, letters are left and 8 digits of its
    SHA-256 are added, so that an address does not depend on what else there is.

    Examples
    --------
    >>> file_name("poyo-table2")
    'poyo-table2'
    >>> file_name("../My Suite")
    'my-suite-ab55d1ed'
    """
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", ascii_)
    slug = re.sub(r"\.{2,}", ".", slug).strip("-._")[:LONGEST].rstrip("-._")
    if slug.partition(".")[0] in DEVICES:
        slug = f"x-{slug}"
    if slug and slug == name:
        return slug
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:8]}" if slug else f"x-{digest[:8]}"


# ------------------------------------------------------------------ numbers


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with so many decimals, a dash where there is none.

    Examples
    --------
    >>> decimal(-0.12345), decimal(float("nan")), decimal(None), decimal(-0.0001)
    ('−0.123', '–', '–', '0.000')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e7:
        return f"{value:.3g}".replace("-", "−")
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart.

    Examples
    --------
    >>> count(1234567).split()
    ['1', '234', '567']
    """
    if value is None or not math.isfinite(value):
        return decimal(value)
    return f"{value:,.0f}".replace(",", "\u202f").replace("-", "−")


def amount(value: float | None, unit: str = "") -> str:
    """Return a number in three digits with a prefix of its unit.

    Examples
    --------
    >>> amount(1_260_000), amount(0.0032, "s"), amount(45_500, "B"), amount(0)
    ('1.26 M', '3.2 ms', '45.5 kB', '0')
    """
    if value is None or not math.isfinite(value):
        return decimal(value)
    power = 0
    if value:
        power = math.floor(math.log10(abs(float(f"{value:.2e}"))) / 3)
    power = max(-3, min(4, power)) if unit else max(0, min(4, power))
    scaled = value / 1000.0**power
    shown = f"{scaled:.3g}" if abs(scaled) < 999.5 else f"{scaled:.0f}"
    prefix = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}[power]
    return f"{shown} {prefix}{unit}".strip().replace("-", "−")


def size(value: float | None) -> str:
    """Return bytes in three digits; a dash where not known."""
    return amount(value, "B")


def seconds(value: float | None) -> str:
    """Return a time for people.

    Examples
    --------
    >>> seconds(0.0032), seconds(62.4), seconds(5400), seconds(500_000)
    ('3.2 ms', '62.4 s', '1.5 h', '5.79 d')
    """
    if value is None or not math.isfinite(value) or abs(value) < 100:
        return amount(value, "s")
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(value) >= (2 if unit == "d" else 1) * length:
            return f"{value / length:.3g} {unit}".replace("-", "−")
    return amount(value, "s")

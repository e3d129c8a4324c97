"""Writes beside fetched assets whose they are: licence, citation and BibTeX of each dataset."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from spikedata.files import write_whole
from spikedata.manifest import Dataset, describe_source

__all__ = ["bibtex", "citation_text", "write_citations"]

log = logging.getLogger(__name__)

YEAR = r"\(((?:19|20)\d\d)\)"
ESCAPED = {
    **{mark: f"\\{mark}" for mark in "&%$#_"},
    "{": r"\textbraceleft{}",  # BibTeX counts braces, escaped or not
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def citation_text(dataset: Dataset) -> str:
    """Return what a reader must know before using a dataset, as Markdown."""
    lines = [
        f"# {dataset.title}",
        "",
        f"- Dataset: `{dataset.id}`",
        f"- Origin: {describe_source(dataset.source)}",
        f"- Licence: {dataset.licence}",
        *([f"- DOI: https://doi.org/{dataset.doi}"] if dataset.doi else []),
        "",
        "Cite as:",
        "",
        f"> {dataset.citation}",
    ]
    if dataset.references:
        lines += ["", "Described by:", "", *(f"- {one}" for one in dataset.references)]
    if dataset.note:
        lines += ["", dataset.note]
    return "\n".join(lines) + "\n"


def bibtex(dataset: Dataset) -> str:
    r"""Return a BibTeX entry of a dataset.

    Authors and year are taken from a citation that begins ``"Last, First; Last, First (2022)"``,
    as archives write it; any other citation is given whole, as a note.

    Examples
    --------
    >>> from spikedata.manifest import load_manifest
    >>> print(bibtex(load_manifest("sample").datasets[1]).splitlines()[0])
    @misc{nelpy_linear_track,
    """
    year = re.search(YEAR, dataset.citation)
    fields = {"title": f"{{{_escape(dataset.title)}}}"}
    authors = dataset.citation[: year.start()] if year else ""
    if year and ("," in authors or ";" in authors):
        people = [one.strip() for one in authors.split(";")]
        fields["author"] = " and ".join(_escape(one) for one in people if one)
        fields["year"] = year[1]
    if dataset.doi:
        fields["doi"] = dataset.doi
    fields["note"] = _escape(f"{dataset.citation} Licence: {dataset.licence}.")
    body = ",\n".join(f"  {name} = {{{text}}}" for name, text in fields.items())
    return f"@misc{{{dataset.id},\n{body}\n}}\n"


def _escape(text: str) -> str:
    return "".join(ESCAPED.get(letter, letter) for letter in text)


def write_citations(cache: Path, dataset: Dataset) -> None:
    """Write ``CITATIONS.md`` and ``citations.bib`` beside the assets of a dataset."""
    folder = cache / "assets" / dataset.id
    for name, content in (
        ("CITATIONS.md", citation_text(dataset)),
        ("citations.bib", bibtex(dataset)),
    ):
        path = folder / name
        try:
            if not path.is_file() or path.read_bytes() != content.encode():
                write_whole(path, content)
        except OSError as error:  # the data are here all the same
            log.warning("%s could not be written: %s", path, error)

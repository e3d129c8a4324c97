from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.citations import bibtex, citation_text, write_citations
from spikedata.fetch import fetch
from spikedata.manifest import Dataset, FileSource, Manifest, list_manifests, load_manifest
from tests.loopback import manifest_of, pin

DATA = b"some bytes"
CITATION = "Perich, Matthew G.; Miller, Lee E. (2022) Long-term recordings [Data set]. DANDI."


def dataset(**fields: object) -> Dataset:
    (one,) = manifest_of(FileSource(kind="file"), pin("a.nwb", DATA)).datasets
    return one.model_copy(update={"citation": CITATION, **fields})


def local(folder: Path) -> Manifest:
    (folder / "a.nwb").write_bytes(DATA)
    return manifest_of(FileSource(kind="file", root=str(folder)), pin("a.nwb", DATA))


def fields_of(entry: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))


# ------------------------------------------------------------------ BibTeX


def test_authors_and_year_come_from_a_citation_as_archives_write_it():
    fields = fields_of(bibtex(dataset()))

    assert fields["author"].split(" and ")[0].startswith("Perich, Matthew G")
    assert fields["author"].split(" and ")[1].startswith("Miller, Lee E")
    assert fields["year"] == "2022"


@pytest.mark.parametrize(
    "citation",
    ["Nobody", "", "A paper about 2022", "Data of the lab, 2022", "(2022)", "(1234) A, B"],
)
def test_any_other_citation_is_given_whole_as_a_note(citation):
    fields = fields_of(bibtex(dataset(citation=citation)))

    assert {"author", "year"} & set(fields) == set()
    assert fields["note"].startswith(citation)


def test_licence_and_doi_are_given():
    fields = fields_of(bibtex(dataset(doi="10.48324/dandi.000688", licence="CC-BY-4.0")))

    assert fields["doi"] == "10.48324/dandi.000688"
    assert fields["note"].endswith("Licence: CC-BY-4.0.")


@pytest.mark.parametrize("mark", list("&%$#_{}~^\\"))
def test_marks_that_tex_understands_are_escaped(mark):
    entry = bibtex(dataset(title=f"A{mark}B"))

    title = fields_of(entry)["title"]
    assert title == "{A" + {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                            "\\": r"\textbackslash{}", "{": r"\textbraceleft{}",
                            "}": r"\textbraceright{}"}.get(mark, f"\\{mark}") + "B}"  # fmt: skip


texts = st.text(
    st.one_of(st.sampled_from("{}\\\"'%&$#_~^@,;()= \n"), st.characters(codec="utf-8")),
    max_size=40,
)


@given(title=texts, start=texts, end=texts, licence=texts)
def test_braces_that_are_not_escaped_are_balanced(title, start, end, licence):
    entry = bibtex(dataset(title=title, citation=f"{start}, B (2022) {end}", licence=licence))

    depth = 0
    for letter in re.sub(r"\\[{}\\&%$#_]", "", entry):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("title", ["A } B", "A { B"])
def test_braces_are_balanced_as_bibtex_counts_them(title):
    entry = bibtex(dataset(title=title))

    assert entry.count("{") == entry.count("}")


def test_every_bundled_dataset_has_an_entry_of_its_own():
    datasets = {one.id: one for name in list_manifests() for one in load_manifest(name).datasets}

    for name, one in datasets.items():
        entry = bibtex(one)
        authors = fields_of(entry).get("author", "").split(" and ")
        assert entry.startswith(f"@misc{{{name},\n")
        assert all(author.count(",") <= 2 for author in authors)


# ------------------------------------------------------------------ the files


def test_the_text_names_origin_licence_doi_citation_references_and_note():
    text = citation_text(
        dataset(licence="CC-BY-4.0", doi="10.1/x", references=("A paper",), note="Take care.")
    )

    for part in ("# Data", "`data`", "the folder .", "Licence: CC-BY-4.0",
                 "https://doi.org/10.1/x", f"> {CITATION}", "- A paper", "Take care."):  # fmt: skip
        assert part in text


def test_a_fetch_writes_citations_beside_the_dataset(tmp_path):
    manifest = local(tmp_path)

    fetch(manifest, tmp_path / "cache")

    folder = tmp_path / "cache/assets/data"
    assert (folder / "CITATIONS.md").read_text() == citation_text(manifest.datasets[0])
    assert (folder / "citations.bib").read_text() == bibtex(manifest.datasets[0])


def test_no_citations_are_written_when_everything_failed(tmp_path):
    manifest = local(tmp_path)
    (tmp_path / "a.nwb").unlink()

    fetch(manifest, tmp_path / "cache")

    assert list(tmp_path.rglob("[Cc][Ii][Tt]*")) == []


def test_citations_are_written_again_only_when_they_change(tmp_path):
    one = dataset()
    (tmp_path / "assets/data").mkdir(parents=True)
    path = tmp_path / "assets/data/citations.bib"
    write_citations(tmp_path, one)
    before = path.stat()
    write_citations(tmp_path, one)
    same = path.stat()
    write_citations(tmp_path, one.model_copy(update={"licence": "CC0-1.0, really"}))

    assert (before.st_ino, before.st_mtime_ns) == (same.st_ino, same.st_mtime_ns)
    assert "CC0-1.0, really" in path.read_text()
    assert sorted(one.name for one in path.parent.iterdir()) == ["CITATIONS.md", "citations.bib"]

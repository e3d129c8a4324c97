"""Every code block of every document runs, or a comment above it says why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from spikedata_model.config import list_presets

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/*/*.md")])
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    and path.relative_to(ROOT).parts[0] not in ("runs", "build", "dist")
]
SHOWN = {"text", "toml", "json"}  # languages that are looked at, not run
BLOCK = re.compile(
    r"(?P<reason><!-- not run: [^>]+ -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    excused: bool


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m["language"], m["code"], bool(m["reason"])) for m in BLOCK.finditer(text)]


def test_blocks_are_found_with_their_excuse() -> None:
    """The tests below would pass on anything if no block were found."""
    text = "a\n```python\nx = 1\n```\n<!-- not run: because -->\n```bash\nfalse\n```\n"
    found = [Block(m["language"], m["code"], bool(m["reason"])) for m in BLOCK.finditer(text)]

    assert found == [Block("python", "x = 1\n", False), Block("bash", "false\n", True)]
    assert any(block.language == "python" for block in blocks_of(ROOT / "README.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_runs(path: Path, tmp_path: Path) -> None:
    """Python blocks of a document share one program; shell blocks train and step through little."""
    blocks = [block for block in blocks_of(path) if not block.excused]
    unknown = {block.language for block in blocks} - SHOWN - {"python", "bash"}
    assert not unknown, f"{path.name}: say in test_documents.py how to run {unknown}"
    environment = os.environ | {
        "SPIKEDATA_CACHE": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DANDI_NO_ET": "1",
    }
    shell = "".join(block.code for block in blocks if block.language == "bash")
    shell = re.sub(r"(spikedata train\b)", r"\1 --preset smoke", shell)
    shell = re.sub(r"(spikedata finetune\b)", r"\1 --set train.steps=20", shell)
    shell = shell.replace("--causal 0.02", "--causal 0.5")
    python = "\n".join(block.code for block in blocks if block.language == "python")
    for command in (["bash", "-euo", "pipefail", "-c", shell], [sys.executable, "-c", python]):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

        assert done.returncode == 0, f"{path.name}:\n{command[-1]}\n{done.stderr}"


def test_every_link_within_the_project_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]

    assert broken == []


def test_the_demo_trains_a_preset_that_there_is() -> None:
    """CI runs `make demo` at toy size, with another preset than the one written there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert re.findall(r"^PRESET \?= (\S+)$", makefile, re.MULTILINE)[0] in list_presets()


def test_the_file_map_names_every_module() -> None:
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    package, named = "", []
    for row in part.partition("\n## ")[0].splitlines():
        for name in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            package = name.partition("/")[0] if "/" in name.rstrip("/") else package
            named.append(f"{package}/{name.rpartition('/')[2]}")
    modules = [
        f"{folder}/{path.name}"
        for folder in ("spikedata", "spikedata_model")
        for path in (ROOT / folder).glob("*.py")
        if path.name not in ("__init__.py", "version.py")
    ]

    assert [one for one in modules if not any(fnmatch(one, name) for name in named)] == []
    gone = [one for one in named if not any(fnmatch(name, one) for name in modules)]
    assert [one for one in gone if one.endswith(".py")] == []

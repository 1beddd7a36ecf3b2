"""CONTRIBUTING.md names every file once, and the documents name no path that is missing."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh"}

pytestmark = pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").is_file(), reason="needs a checkout")


def contributing():
    return (ROOT / "CONTRIBUTING.md").read_text()


def table():
    """Return {folder: third column} of the tables of the code layout."""
    rows = re.findall(r"^\| `([\w/]+/)` \| (.*?) \| (.*) \|$", contributing(), re.MULTILINE)
    assert all(sentence.endswith(".") for _, sentence, _ in rows)
    return {folder: files for folder, _, files in rows}


def test_every_folder_of_sources_has_its_row():
    folders = {
        f"{path.parent.relative_to(ROOT)}/"
        for top in ("fastrobust", "csrc", "benches")
        for path in (ROOT / top).rglob("*.*")
        if path.suffix in SOURCES and "tests" not in path.parts and path.parent.name != "fastrobust"
    }
    assert set(table()) == folders | {"tests/oracles/"}


def test_every_file_is_named_once_in_the_row_of_its_folder():
    for folder, files in table().items():
        named = re.findall(r"`(\w+)`", re.sub(r"\([^()]*\)", "", files))  # words are in brackets
        sources = {
            path.stem
            for path in (ROOT / folder).iterdir()
            if path.suffix in SOURCES and not path.stem.startswith("__")
        }
        assert len(named) == len(set(named)), f"{folder}: a file is named twice"
        assert set(named) == sources, f"{folder}: {set(named) ^ sources} is only here or only there"


def test_the_glossary_is_short_and_sorted():
    glossary = contributing().split("## Glossary")[1].split("\n## ")[0]
    words = re.findall(r"^- \*\*(.+?)\*\*: ", glossary, re.MULTILINE)
    assert words == sorted(words) and 0 < len(set(words)) == len(words) <= 25


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benches/README.md"])
def test_every_path_that_a_document_names_exists(name):
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:fastrobust|csrc|tests|benches)/[\w./]+)`", text)
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not re.search(r"(^|[/_])x[._]", path)  # a new file, x.py
    ]
    assert paths and not missing

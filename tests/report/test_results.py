"""The measured results that come with the repository say what their run folders hold."""

import json
import re
import sys
from importlib import resources
from pathlib import Path

import pytest

from fastrobust.models import checkpoint
from fastrobust.paper import printed
from fastrobust.utils.text import slug

RESULTS = Path(__file__).parents[2] / "results"
pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="needs a checkout")


@pytest.fixture(scope="module")
def summary():
    sys.path.insert(0, str(RESULTS))
    import summary

    yield summary
    sys.path.remove(str(RESULTS))


def test_the_pages_are_those_of_the_run_folders(summary):
    assert (RESULTS / "numbers.md").read_text() == summary.numbers()
    text = (RESULTS / "README.md").read_text()
    for name, make in summary.BLOCKS.items():
        found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
        assert found and found[1] == make(), f"run results/summary.py: {name}"


def test_every_number_of_the_paper_has_a_line(summary):
    lines = [line for line in summary.numbers().splitlines() if re.match(r"\| \d ", line)]
    wanted = [number for name in printed.DATA_SETS for number in printed.numbers(name)]
    assert len(lines) == len(wanted) == 483
    assert sorted(line.split(" | ")[3] for line in lines) == sorted(f"{n[-1]:.3f}" for n in wanted)


def test_the_weights_are_those_that_were_measured(summary):
    for data_set, runs in summary.RUNS.items():
        for run in runs:
            path = RESULTS / run / "run.json"
            if not path.exists():
                continue
            for name, facts in json.loads(path.read_text())["models"].items():
                file = f"{slug(name)}.safetensors"
                weights = resources.files("fastrobust") / "models" / "weights" / data_set / file
                digest = checkpoint.read_facts(weights)["weights_digest"]
                assert digest == facts["weights_digest"], f"{run}, {name}"


def test_pages_of_evaluations_can_be_written_again(summary, tmp_path):
    import pages

    pages.main(tmp_path)
    written = sorted(path.stem for path in tmp_path.iterdir())
    assert len(written) == 18 and "mnist-r-tanh-mse-0.1" in written
    (stored,) = (e for e in summary.evaluations("mnist") if (e.model, e.eps) == ("R:TANH:MSE", 0.1))
    text = (tmp_path / "mnist-r-tanh-mse-0.1.html").read_text()
    assert f"robust accuracy {stored.rate.value:.1%} at most" in text
    assert "<td>FGSM</td>" in text and "data:image" not in text


def test_nothing_large_is_kept():
    files = [
        path for path in RESULTS.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    assert sum(path.stat().st_size for path in files) < 1.5e6
    assert not [path for path in files if path.suffix in (".html", ".svg")]


def test_the_pages_have_no_machine_in_them():
    for path in RESULTS.rglob("*.*"):
        if path.suffix in (".md", ".json", ".csv"):
            assert not re.search(r"/(tmp|home|root|work)/", path.read_text()), path

"""Writes a page for each evaluation of the run folders, without pictures of images.

python results/pages.py [FOLDER]    # runs/pages by default
"""

import sys
from pathlib import Path

from fastrobust.evaluation import files
from fastrobust.report import evaluation_page

HERE = Path(__file__).parent


def main(out: Path) -> None:
    """Write ``<run>-<classifier>-<eps>.html`` for each evaluation."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*/evaluations/*/evaluation.json")):
        page = out / f"{path.parents[2].name}-{path.parent.name}.html"
        page.write_text(evaluation_page.page(*files.load(path.parent)), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ("runs/pages",)))

"""The sentences at the top of a report: what the numbers of a run say, in words."""

from .marks import LEGEND, Marks
from .plans import ABLATION
from .results import Run, robust_at, smallest_breaks


def sentences(run: Run, marked: Marks) -> list[str]:
    """Return one sentence per classifier, and one on how far to trust them."""
    compared = {cell.model for cell in run.plan.cells if cell.table != ABLATION}
    models = (model for model in run.plan.models if model in compared)
    found = [text for model in models if (text := _of_model(run, model))]
    if marked:
        found.append(
            f"Cells marked {', '.join(LEGEND)}: {len(marked)} of {len(run.results)}. A mark is a "
            "reason to doubt the number, not to trust the classifier."
        )
    return found


def _of_model(run: Run, model: str) -> str | None:
    """Compare what the paper's attacks leave of a classifier with what all of them leave."""
    clean = run.clean_accuracy(model)
    if clean is None:
        return None
    text = f"{model} decides {clean.value:.1%} of the clean images right"
    untargeted = list(run.white_box(model=model, targeted=False, parameter="eps"))
    papers = [result for result in untargeted if result.cell.view == "paper"]
    if not papers:
        return text + "."
    eps = max(result.value for result in papers)
    left = robust_at(smallest_breaks(papers), eps).value
    text += f"; within eps = {eps:g} the paper's attacks together leave {left:.1%}"
    if len(papers) == len(untargeted):
        return text + "."
    honest = robust_at(smallest_breaks(untargeted), eps).value
    return f"{text}, and once the decision itself is attacked {honest:.1%} are left."

"""The sentences at the top of a report."""

from ..paper.columns import ASIDE, DEFENCES
from .flags import LEGEND, Marks
from .results import Run, robust_at, smallest_breaks


def sentences(run: Run, marks: Marks) -> list[str]:
    """Return a sentence per classifier, one on other defences, and one on marked numbers."""
    compared = {cell.model for cell in run.plan.cells if cell.table not in ASIDE}
    models = (model for model in run.plan.models if model in compared)
    lines = [text for model in models if (text := _of_model(run, model))]
    if text := _of_defences(run, [m for m in run.plan.models if m not in compared]):
        lines.append(text)
    if marks:
        lines.append(
            f"{len(marks)} of {len(run.results)} numbers are marked {', '.join(LEGEND)}. A mark is "
            "a reason to doubt the number, not to trust the classifier."
        )
    return lines


def _of_model(run: Run, model: str) -> str | None:
    """Compare the accuracy under the paper's attacks with that under all attacks."""
    clean = run.clean_accuracy(model)
    if clean is None:
        return None
    text = f"{model}: clean accuracy {clean.value:.1%}"
    untargeted = list(run.white_box(model=model, targeted=False, parameter="eps"))
    papers = [result for result in untargeted if result.cell.view == "paper"]
    if not papers:
        return text + "."
    eps = max(result.value for result in papers)
    left = robust_at(smallest_breaks(papers), eps).value
    text += f"; within eps = {eps:g}, {left:.1%} under the worst of the paper's attacks"
    if len(papers) == len(untargeted):
        return text + "."
    with_class_scores = robust_at(smallest_breaks(untargeted), eps).value
    return f"{text}, and {with_class_scores:.1%} with attacks on the class scores."


def _of_defences(run: Run, models: list[str]) -> str | None:
    """Return the worst-case accuracy of the classifiers that only the table of defences has."""
    attacked = [result for result in run.select(table=DEFENCES) if result.cell.attack]
    eps = [result.value for result in attacked if result.cell.parameter == "eps"]
    words = []
    for model in models:
        clean = run.clean_accuracy(model)
        of_model = [result for result in attacked if result.cell.model == model]
        if of_model and clean and eps:
            left = robust_at(smallest_breaks(of_model), max(eps)).value
            words.append(f"{model} {left:.1%} (clean {clean.value:.1%})")
    if not words:
        return None
    return (
        f"Other defences, within eps = {max(eps):g} under the worst attack of Table {DEFENCES}: "
        f"{', '.join(words)}."
    )

"""The sentences at the top of a report: what the numbers of a run say, in words."""

from ..paper.columns import ASIDE, DEFENCES
from .flags import LEGEND, Marks
from .results import Run, robust_at, smallest_breaks


def sentences(run: Run, marked: Marks) -> list[str]:
    """Return a sentence per classifier, one on other defences, and one on how far to trust them."""
    compared = {cell.model for cell in run.plan.cells if cell.table not in ASIDE}
    models = (model for model in run.plan.models if model in compared)
    found = [text for model in models if (text := _of_model(run, model))]
    if text := _of_defences(run, [m for m in run.plan.models if m not in compared]):
        found.append(text)
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


def _of_defences(run: Run, models: list[str]) -> str | None:
    """Say what all attacks of the table of other defences leave of those in no other table."""
    attacked = [result for result in run.select(table=DEFENCES) if result.cell.attack]
    budgets = [result.value for result in attacked if result.cell.parameter == "eps"]
    words = []
    for model in models:
        clean = run.clean_accuracy(model)
        own = [result for result in attacked if result.cell.model == model]
        if own and clean and budgets:
            left = robust_at(smallest_breaks(own), max(budgets)).value
            words.append(f"{model} {left:.1%} (clean {clean.value:.1%})")
    if not words:
        return None
    return (
        f"Beside them: within eps = {max(budgets):g} all attacks of Table {DEFENCES} together "
        f"leave {', '.join(words)}."
    )

"""The evaluation: closed forms, the union by hand, planted defences broken, a stop and a resume."""

import json

import nets
import planted
import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust.attacks import FGSM, PGD
from fastrobust.attacks.targets import highest_rivals
from fastrobust.cli import options
from fastrobust.cli.app import main
from fastrobust.evaluation import evaluation, files, suite, worst_case
from fastrobust.evaluation.cache import Journal
from fastrobust.evaluation.evaluation import evaluate
from fastrobust.evaluation.suite import Stage
from fastrobust.evaluation.threat_model import ThreatModel
from fastrobust.models import checkpoint
from fastrobust.models.heads import Codeword, Softmax
from fastrobust.report import evaluation_page
from fastrobust.utils.errors import StoreError

QUIET = {"check": False, "progress": False}


def digits(count=60):
    return nets.digits().x_test[:count], nets.digits().y_test[:count]


def linear(classes=3, pixels=20):
    torch.manual_seed(0)
    net = nn.Linear(pixels, classes).double()
    x = torch.rand(150, pixels).double()
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("budget", ["quick", "standard"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_models_are_left_what_they_have(norm, budget, monkeypatch):
    """The distance to a class is its gap over the dual norm of the difference of weights."""
    small = suite.SuiteSize(20, 20, 2, 1, 50, (0.1,))
    monkeypatch.setitem(suite.SIZES, budget, small)
    net, x, y = linear()
    scores, weight = net(x).detach(), net.weight.detach()
    gaps = scores.gather(1, y[:, None]) - scores
    order = 1 if norm == "linf" else 2
    distance = gaps / torch.linalg.vector_norm(weight[y, None] - weight, order, dim=2)
    distance.scatter_(1, y[:, None], torch.inf)
    nearest = distance.amin(1)
    eps = float(nearest.median())
    found = evaluate(net, x, y, eps, norm, budget, clip=None, **QUIET)
    clear = (nearest - eps).abs() > 1e-3 * eps
    assert torch.equal(found.broken[clear], (nearest < eps)[clear]) and found.correct.all()
    assert found.robust_accuracy == pytest.approx(0.5, abs=0.02)
    size = (found.adv - x).flatten(1)
    size = size.abs().amax(1) if norm == "linf" else size.norm(dim=1)
    assert (size <= eps * (1 + 1e-9)).all()
    assert torch.equal(net(found.adv).argmax(1) != y, found.broken)
    assert torch.equal(net(found.adv).argmax(1), found.decision)


def test_the_worst_case_is_the_union_and_only_standing_images_go_on(monkeypatch):
    x, y = digits()
    model = nets.trained()
    wrong = y.clone()
    wrong[:5] = (y[:5] + 1) % 10
    first, second = FGSM(eps=0.05), PGD(eps=0.06, steps=5, step_size=0.03)
    stages = [Stage("first", first), Stage("second", second)]
    monkeypatch.setattr(evaluation, "lineup", lambda *_: stages)
    seen, run = [], FGSM.run

    def spy(attack, model, x, *rest, **named):
        seen.append(named["index"].tolist())
        return run(attack, model, x, *rest, **named)

    monkeypatch.setattr(type(first).__mro__[2], "run", spy)
    found = evaluate(model, x, wrong, 0.06, **QUIET)
    monkeypatch.undo()
    right = model.predict(x) == wrong
    by_first = right & first.run(model, x, wrong).success
    left = right & ~by_first
    by_second = left & second.run(model, x, wrong, seed=1).success
    assert seen == [right.nonzero().flatten().tolist(), left.nonzero().flatten().tolist()]
    assert not found.correct[:5].any() and torch.equal(found.correct, right)
    assert torch.equal(found.broken, ~right | by_first | by_second)
    expected = torch.where(by_first, 0, torch.where(by_second, 1, -1))
    assert torch.equal(found.broken_by, expected) and by_first.any() and by_second.any()
    one, two = found.contributions
    assert (one.tried, one.broke) == (int(right.sum()), int(by_first.sum()))
    assert (two.tried, two.broke) == (int(left.sum()), int(by_second.sum()))
    assert int(found.queries.sum()) == len(x) + one.evaluations + two.evaluations
    assert torch.equal(found.adv[:5], x[:5])
    low, high = found.interval
    assert low < found.robust_accuracy < high


def test_a_warm_start_begins_at_the_nearest_image(monkeypatch):
    x, y = digits()
    model = nets.trained()
    warm = PGD(eps=0.04, steps=2, step_size=0.01, loss="margin")
    stages = [Stage("cold", FGSM(eps=0.04)), Stage("warm", warm, warm=True)]
    monkeypatch.setattr(evaluation, "lineup", lambda *_: stages)
    found = evaluate(model, x, y, 0.04, **QUIET)
    cold = FGSM(eps=0.04).run(model, x, y)
    left = (model.predict(x) == y) & ~cold.success
    margin = _margin(model, cold.adv, y)
    start = torch.where((margin > _margin(model, x, y))[:, None, None, None], cold.adv, x)
    rows = left.nonzero().flatten()
    again = warm.run(model, x[rows], y[rows], seed=1, index=rows, start=start[rows])
    assert torch.equal(found.broken[rows], again.success)
    assert torch.equal(found.adv[rows[again.success]], again.adv[again.success])


@pytest.mark.parametrize("block", [512, 20])
def test_rivals_side_by_side_are_rivals_one_after_another(monkeypatch, block):
    """Each gets the run that it would get alone; the first success counts, else the closest."""
    x, y = digits(40)
    model = nets.trained()
    attack = PGD(eps=0.08, steps=4, step_size=0.04, loss="margin", targets=3)
    monkeypatch.setattr(evaluation, "lineup", lambda *_: [Stage("each", attack)])
    monkeypatch.setattr(worst_case, "BLOCK", block)
    found = evaluate(model, x, y, 0.08, **QUIET)
    order = highest_rivals(model(x).detach(), y, 3)
    runs = [attack.run(model, x, y, rivals=order[:, k : k + 1]) for k in range(3)]
    right = model.predict(x) == y
    broken = torch.stack([run.success for run in runs], 1)
    assert torch.equal(found.broken, ~right | broken.any(1))
    assert 0 < broken[:, 0].sum() < broken.any(1).sum()
    margins = torch.stack([_margin(model, run.adv, y) for run in runs], 1)
    pick = margins.masked_fill(broken, torch.inf).argmax(1)
    closest = torch.stack([run.adv for run in runs], 1)[torch.arange(40), pick]
    moved = right & (broken.any(1) | (margins.amax(1) > _margin(model, x, y)))
    torch.testing.assert_close(found.adv[moved], closest[moved])
    total = sum(run.queries + 1 for run in runs)  # the judge's own look at each
    assert torch.equal(found.queries[right], (total + 2)[right])


def _margin(model, x, y):
    scores = model(x).detach()
    own = scores.gather(1, y[:, None])
    return (scores.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True) - own)[:, 0]


def test_more_effort_never_leaves_more_and_prefixes_agree():
    x, y = digits(30)
    model = nets.trained()
    quick = evaluate(model, x, y, 0.08, budget="quick", **QUIET)
    standard = evaluate(model, x, y, 0.08, **QUIET)
    assert 0 < standard.robust_accuracy <= quick.robust_accuracy < quick.clean_accuracy
    part = evaluate(model, x[:12], y[:12], 0.08, budget="quick", **QUIET)
    assert torch.equal(part.adv, quick.adv[:12])
    assert torch.equal(part.broken_by, quick.broken_by[:12])
    again = evaluate(model, x, y, 0.08, budget="quick", **QUIET)
    assert torch.equal(again.adv, quick.adv) and torch.equal(again.queries, quick.queries)


@pytest.mark.parametrize("fault", ["Rounded", "Saturated", "Noisy", "LogClamp"])
def test_standard_breaks_and_flags_what_only_looks_robust(fault):
    """Within a few images of the model behind the defence, and at least one check fails."""
    x, y = digits(16)
    behind = nets.trained("R:TANH:MSE") if fault == "LogClamp" else nets.trained()
    model = getattr(planted, fault)(behind)
    eps = 0.15
    plain = evaluate(behind, x, y, eps, **QUIET)
    naive = PGD(eps=eps, step_size=0.02)(model, x, y)
    found = evaluate(model, x, y, eps, progress=False)
    assert found.robust_accuracy <= plain.robust_accuracy + 0.1
    assert not found.believable
    if fault in ("Rounded", "Saturated"):
        with torch.no_grad():
            left = (model(naive).argmax(1) == y).double().mean()
        assert left > found.robust_accuracy + 0.5
    assert "Do not believe it" in " ".join(evaluation_page.sentences(found))
    if fault == "Noisy":
        assert found.facts["averaged"]
        assert "mean of 8 calls" in " ".join(evaluation_page.sentences(found))


def test_images_of_another_model_are_tried_first():
    x, y = digits()
    model = nets.trained()
    outside = x + 10 * (PGD(eps=0.2)(model, x, y) - x)
    found = evaluate(model, x, y, 0.2, budget="quick", transferred=outside, **QUIET)
    assert found.contributions[0].name == "images of another model"
    assert found.contributions[0].broke > 30
    assert (found.adv - x).abs().max() <= 0.2 + 1e-6


class KilledError(Exception):
    pass


def test_a_killed_evaluation_goes_on_with_the_same_result(tmp_path, monkeypatch):
    x, y = digits()
    model = nets.trained()
    monkeypatch.setattr(worst_case, "BLOCK", 16)
    whole = evaluate(model, x, y, 0.08, budget="quick", **QUIET)
    run, calls = PGD.run, []

    def dies(attack, *rest, **named):
        calls.append(attack)
        if len(calls) == 7:
            raise KilledError
        return run(attack, *rest, **named)

    base = PGD.__mro__[3]
    monkeypatch.setattr(base, "run", dies)
    with pytest.raises(KilledError):
        evaluate(model, x, y, 0.08, budget="quick", out=tmp_path, **QUIET)
    before = len(list((tmp_path / "parts").glob("*.npz")))
    assert before >= 9  # four of the clean images, and what came before the seventh piece
    again = evaluate(model, x, y, 0.08, budget="quick", out=tmp_path, **QUIET)
    for name in ("adv", "broken", "broken_by", "queries", "decision", "correct"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    counts = [(one.tried, one.broke, one.evaluations) for one in again.contributions]
    assert counts == [(one.tried, one.broke, one.evaluations) for one in whole.contributions]
    # All of it is kept: nothing is attacked a third time.
    calls.clear()
    third = evaluate(model, x, y, 0.08, budget="quick", out=tmp_path, **QUIET)
    assert not calls and torch.equal(third.adv, whole.adv)


def test_a_folder_belongs_to_one_evaluation(tmp_path):
    x, y = digits(20)
    model = nets.trained()
    evaluate(model, x, y, 0.05, budget="quick", out=tmp_path, **QUIET)
    with pytest.raises(StoreError, match="differs in attacks, eps: give another folder"):
        evaluate(model, x, y, 0.06, budget="quick", out=tmp_path, **QUIET)
    with pytest.raises(StoreError, match="differs in decisions, images"):
        evaluate(model, x.flip(0), y.flip(0), 0.05, budget="quick", out=tmp_path, **QUIET)
    with pytest.raises(StoreError, match="differs in .*weights"):
        other = nets.trained("O:SOFTMAX:MSE")
        evaluate(other, x, y, 0.05, budget="quick", out=tmp_path, **QUIET)
    path = tmp_path / "parts" / "00-0000000.npz"
    with pytest.raises(StoreError, match="differs in decisions, weights"):
        evaluate(lambda x: -model(x), x, y, 0.05, budget="quick", out=tmp_path, **QUIET)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="must hold a part of an evaluation, but is damaged"):
        evaluate(model, x, y, 0.05, budget="quick", out=tmp_path, **QUIET)
    (tmp_path / "parts" / "facts.json").write_text("{")
    with pytest.raises(StoreError, match="must be JSON"):
        Journal(tmp_path / "parts", {})


def test_a_model_that_gives_nan_gets_no_credit_and_gives_none():
    x, y = digits(20)
    model = nets.trained()

    def sometimes(x):
        scores = model(x)
        return torch.where((x[:, :1, 0, 0] > 0.05), torch.nan, 1.0) * scores

    x = x.clone()
    x[:5, 0, 0, 0] = 1.0
    with pytest.warns(UserWarning, match="the model gave NaN"):
        found = evaluate(sometimes, x, y, 0.2, budget="quick", **QUIET)
    assert not found.correct[:5].any() and found.broken[:5].all()
    assert (found.decision[:5] == -1).all()
    with torch.no_grad():
        broken = found.broken_by >= 0
        assert not sometimes(found.adv)[broken].isnan().any()


def test_line_ups_fit_head_norm_and_classes():
    tanh = Codeword(fr.Codebook.random(10, 16))
    for budget, norm in ((b, n) for b in suite.BUDGETS for n in ("linf", "l2")):
        plain = suite.lineup(budget, ThreatModel(norm, 0.1), Softmax("ce"), 10)
        names = [stage.name for stage in plain]
        assert len(set(names)) == len(names)
        assert all(stage.attack.norm == norm for stage in plain if hasattr(stage.attack, "norm"))
        assert ("FGSM" in names) == (norm == "linf") and names[-1] == "Square"
        more = suite.lineup(budget, ThreatModel(norm, 0.1), tanh, 10)
        assert len(more) == len(plain) + 3
        reprs = [repr(stage.attack) for stage in plain]
        if budget == "standard":  # AutoAttack's four are there
            end = "" if norm == "linf" else ", norm='l2'"
            assert {
                f"APGD(eps=0.1{end})",
                f"APGD(eps=0.1, loss='dlr', targets=9{end})",
                f"FAB({end[2:] + ', ' if end else ''}eps=0.1)",
                f"Square(eps=0.1{end})",
            } <= set(reprs)
    two = suite.lineup("quick", ThreatModel("linf", 0.1), Softmax("ce"), 2)
    assert "APGD margin" in [stage.name for stage in two]
    with pytest.raises(ValueError, match="budget must be one of quick, standard, thorough"):
        suite.lineup("huge", ThreatModel("linf", 0.1), Softmax("ce"), 10)


def test_wrong_inputs_are_refused():
    x, y = digits(4)
    model = nets.trained()
    for arguments, error, words in (
        ((x[:0], y[:0], 0.1), ValueError, "x must hold at least one image"),
        ((x, y[:3], 0.1), ValueError, r"y must have shape \(4,\)"),
        ((x, y + 10, 0.1), ValueError, "y must"),
        ((x + 1, y, 0.1), ValueError, "x must lie in the box"),
        ((x, y, 0.0), ValueError, "eps must be finite and > 0"),
        ((x, y, 0.1, "l1"), ValueError, 'norm must be "linf" or "l2", got \'l1\''),
        ((x, y, 0.1, "linf", "huge"), ValueError, "budget must be one of"),
        ((x.byte(), y, 0.1), TypeError, "x must be floating point"),
    ):
        with pytest.raises(error, match=words):
            evaluate(model, *arguments, **QUIET)
    with pytest.raises(ValueError, match="transferred must be like x"):
        evaluate(model, x, y, 0.1, transferred=x[:2], **QUIET)


def test_the_caller_notices_nothing():
    model, (x, y) = nets.trained(), digits(10)
    model.train()
    flags = [(p.grad, p.requires_grad) for p in model.parameters()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    kept = x.clone()
    try:
        evaluate(model, x, y, 0.1, budget="quick", progress=False)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert [(p.grad, p.requires_grad) for p in model.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert torch.equal(x, kept)


def test_page_json_and_images_say_the_same(tmp_path):
    x, y = digits(30)
    found = evaluate(nets.trained(), x, y, 0.1, budget="quick", progress=False)
    written = evaluation_page.write(found, x, y, tmp_path, "a & b")
    content = json.loads(written.json.read_text())
    assert content["robust_accuracy"] == found.robust_accuracy and content["title"] == "a & b"
    assert content["broken_by"] == found.broken_by.tolist()
    assert [check["name"] for check in content["checks"]] == [c.name for c in found.checks]
    assert content["evaluations"] == int(found.queries.sum())
    page = written.page.read_text()
    assert "a &amp; b" in page and "<script" not in page and "http" not in page
    for one in found.contributions:
        assert one.name in page
    for check in found.checks:
        assert check.name in page
    assert page.count("data:image/png") == 2 * len(
        {int(label) for label in y[found.broken_by >= 0]}
    )
    again, title = files.load(tmp_path)
    assert {"title": title, **json.loads(json.dumps(files.as_json(again)))} == content
    rows = evaluation_page.attack_table(found).rows
    assert float(rows[-1][3]) == pytest.approx(found.robust_accuracy, abs=1e-3)
    assert f"{found.robust_accuracy:.4f}" in repr(found)


def test_the_command_evaluates_and_ends_by_what_it_believes(tmp_path, monkeypatch, capsys):
    # The network digits gets one thread: of this process, which goes on after the command.
    monkeypatch.setattr(options, "set_threads", lambda *_, **__: None)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, nets.trained())
    out = tmp_path / "out"
    words = ["evaluate", str(path), "--eps", "0.1", "--budget", "quick", "--limit", "20"]
    words += ["--transfer", str(path), "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "images of another model" in said and "None of" in said and "within L-infinity" in said
    assert {p.name for p in out.iterdir()} >= {
        "evaluation.html", "evaluation.json", "evaluation.npz", "parts",
    }  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["believable"] is True
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(path), "--eps", "0.1", "--norm", "l7", "--limit", "5"])
    assert end.value.code == 2 and 'norm must be "linf" or "l2"' in capsys.readouterr().err


@pytest.mark.parametrize("model", ["float16", "float32", "float64"])
@pytest.mark.parametrize("image", [torch.float16, torch.float32, torch.float64])
def test_images_and_weights_of_any_dtype_go_together(model, image):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(getattr(torch, model))
    x = (torch.rand(20, 1, 8, 8) * 255).round().div(256).to(image)
    y = net(x.to(net[1].weight.dtype)).argmax(1)
    found = evaluate(net, x, y, 0.05, budget="quick", progress=False)
    assert found.correct.all() and 0 < found.robust_accuracy < 1
    assert found.adv.dtype is (torch.float64 if image is torch.float64 else torch.float32)
    assert not [check for check in found.checks if check.verdict == "fail"]

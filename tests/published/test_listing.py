"""The list of suspects, and the command that prints it."""

import json
import sys

import pytest

from fastrobust.cli import app
from fastrobust.published import listing, rules
from fastrobust.published.numbers import Number, Tables

BASE = {"data": "mnist", "model": "net", "table": "Table 2"}
NUMBERS = (
    Number(attack="clean", rate=0.95, eps=0.0, **BASE),
    Number(attack="FGSM", rate=0.50, eps=0.1, steps=1, **BASE),
    Number(attack="BIM", rate=0.52, eps=0.1, steps=10, **BASE),  # chance may explain it
    Number(attack="PGD", rate=0.60, eps=0.1, steps=40, **BASE),
    Number(attack="CWL2", rate=0.90, c=1.0, **BASE),
    Number(attack="CWL2", rate=0.10, c=1.0, setting="targeted", **BASE),  # and nothing proves more
)


@pytest.fixture
def found():
    return listing.gather(rules.contradictions(Tables(NUMBERS)), Tables(NUMBERS))


def test_the_worst_comes_first_and_each_number_once(found):
    assert [(s.severity, s.number.attack, s.proven, s.rules) for s in found] == [
        ("fail", "CWL2", "accuracy <= 0.500", "weaker, survivors"),
        ("fail", "PGD", "accuracy <= 0.500", "one-step, weaker"),
        ("fail", "CWL2", "", "survivors"),
        ("warn", "BIM", "accuracy <= 0.500", "one-step"),
    ]
    assert found[0].gap == pytest.approx(0.4) and found[2].gap == 0


def test_a_failure_stands_before_a_warning():
    aimed = Number(attack="BIM", rate=0.90, eps=0.1, steps=10, setting="targeted", **BASE)
    tables = Tables((*NUMBERS[:3], aimed))
    found = listing.gather(rules.contradictions(tables), tables)
    assert [(s.severity, s.rules, s.proven) for s in found] == [
        ("fail", "targeted, one-step", "accuracy <= 0.100")
    ]


def test_a_line_says_where_what_and_how_much(found):
    lines = list(listing.as_lines(found))
    assert lines[1] == (
        "fail  Table 2, mnist, net: PGD (eps = 0.1, steps = 40) leaves 0.600, FGSM (eps = 0.1, "
        "steps = 1) 0.500 in a single step. The others prove accuracy <= 0.500. (one-step, weaker)"
    )
    assert lines[2] == (
        "fail  Table 2, mnist, net: targeted CWL2 (c = 1) reaches 0.100, though nothing bounds it "
        "and every image can become any other. (survivors)"
    )
    table = listing.as_table(found)
    assert len(table.rows) == 4 and table.rows[2][3] == "-"
    assert listing.summary(found, Tables(NUMBERS)) == (
        "Numbers: 6, each read as a share of 1000 images. 3 cannot be a true robust accuracy "
        "(fail), 1 may not be one (warn)."
    )
    lines = dict(line.split(":", 1) for line in listing.rule_lines(found))
    assert list(lines) == [
        "one-step (1 fail, 1 warn)", "weaker (2 fail, 0 warn)", "survivors (2 fail, 0 warn)",
    ]  # fmt: skip


def test_json_holds_all_of_it(found):
    content = json.loads(json.dumps(listing.as_json(found, Tables(NUMBERS))))
    assert (content["numbers"], content["fail"], content["warn"]) == (6, 3, 1)
    first, _, third, _ = content["suspects"]
    assert (first["attack"], first["c"], first["accuracy"], first["bound"]) == ("CWL2", 1, 0.9, 0.5)
    assert "norm" not in first and "norm" in first["reasons"][0]["witness"]
    assert third["success"] == 0.1 and third["bound"] is None
    assert third["reasons"][0]["witness"] is third["reasons"][0]["chance"] is None
    assert third["reasons"][0]["advice"] == rules.RULES["survivors"].advice


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        app.main(["check", *map(str, words)])
    return stop.value.code or 0, capsys.readouterr().out


def test_the_command_lists_the_papers_numbers(capsys):
    code, out = run(capsys, "paper")
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("Numbers: 483, each read as a share of 1000 images. ")
    levels = [line.split()[0] for line in lines if line[:6] in ("fail  ", "warn  ")]
    assert levels == sorted(levels) and set(levels) == {"fail", "warn"}
    assert f" {levels.count('fail')} cannot be " in lines[0]
    code, out = run(capsys, "paper", "--json", "--images", 10_000)
    assert code == 0 and json.loads(out)["fail"] > levels.count("fail")


def test_strict_fails_on_a_failure_alone(capsys, tmp_path):
    assert run(capsys, "paper", "--strict")[0] == 1
    assert run(capsys, "paper", "--strict", "--rule", "plateau")[0] == 0
    path = tmp_path / "tables.csv"
    path.write_text("data,model,attack,eps,accuracy\nmnist,net,FGSM,0.1,0.5\n")
    assert run(capsys, path, "--strict") == (
        0,
        "Numbers: 1, each read as a share of 1000 images. 0 cannot be a true robust accuracy "
        "(fail), 0 may not be one (warn).\n",
    )


def test_a_terminal_gets_a_table(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out = run(capsys, "paper", "--rule", "twice")
    assert "Numbers under suspicion" in out and "│" in out and "twice (0 fail, 1 warn): " in out

import csv
import json
from collections import Counter

import pytest
from fake_run import made_up, targeted, untargeted

from fastrobust.paper import printed
from fastrobust.published import reading
from fastrobust.published.numbers import Number
from fastrobust.report import writer as report
from fastrobust.runs.plan import Cell


def write(path, records):
    """Write records as JSON or as CSV, by the name of the file."""
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(k for r in records for k in r)))
            writer.writeheader()
            writer.writerows(records)
    return path


RECORD = {"data": "cifar10", "model": "net", "attack": "PGD", "eps": 0.031, "accuracy": 0.47}


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_records(tmp_path, kind):
    records = [
        {"data": "cifar10", "model": "net", "attack": "clean", "accuracy": 0.9},
        {**RECORD, "eps": "8/255", "steps": 20, "table": 2, "images": 10000},
        {**RECORD, "attack": "Madry et al., 10 restarts", "setting": "transfer", "source": "A"},
        {**RECORD, "attack": "PGD, DLR loss", "norm": "l2", "eps": 1.5, "table": "in the text"},
        {"data": "cifar10", "model": "net", "attack": "C&W", "c": 0.1, "kappa": 5, "setting":
         "targeted", "success": 1},
        {"data": "cifar10", "model": "net", "attack": "deep-fool", "steps": 50, "accuracy": 0},
        {**RECORD, "attack": "FGSM"},
    ]  # fmt: skip
    base = {"data": "cifar10", "model": "net", "images": 500}
    assert reading.read(write(tmp_path / f"tables.{kind}", records), 500) == (
        Number(attack="clean", rate=0.9, eps=0.0, **base),
        Number(attack="PGD", rate=0.47, eps=8 / 255, steps=20, table="Table 2",
               **{**base, "images": 10000}),
        Number(attack="Madry et al., 10 restarts", rate=0.47, eps=0.031, setting="transfer",
               source="A", **base),
        Number(attack="PGD, DLR loss", rate=0.47, eps=1.5, norm="l2", table="in the text", **base),
        Number(attack="C&W", rate=1.0, c=0.1, kappa=5, setting="targeted", **base),
        Number(attack="deep-fool", rate=0.0, steps=50, **base),
        Number(attack="FGSM", rate=0.47, eps=0.031, steps=1, **base),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 47.3}, r"accuracy must lie in \[0, 1\], got 47.3, which are percent"),
        ({"accuracy": -0.1}, r"accuracy must lie in \[0, 1\], got -0.1$"),
        ({"accuracy": float("nan")}, "accuracy must lie in|accuracy must be a number"),
        ({"accuracy": "47%"}, "accuracy must be a number, got '47%'"),
        ({"accuracy": ""}, "must be given as accuracy, got neither|must be a number, got ''"),
        ({"success": 0.5}, "untargeted must be given as accuracy, got accuracy and success"),
        ({"setting": "targeted"}, "setting targeted must be given as success, got accuracy"),
        ({"setting": "black box"}, "setting must be one of untargeted, targeted, transfer, "),
        ({"attack": "Sqare"}, "attack must be clean or start with one of APGD, .*, got 'Sqare'"),
        ({"eps": None}, "PGD must come with its eps, got none"),
        ({"eps": 8}, r"eps must be for pixels in \[0, 1\], such as 8/255, got 8"),
        ({"eps": "8/0"}, "eps must be a number, got '8/0'"),
        ({"eps": -0.1}, "eps must be finite and >= 0, got -0.1"),
        ({"steps": 2.5}, "steps must be an integer >= 1, got 2.5"),
        ({"images": 0}, "images must be an integer >= 1, got 0"),
        ({"norm": "Linf"}, "norm must be one of linf, l2, l1, got 'Linf'"),
        ({"source": "A"}, "source must come with a transfer, got setting 'untargeted'"),
        ({"model": None}, "every number must come with data, model and attack, got no model"),
        ({"acc": 0.4}, r"columns must be among table, data, .*, got \['acc'\]"),
        ({}, r"every number must be given once, got PGD \(eps = 0.031\) on net \(cifar10\) in "),
    ],
)
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_wrong_records_are_named(tmp_path, kind, changes, message):
    path = write(tmp_path / f"tables.{kind}", [RECORD, {**RECORD, **changes}])
    with pytest.raises(ValueError, match=message) as error:
        reading.read(path)
    place = "record 2" if kind == "json" else "line 3"
    assert str(error.value).startswith(f"{path}, {place}: ")


def test_a_column_too_many_is_named(tmp_path):
    path = tmp_path / "tables.csv"
    path.write_text("data,model,attack,eps,accuracy\ncifar10,net,PGD,0.03,0,47\n")
    with pytest.raises(
        ValueError, match="line 2: columns must .*, got .'a field without a column'."
    ):
        reading.read(path)


def test_other_bytes_are_an_error(tmp_path):
    for name in ("a.csv", "a.json"):
        (tmp_path / name).write_bytes("data,model\nä,b\n".encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} must hold (CSV in UTF-8|JSON), got: "):
            reading.read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json must hold JSON, got: "),
        ("a.json", '{"data": 3}', "a.json must hold a list of objects, one per number"),
        ("a.json", "[3]", "a.json must hold a list of objects, one per number"),
        ("a.json", "[]", "a.json must hold at least one number, got none"),
        ("a.csv", "", "a.csv must hold at least one number, got none"),
        ("a.csv", "data,model\n", "a.csv must hold at least one number, got none"),
        ("a.xlsx", "", "tables must be the word paper, a .json or .csv file or a run folder"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        reading.read(tmp_path / name)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv must be a file of tables, got no such"):
        reading.read(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=f"none there; fastrobust report {tmp_path} writes"):
        reading.read(tmp_path)


def test_the_papers_numbers_are_all_there():
    numbers = reading.read("paper", 10_000)
    assert Counter(n.table for n in numbers) == {
        "Table 3": 216, "Table 4": 9, "Table 5": 216, "Table 6": 18, "Table 7": 24,
    }  # fmt: skip
    assert len(set(numbers)) == 483 and {n.images for n in numbers} == {10_000}
    for n in numbers:  # each found again at its place
        value = n.eps if n.bounded else n.steps if n.attack == "DeepFool" else n.c
        place = (int(n.table[-1]), n.data, n.model, n.attack, None if n.clean else value)
        assert printed.lookup(*place) == n.rate
        assert n.targeted == (n.table in ("Table 5", "Table 7"))
        assert n.transferred == (n.table == "Table 6") == (n.source == "O:SOFTMAX:CE")
    steps = {n.attack: n.steps for n in numbers if n.bounded}
    assert steps == {"FGSM": 1, "BIM": 10, "MIM": 10, "Madry": 40, "clean": None}  # Table 2


def test_a_report_is_read_as_it_was_written(tmp_path):
    cells = [
        (Cell(4, "clean", None, None, "R:TANH:MSE", None), 5, {}),
        (untargeted("Madry", 0.1), 30, {}),
        (untargeted("FGSM", 0.1, view="class"), 60, {}),
        (untargeted("MIM", 0.1, source="O:SOFTMAX:CE", table=6), 10, {}),
        (targeted("BIM", 0.2), 40, {}),
        (Cell(5, "CWL2", "initial_const", 0.1, "R:TANH:MSE", "CWL2(initial_const=0.1)", True), 7,
         {}),
        (untargeted("BIM", 0.3), None, {}),  # not measured yet
    ]  # fmt: skip
    root = made_up(tmp_path / "run", "digits", cells)
    report.write(root)
    base = {"data": "digits", "model": "R:TANH:MSE", "images": 100}
    cw = {"c": 0.1, "kappa": 0.0, "steps": 1000, "setting": "targeted"}
    wanted = (
        Number(attack="clean", rate=0.95, eps=0.0, table="Table 4", **base),
        Number(attack="Madry", rate=0.7, eps=0.1, steps=40, table="Table 3", **base),
        Number(attack="FGSM in class view", rate=0.4, eps=0.1, steps=1, table="Table 3", **base),
        Number(attack="MIM", rate=0.9, setting="transfer", eps=0.1, steps=10, table="Table 6",
               source="O:SOFTMAX:CE", **base),
        Number(attack="BIM", rate=0.4, setting="targeted", eps=0.2, steps=10, table="Table 5",
               **base),
        Number(attack="CWL2", rate=0.07, table="Table 5", **cw, **base),
    )  # fmt: skip
    assert reading.read(root) == reading.read(root / "tables.csv") == wanted
    (root / "tables.csv").write_text("column,rate,view\nFGSM,0.1,paper\n")
    with pytest.raises(ValueError, match="line 2: columns must be among"):
        reading.read(root)
    assert wanted[-1].words == "targeted CWL2 (c = 0.1, steps = 1000)"

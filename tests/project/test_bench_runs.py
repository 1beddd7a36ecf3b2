"""The benchmarks of whole attacks run, and count what they say they count."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastrobust as fr
from fastrobust.sweep.rows import Savings
from fastrobust.sweep.testbed import Subject

bench_peers = pytest.importorskip("benches.bench_peers", reason="benches are not installed")
bench_spectra = pytest.importorskip("benches.bench_spectra")
bench_sweep = pytest.importorskip("benches.bench_sweep")


def small_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    return fr.Classifier(net, fr.heads.Softmax("ce")), torch.rand(12, 1, 4, 4) * 0.9 + 0.05


def test_what_a_peer_returns_is_judged_by_the_decision():
    model, x = small_model()
    y = model.predict(x)
    other = x[y != y[0]][:1]
    assert len(other)

    def carlini_wagner_l2(network, images, labels, **options):
        assert (options["max_iterations"], options["targeted"]) == (4, False)
        found = other.expand_as(images).clone()  # right for those of the first class alone
        found[0] = 0  # and black means that nothing was found
        return found

    peer = SimpleNamespace(carlini_wagner_l2=carlini_wagner_l2)
    task = bench_peers.Task("a task", 4, 2)
    lines = bench_peers.compare(task, {"adv-lib": peer}, model, x, y, rounds=2).splitlines()
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines[3:])}
    hits = (y[1:] != model.predict(other)).sum()
    assert int(rows["adv-lib"][5]) == hits and hits > 0
    assert int(rows["fastrobust"][6]) == len(x)
    assert set(rows) == {"adv-lib", "fastrobust"}


def test_a_peer_that_cannot_do_a_task_is_left_out():
    model, x = small_model()
    task = bench_peers.Task("a task", 3, 2, targeted=True)
    y = model.predict(x)
    lines = bench_peers.compare(task, {"torchattacks": None}, model, x, y, rounds=2).splitlines()
    assert [line.split()[1] for line in lines[3:]] == ["fastrobust"]


def test_a_sweep_is_compared_with_its_cells_one_by_one(monkeypatch):
    model, x = small_model()
    subject = Subject(model, x, model.predict(x), 10, batch=6, seed=0)
    short = [
        replace(cell, attack=cell.attack.replace("max_steps=100", "max_steps=8"))
        for cell in bench_sweep.CELLS
    ]
    monkeypatch.setattr(bench_sweep, "CELLS", short)
    text = bench_sweep.compare(subject, rounds=2)
    naive = bench_sweep.sweep(subject, bench_sweep.NONE, together=False)
    scheduled = bench_sweep.sweep(subject, Savings(), together=True)
    spent, fewer = bench_sweep.executed(naive), bench_sweep.executed(scheduled)
    assert f"evaluations {spent} cell by cell" in text and fewer < spent
    assert f"{spent / fewer:.2f} times fewer" in text
    assert text.count("the same in 12 of 12 images") == 4


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_the_ways_to_spectra_find_the_same(capsys, monkeypatch):
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 6, (3, 1), stride=2)
    )
    layers = bench_spectra.layers_of(net, (2, 8, 8))
    assert [(tuple(w.shape), *rest) for w, *rest in layers] == [
        ((5, 2, 3, 3), (8, 8), (1, 1)),
        ((6, 4, 3, 1), (8, 8), (2, 2)),
    ]
    full, half, gram, ours, top = (call() for call in bench_spectra.candidates(layers).values())
    for values, b, c, own, norm in zip(full, half, gram, ours.values, top, strict=True):
        torch.testing.assert_close(own, values.sort(descending=True).values)
        for found in (b.max(), c.max(), norm):
            torch.testing.assert_close(found, values.max())
    monkeypatch.setattr(bench_spectra, "GROWTH", (("image", [(2, 3, 4), (2, 3, 5)]),))
    bench_spectra.measure("net", layers, 2)
    bench_spectra.growth(2)
    printed = capsys.readouterr().out
    assert "net: 2 convolutions, 80 frequencies, 2 rounds" in printed
    gap = float(printed.split("largest value: ")[1].split(",")[0])
    assert gap < 1e-5
    assert printed.count("image ") == 2 and "1.0x (1.0-1.0)" in printed


@linux
def test_the_memory_of_a_call_is_its_peak():
    found, cold, peak = bench_spectra.observed("mine", lambda: torch.ones(2**26).sum())
    assert found == 2**26 and cold.cold > 0
    assert 0.2 < peak < 1

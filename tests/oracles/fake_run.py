"""Run folders with invented numbers, for tests of what reads them."""

from dataclasses import replace

import numpy as np

from fastrobust.runs.folder import RunFolder
from fastrobust.runs.plan import Cell, Plan

COUNT = 100


def made_up(folder, data_set, cells, configs=None):
    """Write a run of invented cells: (cell, number of broken images, changes).

    `changes` are columns by name, and "facts" and "key" of the cell. A cell with None broken images
    is not measured. `configs` are training settings by classifier.
    """
    out = RunFolder(folder)
    plan = Plan(data_set, "made up", "none", tuple(cell for cell, *_ in cells)).to_json()
    keys = [changes.get("key", f"k{n}") for n, (*_, changes) in enumerate(cells)]
    entries = [{**cell, "key": key} for cell, key in zip(plan.pop("cells"), keys, strict=True)]
    names = [str(n) for n in range(10)]
    facts = {"name": data_set, "digest": "d" * 64, "images": COUNT, "class_names": names}
    models = {cell.model: {"weights_digest": "w" * 64} for cell, *_ in cells}
    for name, config in (configs or {}).items():
        models[name]["config"] = config
    content = {"plan": plan, "cells": entries, "data": facts, "models": models, "device": "cpu"}
    out.start({**content, "versions": {"fastrobust": "0", "torch": "0"}}, may_change=())
    for key, (cell, broken, changes) in zip(keys, cells, strict=True):
        if broken is None:
            continue
        hit = np.arange(COUNT) < broken
        rows = {
            "index": np.arange(COUNT),
            "label": np.arange(COUNT) % 10,
            "target": np.full(COUNT, -1),
            "clean": np.arange(COUNT) % 10,
            "decision": (np.arange(COUNT) + hit) % 10,
            "claimed": hit,
            "success": hit,
            "l2": np.ones(COUNT),
            "linf": np.full(COUNT, cell.value or 0.0),
            "queries": np.full(COUNT, 3),
            **{name: column for name, column in changes.items() if name not in ("facts", "key")},
        }
        images = {"index": np.arange(20), "adversarial": np.random.rand(20, 1, 6, 6)}
        measured = {"seconds": 1.25, "naive": 300, "executed": 350, "invalid": 0}
        out.write(key, rows, {**measured, **changes.get("facts", {})}, images)
    return out.root


def untargeted(column, eps, model="R:TANH:MSE", **changes):
    attack = f"{column}(eps={eps})".replace("Madry", "PGD")
    return replace(Cell(3, column, "eps", eps, model, attack), **changes)


def targeted(column, eps, model="R:TANH:MSE"):
    return replace(untargeted(column, eps, model), table=5, targeted=True)

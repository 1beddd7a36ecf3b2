"""Prints one digest per result, so that two versions of the package can be compared bit by bit.

Twelve attacks on three heads, an evaluation, and the rates of the quick preset, all on digits::

    python -m benches.same_bits RUN_FOLDER > before.txt   # a finished run of the quick preset
    python -m benches.same_bits RUN_FOLDER > after.txt    # the same folder, another version
    diff before.txt after.txt

The package is the one that Python imports: set PYTHONPATH to choose another checkout.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch

import fastrobust as fr

IMAGES = 40


def attacks() -> list[fr.attacks.Attack]:
    """Return one attack of each kind, short enough to run on every head."""
    a = fr.attacks
    return [
        a.FGSM(eps=0.1),
        a.BIM(eps=0.1, steps=5, step_size=0.03),
        a.MIM(eps=0.1, steps=5, step_size=0.03),
        a.PGD(eps=0.1, steps=10, restarts=2),
        a.PGD(eps=1.0, steps=10, step_size=0.2, norm="l2", loss="train"),
        a.APGD(eps=0.1, steps=20),
        a.Square(eps=0.1, queries=100),
        a.DeepFool(max_steps=10),
        a.FAB(eps=0.1, steps=10),
        a.CWL2(binary_search_steps=2, max_steps=20),
        a.ModifiedCWL2(binary_search_steps=2, max_steps=20),
        a.LBFGS(binary_search_steps=2, max_steps=20),
    ]


def digest(*arrays: torch.Tensor | np.ndarray | None) -> str:
    """Return a digest of the bits of some arrays."""
    total = hashlib.sha256()
    for array in arrays:
        if array is not None:
            total.update(np.ascontiguousarray(np.asarray(array)).tobytes())
    return total.hexdigest()[:16]


def main(run_folder: str) -> None:
    """Print a line per result."""
    torch.set_num_threads(1)
    run = Path(run_folder)
    held_out = fr.data.load("digits", splits=("test",))
    x, y = held_out.x_test[:IMAGES], held_out.y_test[:IMAGES]
    for path in sorted((run / "models").glob("*.safetensors")):
        if path.stem not in ("o-softmax-ce", "o-softmax-mse", "r-tanh-mse"):
            continue
        model = fr.checkpoint.load(path)
        print("weights", path.stem, digest(*model.state_dict().values()))
        for attack in attacks():
            # L-BFGS is targeted only.
            wish = {"target": (y + 1) % 10} if isinstance(attack, fr.attacks.LBFGS) else {"y": y}
            r = attack.run(model, x, **wish, seed=3)
            parts = (r.adv, r.success, r.claimed, r.l2, r.linf, r.queries, r.decision)
            print("attack", path.stem, attack, digest(*parts), flush=True)
        verdict = fr.evaluate(model, x, y, 0.1, budget="quick", seed=1)
        print("evaluate", path.stem, verdict.robust_accuracy, digest(verdict.adv), flush=True)
    print("tables", hashlib.sha256((run / "tables.csv").read_bytes()).hexdigest()[:16])


if __name__ == "__main__":
    main(sys.argv[1])

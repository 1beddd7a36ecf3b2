"""The same cases under pytest-benchmark, which stores and compares: ``pytest benches``."""

import pytest
import torch

from . import cases
from .timer import interleave, ratio

CASES = [case for make in cases.CASES for case in make(256, torch.device("cpu"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_op(benchmark, case):
    """Time one op beside its reference."""
    timings = interleave({"kernel": case.kernel, "reference": case.reference}, seconds=0.3)
    benchmark.extra_info["times faster than the reference"] = ratio(
        timings["reference"], timings["kernel"]
    )
    benchmark.extra_info["GB/s"] = case.bytes / timings["kernel"].median / 1e9
    benchmark(case.kernel)

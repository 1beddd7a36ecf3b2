"""Run every benchmark of this folder."""

from .bench_ops import main

main()

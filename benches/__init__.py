"""Benchmarks: ``python -m benches`` prints every table, ``pytest benches`` stores results."""

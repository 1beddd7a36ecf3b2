"""What only a machine with a GPU can measure: ``python -m benches.gpu``."""

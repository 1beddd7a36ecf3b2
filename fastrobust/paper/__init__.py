"""Saito and Roy 2018: printed numbers, attack grids, and plans that reproduce its tables."""

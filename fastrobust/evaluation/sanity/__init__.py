"""Checks that say when not to believe a robust accuracy."""

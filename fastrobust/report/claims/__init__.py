"""What the paper concludes, and whether the numbers of a run agree."""

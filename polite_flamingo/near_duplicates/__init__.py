"""Near-duplicates: how similar a sample is to an earlier one, as scores that a selection compares with thresholds."""

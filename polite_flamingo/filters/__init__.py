"""Filters: each one scores (`scorer.py` runs them all); thresholds are applied later (`thresholds.py`)."""

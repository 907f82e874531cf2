"""Apply thresholds: what is kept, statistics, the dataset card, and the difference from the previous selection."""

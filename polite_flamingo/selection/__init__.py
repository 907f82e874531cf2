"""Thresholds -> what is kept, with statistics, the dataset card and the difference from the selection before."""

"""Samples -> rows of a full context window."""

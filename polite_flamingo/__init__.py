"""Polite Flamingo: the domain. It never imports Ray; `actors/`, `training/` and `serving/` wrap it."""

__version__ = "0.1.0"

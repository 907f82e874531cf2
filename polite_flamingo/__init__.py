"""Polite Flamingo: the domain. It never imports Ray; `actors/`, `training/` and `serving/` wrap it."""

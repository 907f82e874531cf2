"""Preference alignment: rated answers, pairs of them, losses, and an audit of the pairs."""

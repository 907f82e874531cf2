"""Preference alignment: sampled answers, their ratings, the pairs made of them, and how far to trust the pairs."""

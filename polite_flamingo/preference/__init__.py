"""Preference alignment: sampled answers, their ratings, the pairs made of them, and whether the pairs can be trusted."""

"""Preference alignment: answers are sampled, rated and paired, pairs are audited, and people vote."""

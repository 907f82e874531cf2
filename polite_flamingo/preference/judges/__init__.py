"""Judges of one interface: a rule, a reward model, or any chat model behind a server."""

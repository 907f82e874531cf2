"""/v1/rewrite: Polite Flamingo and the verdicts of its filters."""

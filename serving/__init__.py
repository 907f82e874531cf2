"""Polite Flamingo and Clever Flamingo over HTTP: OpenAI's protocol, on Ray Serve or in one process."""

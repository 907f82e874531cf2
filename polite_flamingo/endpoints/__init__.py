"""Language models behind a server: the HTTP client, and what to make of the text that a model returns."""

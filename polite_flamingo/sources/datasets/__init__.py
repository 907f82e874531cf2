"""One file a family of datasets; `polite_flamingo.sources.SOURCES` is the registry."""

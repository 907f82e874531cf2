"""The datasets, one file a family; `polite_flamingo.sources.SOURCES` is the registry."""

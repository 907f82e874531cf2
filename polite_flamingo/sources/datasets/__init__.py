"""The datasets, one file per family; `sources/registry.py` lists them."""

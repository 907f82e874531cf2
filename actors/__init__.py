"""Ray Data callables: thin shells that load in `__init__` and delegate in `__call__`; no domain logic."""

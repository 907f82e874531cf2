"""The auditor: whether preference pairs, and the ratings that they were made of, can be trusted."""

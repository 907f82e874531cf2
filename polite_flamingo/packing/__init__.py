"""Packing: samples become rows that fill a context window."""

"""Rewriters: samples in, one polite text each out."""

"""Readers of untrusted files: text, JSON, tables, tars, images, downloads. They know nothing about datasets."""

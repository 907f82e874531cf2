"""Encoded images: decoding, metadata, and the names of file types that are not decoded."""

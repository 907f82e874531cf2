"""Shapes: a rendered world of coloured shapes whose exact contents are known.

A fresh offline machine reaches no model hub or dataset host, so the tiny profile is trained and shown on this world.
`scene` holds what is in a picture, and `draw` renders it. `grammar`, `questions` and `captions` say true (and false)
things about it and check what others say. `write` stores annotations in the real datasets' own formats, which the
ordinary source adapters then read. `terse` notes a polite text as annotators do. `texts` is about the same world
without pictures, `instruct` stores conversations with good responses, `evaluation_sets` the held-out sets. Only the
testbed, the demo, the paper's job and benchmarks import this package; the tiny profile names `terse`.
"""

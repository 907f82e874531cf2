"""Shapes: a rendered world of coloured shapes whose exact contents are known.

No model hub or dataset host can be reached from a fresh offline machine, so the tiny profile is trained and demonstrated
on this world. `scene` holds what is in a picture, `draw` renders it, `language` says true (and false) things about it and
checks what others say, `write` stores annotations in the real datasets' original formats, which the ordinary source
adapters then read. Nothing outside this package, its zoo and the demo knows that Shapes exists.
"""

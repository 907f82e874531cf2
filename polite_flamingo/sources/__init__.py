"""Raw datasets on disk -> samples: `registry.SOURCES[name].read(options)`.

`registry.py` lists every dataset, `datasets/` has one file per family of formats, `records/` what all datasets share,
and `reading/` the readers of untrusted files. CONTRIBUTING.md has the steps for a new dataset.
"""

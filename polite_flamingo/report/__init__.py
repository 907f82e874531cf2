"""Self-contained HTML pages: the report of a selection, previews, distortions, evaluations."""

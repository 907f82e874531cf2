"""The entry points: `python -m ray_jobs.NAME`."""

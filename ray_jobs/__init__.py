"""The entry points: `python -m ray_jobs.NAME`, on a laptop or under `ray job submit`."""

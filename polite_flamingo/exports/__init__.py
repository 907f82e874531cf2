"""Kept samples in the formats of trainers and hubs: `formats.py` writes each, `ray_jobs/export.py` is the job."""

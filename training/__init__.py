"""Training: stages as configuration, one loop, Ray around it. Only `trainer.py` and `streaming.py` know Ray."""

"""Training. From the outside in: `ray_trainer.py` (Ray: several workers), `run_stage.py` (what each worker runs),
`loop.py` (updates and checkpoints), `loss.py` (one micro-batch). Only `ray_trainer.py` and `ray_stream.py` use Ray.
"""

"""A drawn world to try everything on: Shapes, the zoo of tiny models trained on it, and the paper repeated."""

"""What answers requests: engines in this process or behind Ray Serve, and the filters that score."""

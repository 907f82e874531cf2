"""Real models that come as packages of the registry, a server for them, and excerpts of real datasets: `demo-real`."""

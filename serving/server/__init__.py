"""The application put together: routes, pages, and its deployments on Ray Serve."""

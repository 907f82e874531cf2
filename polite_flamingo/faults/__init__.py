"""What happens when rows fail: retries, bisection, quarantine, and hints about the cause."""

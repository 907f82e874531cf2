"""What happens when rows fail: bisection, the journal of running rows, quarantine, and hints about the cause."""

"""What every HTTP request goes through: authentication, limits, validation, logs, metrics."""

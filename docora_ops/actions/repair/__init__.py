"""Finding and repairing drift between database and queue."""

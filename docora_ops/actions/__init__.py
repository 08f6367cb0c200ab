"""Actions: they change Postgres and the queue together, return values, and print nothing."""

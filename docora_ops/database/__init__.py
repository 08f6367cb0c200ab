"""Postgres: the connection, and SQL by noun."""

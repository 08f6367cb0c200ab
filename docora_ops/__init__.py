"""Operates Docora: retries failed links between apps and repositories, and runs their jobs."""

__version__ = "1.0.0"

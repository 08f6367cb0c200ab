"""Operations for Docora: retries failed links of apps and repositories, and runs their jobs."""

__version__ = "0.1.0"

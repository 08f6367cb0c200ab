"""Operations for Docora: put failed links between apps and repositories back to work."""

__version__ = "0.1.0"

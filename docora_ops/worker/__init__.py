"""The optional worker, for installations whose snapshot queue is RQ."""

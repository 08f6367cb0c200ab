"""Redis: the connection, the two queues, and the record of operations."""

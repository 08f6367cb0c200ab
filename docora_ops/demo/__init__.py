"""Optional: a small Docora to try the tool on, with servers of its own."""

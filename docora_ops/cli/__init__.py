"""The command line: options, questions, tables and sentences."""

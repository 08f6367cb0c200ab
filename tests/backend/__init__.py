"""Beside a Docora whose workers are BullMQ's."""

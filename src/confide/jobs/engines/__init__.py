"""Engines: how the processes that compute are started on a node, as values."""

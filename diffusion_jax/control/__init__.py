"""Controlled text: targets in, steered samples, infillings and their measurement out."""

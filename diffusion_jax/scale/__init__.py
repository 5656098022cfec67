"""Meshes, shardings and checkpoints."""

"""Speed and memory, each beside an equal program in PyTorch: ``python -m benchmarks``."""

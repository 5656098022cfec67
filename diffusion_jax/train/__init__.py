"""Training: state, optimiser, the one step function, the loop."""

"""Reverse samplers as (init, step) pairs and the one scan that drives them."""

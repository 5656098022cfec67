"""Networks behind records of pure functions; the only importer of flax.linen."""

"""A dataset in the shape of ``e2e_cleaned``; TFDS wants builders to live in a package."""

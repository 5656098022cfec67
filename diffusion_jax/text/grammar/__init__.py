"""The embedded corpus: a probabilistic grammar of short restaurant descriptions.

Every sentence comes with its attributes, tags and tree; whether a text is in the language, how
probable it is and what it says are decided exactly, by parsing.
"""

from diffusion_jax.text.grammar.language import Grammar, load_grammar
from diffusion_jax.text.grammar.sentence import EntropyEstimate, Pair, Parse, Sentence

__all__ = ["EntropyEstimate", "Grammar", "Pair", "Parse", "Sentence", "load_grammar"]

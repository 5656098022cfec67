"""What is drawn twice here is drawn twice: that it is the same is what the tests look at."""

import pytest

from diffusion_jax.text.grammar.language import Grammar


@pytest.fixture(autouse=True)
def sentences_are_drawn_anew(sentences_are_drawn_once, monkeypatch):
    monkeypatch.setattr(Grammar, "_draws", sentences_are_drawn_once)

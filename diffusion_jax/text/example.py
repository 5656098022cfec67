"""One example of a corpus, and the corpus as a stream of them."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

NEWLINE = "\n"
"""The word that texts end with where line ends are kept (Diffusion-LM does so with E2E)."""
_WORD = re.compile(r"\n|\S+")


@dataclass(frozen=True)
class Example:
    """A single text, or a source-target pair.

    Attributes:
        text: The text of an unpaired example.
        src: The source of a pair.
        trg: The target of a pair.
        fields: What else the corpus says: attributes, parts of speech, tree, other columns.
        id: Where the example stands in its corpus.
    """

    text: str = ""
    src: str | None = None
    trg: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Corpus:
    """A stream of examples that can be read again and again, never held in memory as a whole.

    Attributes:
        read: Starts a new stream.
        paired: Whether the examples are source-target pairs.
        describe: Name and split, for messages.
        identity: JSON-able record that changes when the content does.
        size: The most examples that a stream gives; all if None.
    """

    read: Callable[[], Iterator[Example]]
    paired: bool
    describe: str
    identity: Mapping[str, Any]
    size: int | None = None

    def __iter__(self) -> Iterator[Example]:
        return itertools.islice(self.read(), self.size)

    def texts(self) -> Iterator[str]:
        """Yield every text, of pairs source and target: what a vocabulary is learned from."""
        for example in self:
            if example.src is None or example.trg is None:
                yield example.text
            else:
                yield example.src
                yield example.trg


def words_of(text: str) -> list[str]:
    """Return the words of a text: what stands between spaces, and each newline."""
    return _WORD.findall(text)


def linearise(attributes: Mapping[str, str]) -> str:
    """Write attributes as E2E files do: ``name : The Vaults | food : English``."""
    return " | ".join(f"{name} : {value}" for name, value in attributes.items())

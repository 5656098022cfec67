"""Minimum Bayes risk over sentence BLEU: vectorised, and calling sacrebleu pair by pair.

Command: python -m benchmarks.mbr [--sources 2500] [--candidates 10] [--repeats 3] [--output FILE]

Both score every ordered pair of different candidates of a source, from texts to scores, one after
the other in one process. Texts are made from a fixed seed: the candidates of a source are copies
of one sentence in which words were replaced, dropped and swapped. The library runs once; the
vectorised scores are timed --repeats times and the median counts. One JSON line is appended.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import numpy as np
import sacrebleu
from sacrebleu.metrics import BLEU

import diffusion_jax
from diffusion_jax.mbr import pairwise_utility


def make_candidates(num_sources: int, num_candidates: int, seed: int = 0) -> list[list[str]]:
    """Return candidates of 4 to 20 words that share most of their words within a source."""
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(3000)]
    groups = []
    for _ in range(num_sources):
        sentence = rng.zipf(1.3, rng.integers(4, 21)) % len(words)
        group = []
        for _ in range(num_candidates):
            copy = np.where(rng.random(len(sentence)) < 0.2, rng.integers(0, 3000), sentence)
            copy = copy[rng.random(len(copy)) > 0.1]
            i, j = rng.integers(0, max(len(copy), 1), 2)
            if len(copy):
                copy[[i, j]] = copy[[j, i]]
            group.append(" ".join(words[k] for k in copy) + " ?")
        groups.append(group)
    return groups


def library_scores(groups: list[list[str]]) -> np.ndarray:
    """Score all pairs with one library call each; float64 [S, C, C] with a zero diagonal."""
    bleu = BLEU(effective_order=True)
    size = len(groups[0])
    scores = np.zeros((len(groups), size, size))
    for s, group in enumerate(groups):
        for i, hypothesis in enumerate(group):
            for j, reference in enumerate(group):
                if i != j:
                    scores[s, i, j] = bleu.sentence_score(hypothesis, [reference]).score
    return scores


def main() -> None:
    """Measure both, print a summary and append a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=2500)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default=None)
    arguments = parser.parse_args()
    groups = make_candidates(arguments.sources, arguments.candidates)
    pairwise_utility(groups[:2])  # Imports and caches of both sides are warm.

    seconds = []
    for repeat in range(arguments.repeats):
        # Texts are new to sacrebleu's cache of tokenised lines in every repeat.
        texts = [[f"{text} {repeat}" for text in group] for group in groups]
        begin = time.perf_counter()
        ours = pairwise_utility(texts)
        seconds.append(time.perf_counter() - begin)
    vectorised = statistics.median(seconds)

    begin = time.perf_counter()
    theirs = library_scores(texts)
    library = time.perf_counter() - begin

    difference = np.abs(ours - theirs)[:, ~np.eye(arguments.candidates, dtype=bool)].max()
    record = {
        "benchmark": "mbr",
        "sources": arguments.sources,
        "candidates": arguments.candidates,
        "library_seconds": round(library, 3),
        "vectorised_seconds": round(vectorised, 4),
        "times_faster": round(library / vectorised, 1),
        "largest_difference": float(difference),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "sacrebleu": sacrebleu.__version__,
        "diffusion_jax": diffusion_jax.__version__,
        "machine": platform.machine(),
    }
    print(
        f"{arguments.sources} sources x {arguments.candidates} candidates: "
        f"sacrebleu pair by pair {library:.2f} s, vectorised {vectorised:.3f} s, "
        f"{library / vectorised:.0f} times faster; largest difference {difference:.1e}",
        file=sys.stderr,
    )
    print(json.dumps(record))
    if arguments.output:
        with open(arguments.output, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

# %% [markdown]
# # Quickstart: from nothing to sentences
#
# You train a small Diffusion-LM on a language that comes with the package, watch it learn to write, and
# judge what it writes exactly, by parsing. Nothing is downloaded but the package itself.
#
# | runtime | minutes for the whole notebook |
# |---|---|
# | CPU, two cores | about 5 (the command it repeats took 207 s on an idle machine) |
# | GPU, TPU | not timed yet; the same cells run there |
#
# After that training nineteen of twenty samples are sentences of the language (95.0% ± 1.0%, seed 0).
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/colab/01_quickstart.ipynb)
#
# (`OWNER/REPOSITORY` stands for the repository that this notebook lies in.)

# %% [markdown]
# ## 1. Install
#
# The package asks for no newer jax than the one that a Colab runtime brings, so that pip leaves the
# preinstalled jax, and with it the GPU or TPU support, as it is. Until there is a release under that name,
# take the second form, with the address of the repository; it is the newest commit afterwards too.

# %% tags=["skip-execution"]
PACKAGE = "diffusion-jax"  #@param ["diffusion-jax", "git+https://HOST/OWNER/REPOSITORY.git"] {allow-input: true}
# %pip install -q {PACKAGE}

# %%
import jax

import diffusion_jax as dj

print(f"diffusion_jax {dj.__version__}, jax {jax.__version__}")
print(f"{jax.device_count()} device(s): {jax.devices()[0].device_kind}")

# %% [markdown]
# ## 2. Choose the sizes
#
# The values here are those of `diffusion-jax quickstart`. Each choice gets a directory of its own.

# %%
import os

STEPS = 9000  #@param {type:"integer"}
LAYERS = 4  #@param {type:"integer"}
PAIR_STEPS = 4500  #@param {type:"integer"}
SENTENCES = 50000  #@param {type:"integer"}
SAMPLES = 500  #@param {type:"integer"}
SAMPLING_STEPS = 100  #@param {type:"integer"}
SMOKE = os.environ.get("SMOKE") == "1"  # a few seconds instead of minutes: does everything run?
if SMOKE:
    STEPS, PAIR_STEPS, LAYERS, SENTENCES, SAMPLES, SAMPLING_STEPS = 8, 8, 1, 500, 16, 5
WORKDIR = f"runs/quickstart-{STEPS}-{LAYERS}-{SENTENCES}"
PAIR_WORKDIR = f"runs/pairs-{PAIR_STEPS}-{LAYERS}-{SENTENCES}"

# %% [markdown]
# ## 3. Look at the language
#
# A probabilistic grammar of restaurant descriptions. Every sentence comes with what it says, its parts of
# speech, its tree and its probability, and any text can be parsed back.

# %%
grammar = dj.load_grammar("small")
for sentence in grammar.corpus(seed=0, n=5):
    print(sentence.text)
print(f"\nwhat the last one says: {sentence.attributes}")
print(f"parts of speech: {' '.join(sentence.pos)}")
print(f"tree: {sentence.tree}")
print(f"log-probability: {grammar.log_prob(sentence.text):.2f} nats")

# %%
shuffled = " ".join(reversed(sentence.tokens))
for text in (sentence.text, shuffled):
    print(f"{'in the language' if grammar.accepts(text) else 'not in it':>16}: {text}")
print(f"{grammar.count_sentences():,} sentences are in the language")

# %% [markdown]
# ## 4. Train
#
# One frozen configuration says everything about a run; `replace` changes a field. The lines below the cell
# show the loss terms, the speed, and now and then a few samples. Interrupt the cell whenever you like: the
# state is saved, and running the cell again goes on from there.

# %%
from dataclasses import replace

from diffusion_jax.quickstart import quickstart_config


def sized(task, steps):
    config = quickstart_config(task, "small", steps=steps)
    model = replace(config.model, num_layers=LAYERS)
    data = replace(config.data, size=SENTENCES)
    sample = replace(config.sample, steps=SAMPLING_STEPS)
    return replace(config, model=model, data=data, sample=sample)


# %%
result = dj.train_experiment(sized("text", STEPS), WORKDIR, resume=True)

# %% [markdown]
# ## 5. Read what it writes, and judge it by parsing
#
# A sample is right when the grammar has a derivation for it: no judge, no proxy.

# %%
texts = result.generator.sample(SAMPLES, seed=0, batch_size=250)
for text in texts[:10]:
    print("+" if grammar.accepts(text) else "-", text)

# %%
sentences = [text for text in texts if grammar.accepts(text)]
print(f"{len(sentences) / len(texts):.1%} of {len(texts)} samples are sentences of the language")
print(f"{len(set(texts))} of them are different")
for text in sentences[:3]:
    print(text, grammar.parse(text).best.attributes)

# %% [markdown]
# ## 6. From a checkpoint to text
#
# The directory of a run holds all that is needed: configuration, tokenizer and parameters. Sampling options
# can be changed here; sample *i* depends on the seed and on *i* alone.

# %%
import diffusion_jax as dj

writer = dj.Generator.from_checkpoint(WORKDIR, steps=SAMPLING_STEPS)
print(*writer.sample(5, seed=1), sep="\n")

# %% [markdown]
# ## 7. Look at the training
#
# `metrics.jsonl` has one JSON object per line; the plot appears where matplotlib is installed.

# %%
import json
from importlib.util import find_spec
from pathlib import Path

lines = Path(WORKDIR, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
rows = [row for row in map(json.loads, lines) if "total" in row]
for row in rows[:: max(1, len(rows) // 8)]:
    print(f"step {row['step']:>5}  loss {row['total']:.3f}  mse {row['mse']:.3f}")

# %%
if find_spec("matplotlib"):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3))
    for term in ("mse", "grad_norm"):
        axes.semilogy([row["step"] for row in rows], [row[term] for row in rows], label=term)
    axes.set_xlabel("step")
    axes.legend()

# %% [markdown]
# ## 8. Sequence to sequence
#
# The same program with another noise mask is DiffuSeq: source and target are one row, and only the target
# is noised. Here the source is a list of attributes and the target a sentence that says exactly those. Tick
# the box to train it: about 5 minutes on two CPU cores, as its rows are longer.

# %%
TRAIN_PAIRS = False  #@param {type:"boolean"}
if TRAIN_PAIRS or SMOKE:
    pairs = dj.train_experiment(sized("seq2seq", PAIR_STEPS), PAIR_WORKDIR, resume=True)
    asked = grammar.data_to_text(seed=1, n=5, split="test")
    for pair, written in zip(asked, pairs.generator.generate(pair.src for pair in asked)):
        says_so = grammar.says(written.candidates[0], pair.attributes)
        print(f"{pair.src}\n  {'+' if says_so else '-'} {written.candidates[0]}")

# %% [markdown]
# ## What to try next
#
# - **Longer or larger**: raise `STEPS` in section 2; `quickstart_config("text", "full")` is a far richer
#   language.
# - **Fewer sampling steps**: `Generator.from_checkpoint(WORKDIR, sampler="ddim", steps=20)`.
# - **Your own text**: `replace(config.data, corpus="my_text.txt", length=64)` with `max_length=64` in the model
#   (texts longer than the row are left out), or a file of JSON lines with `src` and
#   `trg` and `task="pair"`. `experiments/e2e.py` and `experiments/qqp.py` are whole experiments.
# - **Control**: `diffusion_jax.guidance` steers a trained model while it samples, by a classifier's gradient
#   or without a classifier.
# - **The command line** does the same: `diffusion-jax quickstart --help`.

"""Shared models on the Hugging Face Hub. Needs the extra ``hub``; nothing else here goes online."""

import tempfile
from pathlib import Path
from typing import Any, Protocol

from diffusion_jax.convert.safetensors import (
    CARD_FILE,
    MODEL_FILE,
    TOKENIZER_DIR,
    Shared,
    export_run,
    import_run,
)
from diffusion_jax.errors import UserError

_FILES = [MODEL_FILE, CARD_FILE, f"{TOKENIZER_DIR}/*"]


class HubClient(Protocol):
    """The part of ``huggingface_hub.HfApi`` that is used here."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository for a model."""
        ...

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> Any:
        """Upload the files of a directory."""
        ...

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, local_dir: str, allow_patterns: list[str]
    ) -> str:
        """Download files and return their directory."""
        ...


def push_run(
    run: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    weights: str = "ema",
    step: int | None = None,
    client: HubClient | None = None,
) -> None:
    """Upload a run's parameters, tokenizer and model card.

    Args:
        run: a run directory.
        repo_id: ``OWNER/NAME``; made where it does not exist.
        public: whether a new repository can be read by everyone.
        weights: see ``export_run``.
        step: which checkpoint; None means the newest that is intact.
        client: who talks to the Hub; None logs in as the user's ``hf`` tool does.

    Raises:
        UserError: the run cannot be read, or the Hub refuses.
    """
    client = client or _client()
    with tempfile.TemporaryDirectory() as folder:
        export_run(run, Path(folder) / MODEL_FILE, weights=weights, step=step)
        try:
            client.create_repo(repo_id, private=not public, exist_ok=True)
            client.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=_FILES,
                commit_message="Upload the model",
            )
        except Exception as error:
            raise _refused("uploaded to", repo_id, error) from error


def pull_run(
    repo_id: str,
    workdir: str | Path,
    *,
    revision: str | None = None,
    client: HubClient | None = None,
) -> Shared:
    """Download a shared model and write a run directory from it.

    Args:
        repo_id: ``OWNER/NAME``.
        workdir: the run directory to write, new or empty.
        revision: branch, tag or commit; None means the newest.
        client: see ``push_run``.

    Returns:
        What the file holds.

    Raises:
        UserError: the Hub refuses, or what it holds is not a model of this program.
    """
    client = client or _client()
    with tempfile.TemporaryDirectory() as folder:
        try:
            client.snapshot_download(
                repo_id, revision=revision, local_dir=folder, allow_patterns=_FILES
            )
        except Exception as error:
            raise _refused("downloaded from", repo_id, error) from error
        if not (Path(folder) / MODEL_FILE).is_file():
            raise UserError(f"the Hub repository {repo_id} holds no {MODEL_FILE}")
        return import_run(Path(folder) / MODEL_FILE, workdir)


def _client() -> HubClient:
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise UserError(
            'the Hub needs the package "huggingface_hub"; install the extra: '
            'pip install "diffusion-jax[hub]"'
        ) from None
    return HfApi()


def _refused(action: str, repo_id: str, error: Exception) -> UserError:
    """Word the many exceptions of the Hub's client and of the network below it as one."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"the model could not be {action} the Hub repository {repo_id!r}: {reason}")

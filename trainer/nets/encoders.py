"""Encoders of `transformers`: weights from the hub or a folder, and a patch projection for any number of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from torch import Tensor, nn
from transformers import PreTrainedModel


class Patches(nn.Module):
    """ViT's patch projection under its own name, without its check of the channels, whose number export changes."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, x: Tensor, **_: object) -> Tensor:
        """Maps [N, C, H, W] to tokens [N, L, D]."""
        return self.projection(x).flatten(2).transpose(1, 2)


def load_encoder(encoder: PreTrainedModel, name: str, own: tuple[str, ...] = (), **options: Any) -> Any:
    """Fills an encoder of `transformers` with weights from the hub (which it caches) or a folder in the hub's format.

    Args:
        encoder: filled in place; its mode and precision stay.
        name: on the hub, or a folder.
        own: beginnings of names of weights that the encoder keeps as they are.
        options: of `from_pretrained`.

    Returns:
        What was loaded, as `from_pretrained` gives it.

    Raises:
        OSError: no such name, or no network and nothing cached.
        RuntimeError: weights of other sizes.
        ValueError: weights are missing.
    """
    options |= {"config": encoder.config, "output_loading_info": True, "ignore_mismatched_sizes": bool(own)}
    try:
        loaded, info = type(encoder).from_pretrained(name, local_files_only=True, **options)
    except OSError:
        if Path(name).exists():
            raise
        _ask_hub(name)
        loaded, info = type(encoder).from_pretrained(name, **options)
    # transformers leaves these random and goes on
    found_wrong = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if wrong := sorted(key for key in found_wrong if not key.startswith(own or ("\0",))):
        raise ValueError(f"{name} has no weights that fit {wrong[0]}")
    # into the encoder that is there: what was loaded is in evaluation mode, and in the file's precision
    state = {key: value for key, value in loaded.state_dict().items() if not key.startswith(own or ("\0",))}
    encoder.load_state_dict(state, strict=not own)
    return loaded


def _ask_hub(name: str) -> None:
    """OSError in one line where the hub does not have `name` or does not answer: loading would try for two minutes and
    then speak of a missing file."""
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # of three libraries, by version
        unknown = isinstance(error, RepositoryNotFoundError | HFValidationError)
        reason = "has no such model" if unknown else f"cannot be reached ({type(error).__name__})"
        raise OSError(f"{name} is neither a folder nor in the cache of transformers, and the hub {reason}") from None

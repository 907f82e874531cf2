"""The prompts of chat and of rewriting, exactly as the released checkpoints were trained.

The wording is data, not style: the published weights were trained on these strings, including "Assistent" (`readme.md`
of ChenDelong1999/polite_flamingo).
"""

from __future__ import annotations

from polite_flamingo.sample import IMAGE_MARK

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
END_OF_CHUNK = "<|endofchunk|>"
MEDIA = IMAGE_MARK + END_OF_CHUNK


def chat_prompt(instruction: str, *, first: bool = True) -> str:
    """Return the prompt of one chat turn; only the first turn of a conversation has the system message."""
    return f"{SYSTEM if first else ''}\n### Human: {_media(instruction)}\n### Assistant: "


def rewriting_prompt(instruction: str, raw: str, *, first: bool = True) -> str:
    """Return the prompt that asks Polite Flamingo to revise `raw`, the annotation; `first` as in `chat_prompt`."""
    asked = f"\n### Human: {_media(instruction)}\n### Assistent: (Drafted Response): {raw}\n (Revised Response): "
    return (SYSTEM if first else "") + asked


def _media(instruction: str) -> str:
    return instruction.replace(IMAGE_MARK, MEDIA)

"""Sections of profiles, made of the configs that tests have."""

from __future__ import annotations

from polite_flamingo.flamingo.config import RewriterConfig
from polite_flamingo.rewriters.config import RewriterSection, decoding


def section(model: RewriterConfig) -> RewriterSection:
    """Return the section `rewriter` of a profile with this Flamingo."""
    return RewriterSection(flamingo=model.flamingo, **decoding(model))

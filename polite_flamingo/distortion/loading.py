"""Make the speaker that a configuration names. Speakers are imported on demand: some load a model library."""

from __future__ import annotations

from polite_flamingo.distortion.config import DistortionConfig
from polite_flamingo.distortion.speakers import Speaker


def load_speaker(config: DistortionConfig) -> Speaker:
    """Make the speaker of a configuration.

    Raises:
        ValueError: it cannot be used; the message says what to do.
    """
    if config.speaker == "rules":
        from polite_flamingo.distortion.rule_speaker import RuleSpeaker, load_note_taker

        return RuleSpeaker(load_note_taker(config.note_taker) if config.note_taker else None)
    if config.speaker == "local":
        from polite_flamingo.distortion.local_speaker import LocalSpeaker

        return LocalSpeaker(config)
    from polite_flamingo.distortion.endpoint_speaker import EndpointSpeaker

    return EndpointSpeaker(config)

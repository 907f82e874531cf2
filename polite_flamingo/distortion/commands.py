"""The 24 extra commands that may be added to what the terse robot announces: the paper's list, in our own words.

A language model is sent a command's wording (`llm_prompts.py`). The rule-based speaker gets only commands that have a
rule (`command_rules.py`). Whether a command was followed is checked in `command_checks.py`. A pair's provenance records
the command's name.
"""

from __future__ import annotations

COMMANDS: dict[str, str] = {
    "no_punctuation": "I leave out all punctuation marks and capital letters",
    "typos": "I put in several spelling mistakes",
    "grammar_errors": "I make plenty of grammar mistakes",
    "drop_words": "I skip words and sentences here and there",
    "upper_case": "I write everything in capitals",
    "lower_case": "I write everything in small letters",
    "swap_synonyms": "I exchange some words for others of the same meaning",
    "repetition": "I say the same thing again although nobody needs it",
    "rearranged": "I put the parts of each sentence in another order",
    "wrong_tenses": "I use the wrong tenses",
    "wordy": "I use far more words than needed",
    "shortest": "I say it in as few words as I possibly can",
    "commas": "I only list the essentials and put commas between them",
    "plain": "I drop all formatting, lists and line breaks",
    "reworded": "I say it in entirely different words that mean the same",
    "reversed": "I give the sentences in reverse order, from the last to the first",
    "casual": "I sound sloppy and unprofessional, like somebody who chats",
    "complex": "I use language that is much too complicated",
    "ambiguous": "I stay vague, so that it can be understood in more than one way",
    "metaphors": "I put in odd metaphors",
    "irrelevant": "I add things that have nothing to do with it",
    "echo": "I say one of the sentences again with small changes",
    "five_words": "I sum it up in exactly five words",
    "incoherent": "I make it hang together less well",
}
"""Name -> how the robot announces it, after "As a cold machine …" in `llm_prompts.prefill`."""

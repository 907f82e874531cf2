"""Checks of a language model's answer: is it complete, does it say anything, is all of it an answer?

Models and servers return texts that are cut at the token limit, withheld by a filter, empty, or only reasoning, that
run on into the next turn of the conversation, or decline. This module detects them; callers decide what to do
(`distortion/answer_checks.py`, `evaluation/judging.py`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

Fault = Literal["empty", "cut", "filtered", "aborted", "leaked", "echo", "declined"]
"""Faults of an answer: it is empty, ended by the token limit, withheld by the server's filter or aborted by it; it
contains markup of the conversation's protocol, repeats the question (`repeats`), or declines to answer."""
FAULTS: tuple[Fault, ...] = get_args(Fault)

BROKEN: frozenset[Fault] = frozenset({"empty", "cut", "filtered", "aborted", "leaked", "echo"})
"""Faults that make an answer incomplete. A refusal is complete."""

_ENDINGS: dict[str, Fault] = {"length": "cut", "content_filter": "filtered", "error": "aborted"}

_OTHER_NAMES = {
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(
        ("safety", "content_filtered", "recitation", "blocklist", "prohibited_content", "guardrail_intervened"),
        "content_filter",
    ),
    **dict.fromkeys(
        ("abort", "aborted", "cancelled", "canceled", "timeout", "network_error", "insufficient_system_resource"),
        "error",
    ),
}
"""Finish reasons of Gemini's, Anthropic's, Mistral's, DeepSeek's, vLLM's and SGLang's servers, whatever their case."""

_TAG = r"(?:(?:seed:)?think|thinking|thought|thoughts|reasoning)"
_REASONING = re.compile(rf"\A\s*(?:<({_TAG})>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z))", re.DOTALL | re.IGNORECASE)
_REASONED = re.compile(rf"\A(?:(?!<{_TAG}>).)*?</{_TAG}>", re.DOTALL | re.IGNORECASE)
"""Some chat templates open the block in the prompt, so the answer has only its end."""

_MARKUP = re.compile(
    r"<[|｜][^<>|｜\n]{1,40}[|｜]>"  # <|im_end|>, <|eot_id|>, DeepSeek's of full width
    r"|\[\|[a-z_ ]{1,40}\|\]"  # EXAONE's [|assistant|]
    r"|</?s>|<(?:bos|eos|pad|unk|sep)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
    r"|\[(?:TOOL_CALLS|/?THINK|PAD|UNK)\]"
    rf"|</?{_TAG}>"
    r"|^[ \t]*#{2,}[ \t]*(?:human|user|assistant|assistent|system|instruction|response|input)\b"
    r"|^[ \t]*(?:\*\*)?(?:human|user|assistant|assistent|system)(?:\*\*)?[ \t]*:"
    r"|^[ \t]*assistant[ \t]*\n"  # Llama 3's header without its special tokens
    r"|\b(?:human|user):[^\n]*\b(?:assistant|ai):",  # the next turns, in one line
    re.IGNORECASE | re.MULTILINE,
)
_DECLINES = re.compile(
    r"\W*(?:(?:i am|i'm|im|we are|we're) (?:(?:very|so|really|truly) )?(?:sorry|afraid)"
    r"|sorry|(?:my )?apologies|i apologi[sz]e)"
    r"\b.{0,60}?\b(?:can't|cannot|can not|unable|not able|won't|don't|do not|not possible)\b"
    r"|\W*(?:i|we) (?:can't|cannot|can not|won't|will not|am unable to|am not able to|are unable to|are not able to)"
    r" (?:\w+ )?(?:help|assist|comply|fulfil|fulfill|provide|answer|respond|do that|continue|see|view|access|generate"
    r"|rewrite|process|identify|summari[sz]e|discuss|support)\b"
    r"|\W*as an? (?:ai|artificial intelligence|(?:large )?language model|assistant|virtual assistant)\b"
    r"|\W*(?:i am|i'm) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    re.IGNORECASE | re.DOTALL,
)


class Unfinished(str):
    """A string that was cut off before its end.

    Attributes:
        why: "length" (the limit of tokens) or "content_filter", as OpenAI's protocol names them, or "error".
    """

    why: str

    def __new__(cls, text: str, why: str) -> Unfinished:
        """Raises `ValueError` for any other reason."""
        if why not in _ENDINGS:
            raise ValueError(f"an answer ends early by {', '.join(_ENDINGS)}, not {why!r}")
        made = super().__new__(cls, text)
        made.why = why
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # a str is made of one argument, this of two
        return str(self), self.why


def ending(text: str, why: object) -> str:
    """Return `text`, marked as unfinished if `why` (a finish reason) says so."""
    known = _known(why)
    return Unfinished(text, known) if known else text


def _known(why: object) -> str:
    """Return our name for the finish reason of an incomplete answer; "" for any other reason."""
    name = str(why).lower()
    name = _OTHER_NAMES.get(name, name)
    return name if name in _ENDINGS else ""


def stripped(text: str) -> str:
    """Strip surrounding white space, keeping the mark of an unfinished text."""
    return ending(text.strip(), getattr(text, "why", None))


def first_choice(answer: Mapping[str, Any]) -> str:
    """Return the text of an OpenAI-compatible server's first choice, chat or completion; `Unfinished` if it was cut.

    A message without content is an empty answer if the server says why: it was cut, filtered, or all reasoning.

    Raises:
        LookupError, TypeError: the response has another form.
    """
    choices = answer.get("choices")
    if not choices:
        error = answer.get("error")
        said = error.get("message") if isinstance(error, dict) else error
        raise LookupError(f"it says {str(said)!r}" if said else "it has no choices")
    choice = choices[0]
    why = choice.get("finish_reason")
    if "message" not in choice:
        text = choice["text"]
    else:
        message = choice["message"]
        text = message["content"]
        if isinstance(text, list):  # parts; Mistral's keep the reasoning separate
            text = "".join(part["text"] for part in text if part.get("type") == "text")
        if text is None:
            text = message.get("refusal")
        if text is None and (_known(why) or any(message.get(name) for name in ("reasoning_content", "reasoning"))):
            text = ""
    if not isinstance(text, str):
        raise TypeError("no text")
    return ending(text, why)


def without_reasoning(text: str) -> str:
    """Return the answer without the reasoning before it; "" if the reasoning never ended."""
    rest = _REASONING.sub("", text, count=1)
    rest = _REASONED.sub("", rest, count=1) if rest == text else rest
    if rest == text:
        return text
    return ending(rest.strip(), getattr(text, "why", None))


def faults(answer: str, given: Iterable[str] = ()) -> list[Fault]:
    """Return an answer's faults, in the order of `FAULTS`; an empty list for most answers.

    Args:
        answer: without its reasoning.
        given: texts that the answer may repeat: the answer to a question about markup contains markup.
    """
    found: set[Fault] = set()
    if says_nothing(answer):
        found.add("empty")
    if isinstance(answer, Unfinished):
        found.add(_ENDINGS[answer.why])
    given = list(given)
    if any(mark not in text_of(given) for mark in markup(answer)):
        found.add("leaked")
    if declines(answer) and not any(map(declines, given)):
        found.add("declined")
    return [fault for fault in FAULTS if fault in found]


def text_of(given: Iterable[str]) -> str:
    """Join the texts, in lower case."""
    return "\n".join(given).lower()


def markup(text: str) -> list[str]:
    """Special tokens and role names of chat templates, in lower case."""
    return [match[0].strip().lower() for match in _MARKUP.finditer(text)]


def declines(text: str) -> bool:
    """Whether a text begins like a model's refusal to answer (English only)."""
    return bool(_DECLINES.match(text.replace("’", "'")))


def repeats(answer: str, question: str) -> bool:
    """Whether an answer repeats the question, ignoring case, punctuation and white space; three words or more."""
    said = re.findall(r"\w+", answer.casefold())
    return len(said) > 2 and said == re.findall(r"\w+", question.casefold())


def says_nothing(text: str) -> bool:
    """Whether a text has no letter, digit or symbol: only white space, invisible characters and punctuation.

    The replacement character for undecodable bytes does not count.
    """
    return all(unicodedata.category(character)[0] not in "LNSM" for character in text.replace("\ufffd", ""))

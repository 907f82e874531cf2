"""Profiles become services: every shipped one, with any field changed, and one line for each error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from polite_flamingo.flamingo.config import GenerationConfig
from serving.config import ServiceConfig, from_profile

PROFILES = Path(__file__).parents[2] / "profiles"
TINY = PROFILES / "tiny.yaml"
SERVED = sorted(
    path.name for path in PROFILES.glob("*.yaml") if "serving" in yaml.safe_load(path.read_text(encoding="utf-8"))
)


def test_the_tiny_profile_and_the_published_weights_can_be_served() -> None:
    assert {"tiny.yaml", "openflamingo-9b-v1.yaml"} <= set(SERVED)


@pytest.mark.parametrize("name", SERVED)
def test_a_shipped_profile_is_a_service_whose_answers_can_be_streamed(name: str) -> None:
    config = from_profile(PROFILES / name)
    assert config.serving.chat.generation.num_beams == 1
    assert (config.serving.chat_name, config.serving.rewriter_name) == ("clever-flamingo", "polite-flamingo")
    assert config.serving.remote_images.hosts == () and config.serving.access.keys == ""
    for pool in (config.serving.scale.chat, config.serving.scale.rewriting, config.serving.scale.scoring):
        assert pool.min <= pool.max


def test_the_published_profile_serves_clever_on_the_engine_and_needs_one_beam_for_the_rewriter() -> None:
    """The paper rewrites with three beams, as the profile says; the service needs another setting."""
    profile = PROFILES / "openflamingo-9b-v1.yaml"
    assert from_profile(profile).rewriter.generation.num_beams == 3
    config = from_profile(profile, {"rewriter.generation.num_beams": 1})
    assert config.rewriter.generation.num_beams == 1
    chat, rewriter = config.serving.chat.flamingo, config.rewriter.flamingo
    assert chat.checkpoints[0] == rewriter.checkpoints[0] and chat.checkpoints[1].endswith("clever_flamingo.pt")
    assert chat.attention == "v1" and chat.lora_in_checkpoint == rewriter.lora_in_checkpoint
    assert config.serving.scale.needs().gpus == 2.5


@pytest.mark.parametrize("name", ["tiny.yaml", "clever-9b.yaml"])
def test_what_is_deployed_on_a_cluster_can_be_streamed_by_both_models(name: str) -> None:
    deployed = yaml.safe_load((PROFILES.parent / "serving" / name).read_text(encoding="utf-8"))
    given = deployed["applications"][0]["args"]
    config = from_profile(PROFILES.parent / given["profile"], given["set"])
    assert config.serving.chat.generation.num_beams == config.rewriter.generation.num_beams == 1
    open_to_all = deployed["http_options"]["host"] != "127.0.0.1"
    assert config.serving.access.keys or not open_to_all, "who listens to other machines asks for keys"


def test_sections_of_other_jobs_are_passed_over() -> None:
    sections = set(yaml.safe_load(TINY.read_text(encoding="utf-8")))
    assert {"training", "distortion"} <= sections, "nothing to pass over"
    assert from_profile(TINY).thresholds.clip == 31.0


def _at(config: ServiceConfig, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("serving.access.keys", "keys.json", "keys.json"),
        ("serving.access.keys", "", ""),
        ("serving.chat_name", "12", "12"),
        ("serving.limits.images", 3, 3),
        ("serving.limits.images", "3", 3),
        ("serving.limits.seconds", 1.5, 1.5),
        ("serving.limits.seconds", 0, 0.0),
        ("serving.chat.generation.do_sample", True, True),
        ("serving.remote_images.hosts", ["a.example", "*.b.example"], ("a.example", "*.b.example")),
        ("serving.remote_images.hosts", [], ()),
        ("serving.remote_images.hosts", "[a.example]", ("a.example",)),
        ("serving.batches.folder", "/data/a b: c", "/data/a b: c"),
        ("serving.chat.flamingo.folder", "out/clever/model", "out/clever/model"),
        ("serving.scale.chat.max", 4, 4),
        ("rewriter.generation.num_beams", 1, 1),
        ("rewriter.device", "cuda:1", "cuda:1"),
        ("scoring.nli", "cross-encoder/nli", "cross-encoder/nli"),
        ("thresholds.clip_single", False, False),
        ("serving.chat.generation", {"num_beams": 1, "top_k": 5}, GenerationConfig(num_beams=1, top_k=5)),
    ],
)  # fmt: skip
def test_any_field_can_be_given_instead(name: str, value: Any, expected: Any) -> None:
    found = _at(from_profile(TINY, {name: value}), name)
    if isinstance(expected, GenerationConfig):
        assert (found.num_beams, found.top_k) == (1, 5)
    else:
        assert found == expected and type(found) is type(expected)


def test_several_at_once_leave_the_rest_as_it_was() -> None:
    plain = from_profile(TINY)
    changed = from_profile(TINY, {"serving.limits.images": 2, "serving.access.requests_per_minute": 60})
    assert (changed.serving.limits.images, changed.serving.access.requests_per_minute) == (2, 60)
    assert changed.rewriter == plain.rewriter and changed.serving.chat == plain.serving.chat
    assert changed.serving.limits.choices == plain.serving.limits.choices


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("serving.limits.imges", 3, "imges"),
        ("serving.limits.images", "many", "many"),
        ("serving.limits.images", 1.5, "1.5"),
        ("serving.limits.images", None, "images"),
        ("serving.scale.chat.min", 5, "1 <= min <= max"),
        ("serving.chat.generation.top_p", 0, "top_p"),
        ("serving.chat.engine.slots", 0, "slots"),
        ("serving.remote_images.hosts", {"a": 1}, "hosts"),
        ("nothing", 1, "nothing"),
        ("training.base", "x", "training"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_names_it(name: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match="profile") as refused:
        from_profile(TINY, {name: value})
    message = str(refused.value)
    assert says in message and "\n" not in message and str(TINY) in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("serving: [1, 2]\nrewriter: {flamingo: {folder: x}}\n", "serving"),
        ("serving: {chat: {flamingo: {folder: x}}}\n", "no section `rewriter`"),
        ("rewriter: {flamingo: {folder: x}}\n", "no section `serving`"),
        ("training: {}\n", "no section `rewriter` and `serving`"),
        ("rewriter: {flamingo: {folder: x}}\nserving: {chat: {flamingo: {}}}\n", "folder"),
        ("rewriter: {flamingo: {folder: x}}\nserving: {chat: {flamingo: {folder: x}}, limts: {images: 3}}\n", "limts"),
        (
            "rewriter: {flamingo: {folder: x}}\nserving: {chat: {flamingo: {folder: x}}, limts: {}}\n",
            "mean serving.lim",
        ),
        ("a: [\n", "expected"),
        ("- a\n", "sections such as"),
        ("", "sections such as"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml") as refused:
        from_profile(profile)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_profile_that_is_not_there_or_not_text_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        from_profile(tmp_path / "none.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"picture\.yaml"):
        from_profile(tmp_path / "picture.yaml")

"""LLaMA-Factory's folder: its own demo, and datasets whose columns and roles have other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from polite_flamingo.sample import Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.records.source import SourceOptions, keyed_records
from polite_flamingo.sources.registry import SOURCES
from tests.support.raw_dataset import Raw, both

MESSAGES = {"messages": "messages", "images": "images"}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
INFO = {
    "mllm_demo": {"file_name": "mllm_demo.json", "formatting": "sharegpt", "columns": MESSAGES, "tags": TAGS},
    "alpaca_mm": {"file_name": "alpaca.json", "columns": {"prompt": "ask", "query": "about", "response": "say",
                                                          "history": "before", "images": "pics", "system": "sys"}},
    "plain": {"file_name": "plain.json"}, "chats": {"file_name": "chats.json", "formatting": "sharegpt"},
    "odd": {"file_name": "odd/data", "formatting": "sharegpt", "columns": {"messages": "talk", "images": "shown"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "U", "assistant_tag": "B",
                     "system_tag": "S"}},
    "dpo": {"file_name": "dpo.json", "ranking": True, "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "better", "rejected": "worse"}},
    "kto": {"file_name": "kto.json", "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "flag"},
            "tags": TAGS, "num_samples": 2},
    "hub": {"hf_hub_url": "me/mine"},
}  # fmt: skip
DEMO = [  # the first record of LLaMA-Factory's data/mllm_demo.json, and one of two images
    {"messages": [{"content": "<image>Who are they?", "role": "user"},
                  {"content": "They're Kane and Gretzka from Bayern Munich.", "role": "assistant"},
                  {"content": "What are they doing?", "role": "user"},
                  {"content": "They are celebrating on the soccer field.", "role": "assistant"}],
     "images": ["mllm_demo_data/1.jpg"]},
    {"messages": [{"content": "<image><image>Same?", "role": "user"}, {"content": "No.", "role": "assistant"}],
     "images": ["mllm_demo_data/1.jpg", "mllm_demo_data/2.jpg"]},
]  # fmt: skip


@pytest.fixture
def data(raw: Raw) -> Path:
    """LLaMA-Factory's `data`, which is the folder of the images too."""

    def write(name: str, content: Any) -> None:
        (raw.images / name).write_text(json.dumps(content))

    for name in ("1.jpg", "2.jpg"):
        raw.image(f"mllm_demo_data/{name}")
    write("dataset_info.json", INFO)
    write("mllm_demo.json", DEMO)
    write("alpaca.json", [{"ask": "<image>What?", "about": "Briefly.", "say": "Red.", "before": [["Hi", "Ho"]],
                           "sys": "S", "pics": ["mllm_demo_data/2.jpg"], "instruction": "its own column"}])  # fmt: skip
    write("plain.json", [{"instruction": "Hi", "input": "", "output": "Ho"}])
    write("chats.json", [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hey"}]}])
    (raw.images / "odd/data").mkdir(parents=True)
    talk = [{"who": "S", "says": "Be brief."}, {"who": "U", "says": "<image>What?"}, {"who": "B", "says": "Red."}]
    rows = [{"talk": talk, "shown": [{"bytes": raw.image("mllm_demo_data/1.jpg"), "path": None}]}]
    text = datasets.Value("string")
    columns = {"talk": datasets.List({"who": text, "says": text}), "shown": datasets.List(datasets.Image())}
    made = datasets.Dataset.from_list(rows, features=datasets.Features(columns))
    made.to_parquet(raw.images / "odd/data/train-00000-of-00001.parquet")
    answers = {"better": {"from": "gpt", "value": "Yes."}, "worse": {"from": "gpt", "value": "No."}}
    write("dpo.json", [{"conversations": [{"from": "human", "value": "Sure?"}], **answers}])
    write("kto.json", [{"messages": DEMO[0]["messages"][2:], "flag": flag} for flag in (True, False)])
    return raw.images


def read(data: Path, names: str = "", *annotations: Path) -> tuple[list[Sample], list[str]]:
    extra = {"dataset": names} if names else {}
    options = SourceOptions(annotations=annotations or (data,), images=data, extra=extra)
    samples, quarantined = both(SOURCES["llama_factory"].read(options))
    return samples, [f"{row.payload} {row.reason}" for row in quarantined]


def pairs(sample: Sample) -> list[tuple[str, str]]:
    return [(turn.instruction, turn.response) for turn in sample.turns]


def test_each_dataset_by_its_own_columns_and_tags(data: Path) -> None:
    samples, quarantined = read(data)
    assert quarantined == ["kto.json#kto[1] excluded"]
    assert [pairs(sample) for sample in samples] == [
        [("<image>Who are they?", "They're Kane and Gretzka from Bayern Munich."),
         ("What are they doing?", "They are celebrating on the soccer field.")],
        [("<image><image>Same?", "No.")],
        [("Hi", "Ho"), ("<image>What?\n\nBriefly.", "Red.")],
        [("Hi", "Ho")],
        [("Hi", "Hey")],
        [("<image>What?", "Red.")],
        [("Sure?", "Yes.")],
        [("What are they doing?", "They are celebrating on the soccer field.")],
    ]  # fmt: skip
    assert [len(sample.images) for sample in samples] == [1, 2, 1, 0, 0, 1, 0, 0]
    alpaca, odd, dpo = samples[2], samples[5], samples[6]
    assert (alpaca.meta["system"], alpaca.meta["column.instruction"]) == ("S", "its own column")
    assert (odd.meta["system"], odd.meta["source"]) == ("Be brief.", "odd/data/train-00000-of-00001.parquet#odd[0]")
    assert dpo.meta["rejected"] == {"from": "gpt", "value": "No."}


def test_datasets_are_chosen_by_name_and_what_is_not_obeyed_is_said(data: Path) -> None:
    assert [pairs(sample)[0][0] for sample in read(data, "chats,odd")[0]] == ["Hi", "<image>What?"]
    scratch, source = Scratch(), SOURCES["llama_factory"]
    list(keyed_records(source, SourceOptions(annotations=(data,)), scratch))
    assert scratch.notes["dataset_info.json: datasets on a hub are left out"] == 1
    assert "dataset_info.json: 'kto': num_samples is not obeyed" in scratch.notes
    samples, _ = read(data, "", data / "mllm_demo.json")  # as llava reads it
    assert [sample.meta["source"] for sample in samples] == [f"mllm_demo.json#conversations[{n}]" for n in (0, 1)]


@pytest.mark.parametrize(
    ("info", "names", "says"),
    [
        (INFO, "none", "has no dataset 'none'; it has mllm_demo, alpaca_mm"),
        (INFO, "hub", "'hub' lies on a hub"),
        ({"a": {"file_name": "gone.json"}}, "", "gone.json"),
        ({"a": {"file_name": "../x.json"}}, "", "leads out of the folder"),
        ({"a": {"file_name": "/etc/passwd"}}, "", "leads out of the folder"),
        ({"a": {"file_name": 3}}, "", "must have strings"),
        ({"a": {"file_name": "b.json", "columns": ["x"]}}, "", "must have strings"),
        ({"a": {"file_name": "b.json", "tags": {"role_tag": None}}}, "", "must have strings"),
        ({"description": "", "features": {}}, "", "that `datasets` saved is read by --source llava"),
        (["a"], "", "is not LLaMA-Factory's"),
    ],
)
def test_a_list_of_datasets_that_cannot_be_followed_is_one_line(data: Path, info: Any, names: str, says: str) -> None:
    (data / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(SourceError) as caught:
        read(data, names)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_junk_in_a_record_costs_only_itself(data: Path) -> None:
    junk = [3, None, [], {"messages": 3}, {"messages": [3, {"role": [], "content": 1}]}, {"images": {}}, DEMO[0]]
    (data / "mllm_demo.json").write_text(json.dumps(junk))
    samples, quarantined = read(data, "mllm_demo")
    assert len(samples) == 1 and len(quarantined) == 6

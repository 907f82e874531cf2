"""Multiple-choice questions about diagrams: IconQA and AI2D, one small JSON file per question or image.

The answers are part of the question (`multiple_choice`), and the response is the text of the right one. In IconQA's
`choose_img` they are images, which the question shows in their order, and the response is the letter. Questions of AI2D
that mention letters ("What is A?") are about a copy of the diagram whose labels are letters, and never get the
original. Both layouts are known from single files that others quote, and from others' loaders.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import IMAGE_MARK, BadSample, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, as_text, id_field, required, text_field
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.small_files import files_in, printable_name, read_small_json, read_text
from polite_flamingo.sources.records.instructions import multiple_choice, option_letter, with_image_marks
from polite_flamingo.sources.records.source import Context, Place, Records, Source, SourceOptions
from polite_flamingo.sources.records.vqa_samples import (
    NO_OPTION,
    answer_of,
    index_of,
    options_of,
    question_of,
    vqa_sample,
)
from polite_flamingo.storage.remote_path import walk


def iconqa_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the `data.json` of each folder, with the folder's last three names: SPLIT, kind of question, id."""
    for given in options.annotations:
        for file in _questions_in(given):
            folder = file.absolute().parts[-4:-1]
            place = Place(file="/".join(printable_name(part) for part in (*map(Path, folder), file)))
            try:
                names = [as_text(part, "the name of a folder") for part in folder]
                split = names[0] if names and names[0] in ("train", "val", "test") else ""
                record = as_object(read_small_json(file, given if given.is_dir() else None))
                yield place, 0, record | {"folder": names, "split": split}
            except BadSample as bad:
                yield place, 0, bad


def _questions_in(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        if not given.is_file():
            raise SourceError(f"{given} does not exist: pass iconqa/SPLIT, or one of its folders")
        yield given
        return
    found = False
    for folder, inside, files in walk(given):
        inside.sort()
        if "data.json" in files:
            found = True
            yield folder / "data.json"
    if not found:
        raise SourceError(f"no folder in {given} holds a data.json: pass iconqa/SPLIT, or one of its folders")


def build_iconqa(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question."""
    question, kind, folder = question_of(record), text_field(record, "ques_type"), record["folder"]
    places = ["/".join(folder[start:]) for start in range(len(folder))]
    names = ["image.png"]
    if kind == "fill_in_blank":
        asked, answer = question, answer_of(record)
    elif kind in ("choose_txt", "choose_img"):
        options = options_of(record)
        index = index_of(record, options)
        asked, answer = multiple_choice(question, options), options[index]
        if kind == "choose_img":
            asked, answer = multiple_choice(question, [IMAGE_MARK] * len(options)), option_letter(index)
            names += options
    else:
        raise BadSample("bad_field", "field 'ques_type' must be choose_txt, choose_img or fill_in_blank")
    pictures = [context.images.read(*(f"{place}/{name}" for place in places))[0] for name in names]
    return vqa_sample(key, with_image_marks(asked), answer, *pictures, image_id=folder[-1], kind=kind)


def ai2d_records(options: SourceOptions, scratch: Scratch) -> Records:
    """Yield the questions of each image; images whose numbers a `.csv` lists are the test split's."""
    lists = [path for path in options.annotations if path.suffix == ".csv"]
    tested = {number.strip() for path in lists for number in read_text(path).split()}
    for given in options.annotations:
        for file in () if given in lists else files_in(given, ".json", scratch):
            place = Place(file=printable_name(file), part="questions")
            try:
                content = as_object(read_small_json(file, given if given.is_dir() else None))
                image, questions = text_field(content, "imageName"), as_object(required(content, "questions"))
                if not questions:
                    raise BadSample("missing_annotation", "the image has no questions")
            except BadSample as bad:
                yield place, 0, bad
                continue
            split = ("test" if image.split(".")[0] in tested else "train") if lists else ""
            for number, (question, fields) in enumerate(questions.items()):
                more = {"question": question, "imageName": image, "split": split}
                yield place, number, fields | more if isinstance(fields, dict) else fields


def build_ai2d(key: str, record: dict[str, Any], context: Context) -> Sample:
    """Make the sample of a question. With `abcLabel` it is about the diagram whose labels are letters."""
    question, options, name = question_of(record), options_of(record, "answerTexts"), text_field(record, "imageName")
    right = options[index_of(record, options, "correctAnswer")]
    if record.get("abcLabel") is True:
        names = [f"abc_images/{name}", f"ai2d/abc_images/{name}"]
    else:
        names = [name, f"images/{name}", f"ai2d/images/{name}"]
    image, _ = context.images.read(*names)
    asked = multiple_choice(question, [answer for answer in options if answer not in NO_OPTION])
    return vqa_sample(key, with_image_marks(asked), right, image, image_id=name)


_source = functools.partial(Source, use="evaluation", task="vqa", evidence="transcribed", split_in_record=True)

ICONQA = _source(
    name="iconqa",
    title="IconQA",
    files="iconqa/SPLIT (a folder: choose_txt, choose_img, fill_in_blank, each with <id>/data.json); <id>/image.png",
    published="iconqa.github.io",
    licence="CC BY-NC-SA 4.0",
    records=iconqa_records,
    identify=lambda record: id_field({"folder name": "-".join(record["folder"][1:])}, "folder name"),
    build=build_iconqa,
)
AI2D = _source(
    name="ai2d",
    title="AI2D",
    files="questions/ (a folder, or single .json files), to tell the test split ai2d_test_ids.csv; images/<imageName>, "
    "and for questions on letters abc_images/<imageName>",
    published="prior.allenai.org/projects/diagram-understanding",
    records=ai2d_records,
    identify=lambda record: id_field(as_object(record), "questionId"),
    build=build_ai2d,
)

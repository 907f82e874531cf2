"""PointQA ("Point and Ask"): questions about a point; a coloured arrow is drawn at it, and the instruction names it.

All files are an object of image id -> value, of images of Visual Genome (Intent: of Pascal VOC). The values:

    Local       [{question, all_ans, all_objs, points[{x, y, ans}]}]: one question about several objects, flattened into
                one sample per point. **The answer is the point's own.** `all_ans` is the *set* of answers in any order,
                shorter than `points` where answers repeat (the authors' create_localqa_dataset.py makes it so):
                published converters that walk both side by side give objects each other's answers.
    LookTwice   [{obj_question, super_question, general_question, ans, point, bbox, …}]: one thing asked at three levels
                of ambiguity ("How many of these dogs, of these animals, of these are there?"); the key chooses one.
    Spatial     [{question, answer, point}]
    Verbal      [{question, answer}]: Spatial's questions with the object put into words; no point, hence no arrow.
    Intent      {"x_y": [a label from each worker]}: 1 to 20 a whole object of Pascal VOC's classes, 21 to 40 a part of
                one, negative where the worker could not tell; the majority counts. Also intentqa_vqa.json:
                [{question, ans, point}].
    General     never published: the authors' README and their issue 5 leave it at "coming soon". It is read in
                Spatial's layout, which all their files with one point per question share (`ans` for `answer` as well).

Lists of image ids (localqa_train_imgs.json, …) may be passed too: then an image's split comes from the name of
its list, or is "unlisted". PF-1M drew its arrows on Local and LookTwice: the paper has one count for both.

There are excerpts of Spatial, Verbal and Intent (as points); the rest is known from the authors' README and scripts,
and from other people's code that reads their files.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polite_flamingo.sample import BadSample, Sample
from polite_flamingo.sources.reading.errors import SourceError
from polite_flamingo.sources.reading.field_checks import as_object, finite_number, id_field, list_field, required
from polite_flamingo.sources.reading.scratch import Scratch
from polite_flamingo.sources.reading.streaming import elements, entries, is_list
from polite_flamingo.sources.records.drawn_marks import colour_of, draw_arrow
from polite_flamingo.sources.records.instructions import instruction, pick, with_image_marks
from polite_flamingo.sources.records.readers import keep_fields
from polite_flamingo.sources.records.source import Builder, Context, Place, Reader, Records, Source, SourceOptions
from polite_flamingo.sources.records.vqa_samples import UNLISTED, answer_of, question_of, vqa_sample

LEVELS = ("general_question", "obj_question", "super_question")

VISUAL_GENOME = ("", "VG_100K/", "VG_100K_2/", "images/", "images/VG_100K/", "images2/VG_100K_2/")
PASCAL_VOC = ("", "JPEGImages/")

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "TV monitor",
)  # fmt: skip
"""Pascal VOC's classes, in the order of the labels 1 to 20."""

INTENT_QUESTION = "What is this referring to?"
"""The authors' own wording (objpart_vqa.py)."""

Rows = Iterator[tuple[str, int, Any]]
"""(part of an image's value that holds the record, "" for all of it; the record's number there; the record)."""

_FIELDS = ("question", *LEVELS, "answer", "ans")


def reader(rows: Callable[[Any], Rows]) -> Reader:
    """Make the `records` function of a dataset; `rows` takes the value of an image apart.

    A record is {number, qa or labels, point} from `rows`, with the image's id and, if lists are given, its split.
    """

    def records(options: SourceOptions, scratch: Scratch) -> Records:
        splits: dict[str, str] = {}
        files = []
        for path in options.annotations:
            if is_list(path):
                splits |= dict.fromkeys(_listed(path), _split_named(path))
            else:
                files.append(path)
        if not files:
            raise SourceError("these files are lists of images: pass the one that holds the questions too")
        for path in files:
            for count, (image_id, value) in enumerate(entries(path)):
                common = {"image": image_id} | ({"split": splits.get(image_id, UNLISTED)} if splits else {})
                for part, number, record in rows(value):
                    place = Place(file=path.name, part=f"images[{count}]{part}")
                    yield place, number, record if isinstance(record, BadSample) else record | common

    return records


def _listed(path: Path) -> Iterator[str]:
    for image_id in elements(path):
        if isinstance(image_id, bool) or not isinstance(image_id, int | str):
            raise SourceError(f"{path} is neither an object of images nor a list of image ids; see --list")
        yield str(image_id)


def _split_named(path: Path) -> str:
    found = re.search("train|val|testdev|testfinal|test", path.name)
    if not found:
        raise SourceError(f"{path} is a list of images, but its name holds none of train, val, test: rename it")
    return found.group()


def question_rows(value: Any) -> Rows:
    """Yield the questions of a list, each with its point."""
    if not isinstance(value, list):
        yield "", 0, BadSample("bad_field", f"the questions of an image must be a list, not {type(value).__name__}")
        return
    for number, question in enumerate(value):
        point = question.get("point") if isinstance(question, dict) else None
        yield ".questions", number, {"number": f"{number}", "qa": keep_fields(question, _FIELDS), "point": point}


def local_rows(value: Any) -> Rows:
    """Yield the points of a list of questions, each with a list of points."""
    for part, number, row in question_rows(value):
        if isinstance(row, BadSample):
            yield part, number, row
            continue
        try:
            points = _parallel(as_object(value[number]))
        except BadSample as bad:
            yield part, number, bad
            continue
        for count, point in enumerate(points):
            record = row | {"number": f"{number}-{count}", "point": point}
            yield f"{part}[{number}].points", count, point if isinstance(point, BadSample) else record


def _parallel(question: dict[str, Any]) -> list[Any]:
    """List the points of a question, with a `BadSample` in place of one whose answer is none of the question's."""
    points, answers = list_field(question, "points"), list_field(question, "all_ans")
    objects = list_field(question, "all_objs") if "all_objs" in question else points
    if len(objects) != len(points):
        what = "which point is which object's?"
        raise BadSample("bad_field", f"{len(points)} points for {len(objects)} objects: {what}")
    if not points:
        raise BadSample("missing_annotation", "the question has no point")
    stray = BadSample("bad_field", "the answer of this point is not in 'all_ans'")
    return [stray if isinstance(point, dict) and point.get("ans") not in answers else point for point in points]


def intent_rows(value: Any) -> Rows:
    """Yield points with their workers' labels, or, from intentqa_vqa.json, a list of questions."""
    if not isinstance(value, dict):
        yield from question_rows(value)
        return
    for number, (where, labels) in enumerate(value.items()):
        yield ".points", number, {"number": where, "labels": labels, "point": _point(where)}


def _point(where: str) -> dict[str, int] | None:
    found = re.fullmatch(r"([0-9]{1,6})_([0-9]{1,6})", where)
    return {"x": int(found[1]), "y": int(found[2])} if found else None


def identify(record: dict[str, Any]) -> str:
    """Return the image's id with the question's number, or with the point."""
    return id_field({"image and number": f"{record['image']}-{record['number']}"}, "image and number")


def builder(
    *, questions: tuple[str, ...] = ("question",), folders: tuple[str, ...] = VISUAL_GENOME, arrow: bool = True
) -> Builder:
    """Make the `build` function of a dataset; if there are several fields for the question, the key chooses one."""

    def build(key: str, record: dict[str, Any], context: Context) -> Sample:
        point = record["point"] if arrow else {}
        if not isinstance(point, dict):
            raise BadSample("bad_field", "the point must have the fields x and y, or in Intent be written x_y")
        if "labels" in record:
            question, answer = INTENT_QUESTION, agreed_meaning(record["labels"])
        else:
            qa = as_object(record["qa"])
            question = question_of(qa, pick(questions, key, " question"))
            said = qa if "answer" in qa or "ans" in qa else point
            answer = answer_of(said, "answer" if "answer" in said else "ans")
        image_id = id_field(record, "image")
        image, _ = context.images.read(*(f"{folder}{image_id}.jpg" for folder in folders))
        meta: dict[str, Any] = {"image_id": image_id}
        put = with_image_marks(question)
        if arrow:
            x, y = (finite_number(required(point, axis), f"field {axis!r}") for axis in "xy")
            colour = colour_of(key)
            image = draw_arrow(image, x, y, colour)
            put = instruction("pointing", key, colour=colour, question=question)
            meta |= {"point": [x, y], "mark": f"{colour} arrow"}
        return vqa_sample(key, put, answer, image, **meta)

    return build


def agreed_meaning(labels: Any) -> str:
    """Word what most workers took a point for. If two labels are equally frequent, the authors leave the point out."""
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise BadSample("bad_field", "the labels of a point must be a list of whole numbers")
    (label, count), *others = Counter(labels).most_common() or [(-1, 0)]
    if label < 0 or (others and others[0][1] == count):
        raise BadSample("missing_annotation", f"the {len(labels)} workers do not agree on what the point means")
    if not 1 <= label <= 2 * len(CLASSES):
        raise BadSample("bad_field", f"label {label} must be from 1 to {2 * len(CLASSES)}")
    part, name = divmod(label - 1, len(CLASSES))
    return f"a part of the {CLASSES[name]}" if part else f"the whole {CLASSES[name]}"


_source = functools.partial(
    Source, task="vqa", published="github.com/princetonvisualai/pointingqa", identify=identify, split_in_record=True
)

LOCAL = _source(
    name="pointqa_local",
    title="PointQA Local",
    use="PF-1M",
    files="localqa_dataset.json, localqa_SPLIT_imgs.json to tell splits; VG_100K/<image id>.jpg and VG_100K_2/",
    evidence="documentation",
    adopted=67_282,
    group="PointQA",
    records=reader(local_rows),
    build=builder(),
)
LOOKTWICE = _source(
    name="pointqa_looktwice",
    title="PointQA LookTwice",
    use="PF-1M",
    files="looktwiceqa_dataset.json, looktwiceqa_SPLIT_imgs.json to tell splits; images as for pointqa_local",
    evidence="documentation",
    adopted=67_282,
    group="PointQA",
    records=reader(question_rows),
    build=builder(questions=LEVELS),
)
GENERAL = _source(
    name="pointqa_general",
    title="PointQA General",
    use="other",
    files="not published yet: a file like spatial_dataset.json, lists of images of splits; images as for pointqa_local",
    evidence="documentation",
    records=reader(question_rows),
    build=builder(),
)
SPATIAL = _source(
    name="pointqa_spatial",
    title="PointQA Spatial",
    use="other",
    files="spatial_dataset.json, SPLIT_imgs_vs.json to tell splits; images as for pointqa_local",
    evidence="real file",
    records=reader(question_rows),
    build=builder(),
)
VERBAL = _source(
    name="pointqa_verbal",
    title="PointQA Verbal",
    use="other",
    files="verbal_dataset.json, SPLIT_imgs_vs.json to tell splits; images as for pointqa_local",
    evidence="real file",
    records=reader(question_rows),
    build=builder(arrow=False),
)
INTENT = _source(
    name="pointqa_intent",
    title="PointQA Intent",
    use="other",
    files="pascal_gt_clean.json or intentqa_vqa.json, intentqa_SPLIT_imgs.json; JPEGImages/<image id>.jpg of VOC",
    evidence="real file",
    records=reader(intent_rows),
    build=builder(folders=PASCAL_VOC),
)

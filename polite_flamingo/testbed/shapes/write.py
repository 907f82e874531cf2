"""Store Shapes' annotations on disk in the real datasets' own formats, which the ordinary adapters read.

Seven datasets cover the five image categories of PF-1M: COCO captions with instances, ELEVATER with its knowledge
files, LEVIR-CC with two images per sample, A-OKVQA with rationales, and VQA-v2, CLEVR and GQA. With `damage`, a few
pictures are broken as real downloads are (cut short, empty, absent), so that quarantine has something to show.

Real annotators also surprise a rewriter. `hard` is the share of samples that do: words the tiny models never learnt,
crowded pictures, answers that are already polite, captions repeated many times. What happens to them is not planned:
the filters have to catch what goes wrong, and the report shows it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from polite_flamingo.sources.records.source import SourceOptions
from polite_flamingo.testbed.shapes.captions import describe, polite_change, terse_captions, terse_changes, terse_class
from polite_flamingo.testbed.shapes.draw import draw, encode
from polite_flamingo.testbed.shapes.questions import Kind, Question, ask
from polite_flamingo.testbed.shapes.scene import CANVAS, SHAPES, Scene, random_change, random_scene

SPLIT = "val"

KINDS_OF: dict[str, tuple[Kind, ...]] = {
    "vqa_v2": ("colour", "count", "exists", "ground", "pattern"),
    "clevr": ("count", "beside", "size", "exists"),
    "gqa": ("shape_at", "where", "beside", "colour"),
    "aokvqa": ("colour", "shape_at", "count"),
}
QUESTIONS_PER_SCENE = 3


def allowed_of(kinds: tuple[Kind, ...], held_out: Collection[Kind]) -> tuple[Kind, ...]:
    """Return the kinds that may be asked. Raises `ValueError` if some scenes would allow no question."""
    allowed = tuple(kind for kind in kinds if kind not in held_out)
    if not set(allowed) - {"colour", "beside"}:  # a scene may have no second thing, or two of each shape
        raise ValueError(f"held_out must leave one of {', '.join(k for k in kinds if k not in ('colour', 'beside'))}")
    return allowed


RARE_WORDS = {
    "red": "crimson", "green": "olive", "blue": "navy", "yellow": "golden", "purple": "violet", "orange": "amber",
    "circle": "disc", "square": "box", "triangle": "wedge", "star": "asterisk", "cross": "plus", "heart": "love sign",
    "small": "tiny", "large": "huge", "yes": "yeah", "no": "nope", "0": "none", "1": "a single one", "2": "a pair",
}  # fmt: skip
"""Words of an unusual annotator; none of them is in the tiny models' training data."""


def write_raw(
    folder: Path,
    *,
    samples: int = 180,
    seed: int | str = 0,
    damage: bool = True,
    hard: float = 0.12,
    held_out: Collection[Kind] = (),
) -> dict[str, SourceOptions]:
    """Write about `samples` samples of each dataset under `folder/NAME/`; `hard` and `damage` as above.

    Args:
        folder: the folder to write; it is created.
        samples: approximate number of samples per dataset.
        seed: the same seed writes the same bytes.
        damage: whether to break three pictures of each dataset.
        hard: share of samples that surprise.
        held_out: kinds of question that are never asked, so that evaluation can ask them out of domain.

    Returns:
        Source name -> options for its adapter: `SOURCES[name].read(options)`.

    Raises:
        ValueError: fewer than 9 samples (the smallest dataset would have fewer pictures than are damaged), or all kinds
            of question of a dataset are held out.
    """
    if samples < 9:
        raise ValueError(f"samples must be at least 9, not {samples}")
    options = {}
    for name, write in _WRITERS.items():
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"{name}-{seed}")
        options[name] = write(Annotator(rng, hard, held_out=held_out), home, samples)
        if damage:
            _damage(rng, home)
    return options


class Annotator:
    """Samples scenes and words, some of them hard; asks no question of a held-out kind.

    `crowd`, if given, lists the possible numbers of things per scene.
    """

    def __init__(
        self, rng: random.Random, hard: float = 0.0, *, held_out: Collection[Kind] = (), crowd: tuple[int, ...] = ()
    ):
        self.rng = rng
        self._hard = hard
        self._held_out = held_out
        self._crowd = crowd

    def scene(self) -> Scene:
        """Return a scene, sometimes with six or seven things; training has at most four."""
        if self._crowd:
            return random_scene(self.rng, self.rng.choice(self._crowd))
        return random_scene(self.rng, self.rng.choice((6, 7)) if self.rng.random() < self._hard / 3 else None)

    def asked(self, kinds: tuple[Kind, ...], samples: int) -> list[tuple[int, Scene, Question]]:
        """Return image numbers, scenes and questions; up to `QUESTIONS_PER_SCENE` questions share a picture."""
        allowed = allowed_of(kinds, self._held_out)
        asked: list[tuple[int, Scene, Question]] = []
        number = 0
        while len(asked) < samples:
            scene, texts = self.scene(), set()
            number += 1
            for _ in range(QUESTIONS_PER_SCENE):
                question = ask(self.rng, scene, allowed)
                if question.text not in texts:
                    texts.add(question.text)
                    asked.append((number, scene, question))
        return asked[:samples]

    def words(self, text: str, polite: str) -> str:
        """Return `text`, or what an unusual annotator writes instead; `polite` is what an assistant would say."""
        if self.rng.random() >= self._hard:
            return text
        way = self.rng.choice(("rare", "rare", "rare", "polite", "again"))
        if way == "polite":
            return polite
        if way == "again":
            return " ".join([text] * self.rng.randint(4, 12))
        return " ".join(RARE_WORDS.get(word, word) for word in text.split())


def save_picture(scene: Scene, path: Path) -> None:
    """Draw a scene to a file; the name's extension gives the encoding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(draw(scene), path.suffix.removeprefix(".")))


def save_json(path: Path, content: Any) -> Path:
    """Write a JSON file and return its path."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def _coco(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    rng = annotator.rng
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in range(1, samples + 1):
        scene = annotator.scene()
        name = f"COCO_val2014_{number:012d}.jpg"
        save_picture(scene, home / "val2014" / name)
        images.append({"id": number, "file_name": name, "width": CANVAS, "height": CANVAS})
        terse = terse_captions(rng, scene)
        for caption in terse:
            said = annotator.words(caption, describe(scene, terse).split("\n")[0])
            captions.append({"image_id": number, "id": len(captions) + 1, "caption": said})
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            boxes.append({
                "id": len(boxes) + 1, "image_id": number, "category_id": SHAPES.index(thing.shape) + 1, "iscrowd": 0,
                "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
                "area": round((x2 - x1) * (y2 - y1), 2),
            })  # fmt: skip
    rng.shuffle(images)  # annotation order and image order differ, as in the real file
    info = {"description": "Shapes in the format of COCO 2014", "year": 2026}
    categories = [{"id": i + 1, "name": shape, "supercategory": "shape"} for i, shape in enumerate(SHAPES)]
    files = (
        save_json(home / "captions_val2014.json", {"info": info, "images": images, "annotations": captions}),
        save_json(
            home / "instances_val2014.json",
            {"info": info, "images": images, "annotations": boxes, "categories": categories},
        ),
    )
    return SourceOptions(annotations=files, images=home, split=SPLIT)


def _elevater(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    lines = []
    for number in range(samples // 3):
        scene = random_scene(annotator.rng, 1)
        shape = scene.things[0].shape
        save_picture(scene, home / "images" / f"{number:05d}.png")
        lines.append(f"{number:05d}.png {SHAPES.index(shape)}")
    (home / "val.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = [terse_class(shape) for shape in SHAPES]
    files = (
        save_json(home / "class_map.json", {"shapes": list(SHAPES)}),
        save_json(home / "template_map.json", {"shapes": ["a photo of a {}."]}),
        save_json(home / "shapes_knowledge.tsv", [
            {"classname": name, "def_wiki": definition, "path_wn": "", "def_wn": None} for name, definition, _ in facts
        ]),
        save_json(home / "GPT3_shapes.tsv", [{"classname": name, "gpt3": [f" {more}"]} for name, _, more in facts]),
        home / "val.txt",
    )  # fmt: skip
    return SourceOptions(annotations=files, images=home / "images", split=SPLIT)


def _levir(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    rng = annotator.rng
    images = []
    for number in range(samples):
        before = random_scene(rng)
        after, change = random_change(rng, before)
        name = f"{SPLIT}_{number:06d}.png"
        save_picture(before, home / "images" / SPLIT / "A" / name)
        save_picture(after, home / "images" / SPLIT / "B" / name)
        sentences = [
            {
                "tokens": sentence.split(),
                "raw": f" {annotator.words(sentence, polite_change(change))} .",
                "imgid": number,
                "sentid": number * 5 + place,
            }
            for place, sentence in enumerate(terse_changes(rng, change))
        ]
        images.append({
            "filepath": SPLIT, "filename": name, "imgid": number, "split": SPLIT, "sentences": sentences,
            "changeflag": int(change.kind != "none"),
        })  # fmt: skip
    file = save_json(home / "LevirCCcaptions.json", {"dataset": "LEVIR-CC", "images": images})
    return SourceOptions(annotations=(file,), images=home, split=SPLIT)


def _vqa(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    rng = annotator.rng
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, scene, question in annotator.asked(KINDS_OF["vqa_v2"], samples):
        save_picture(scene, home / "val2014" / f"COCO_val2014_{image:012d}.jpg")
        question_id = image * 1000 + len(questions)
        questions.append({"image_id": image, "question": question.text, "question_id": question_id})
        said = annotator.words(question.answer, question.polite())
        answers = [said] * rng.randint(7, 10)
        answers += rng.choices(question.others, k=10 - len(answers))
        rng.shuffle(answers)
        annotations.append({
            "question_id": question_id, "image_id": image, "question_type": "none of the above",
            "multiple_choice_answer": said, "answer_type": "other",
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(answers)],
        })  # fmt: skip
    head = {"data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    files = (
        save_json(home / "v2_OpenEnded_mscoco_val2014_questions.json",
              head | {"task_type": "Open-Ended", "questions": questions}),
        save_json(home / "v2_mscoco_val2014_annotations.json", head | {"annotations": annotations}),
    )  # fmt: skip
    return SourceOptions(annotations=files, images=home, split=SPLIT)


def _clevr(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    questions: list[dict[str, Any]] = []
    for image, scene, question in annotator.asked(KINDS_OF["clevr"], samples):
        name = f"CLEVR_val_{image:06d}.png"
        save_picture(scene, home / "images" / SPLIT / name)
        questions.append({
            "question_index": len(questions), "image_index": image, "image_filename": name, "split": SPLIT,
            "question": question.text, "answer": annotator.words(question.answer, question.polite()),
        })  # fmt: skip
    file = save_json(home / "CLEVR_val_questions.json", {"info": {"split": SPLIT}, "questions": questions})
    return SourceOptions(annotations=(file,), images=home, split=SPLIT)


def _gqa(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    questions: dict[str, Any] = {}
    for image, scene, question in annotator.asked(KINDS_OF["gqa"], samples):
        save_picture(scene, home / "images" / f"{image}.jpg")
        questions[f"{len(questions):08d}"] = {
            "imageId": str(image), "question": question.text,
            "answer": annotator.words(question.answer, question.polite()),
            "fullAnswer": question.polite(), "isBalanced": True,
        }  # fmt: skip
    file = save_json(home / "val_balanced_questions.json", questions)
    return SourceOptions(annotations=(file,), images=home, split=SPLIT)


def _aokvqa(annotator: Annotator, home: Path, samples: int) -> SourceOptions:
    records: list[dict[str, Any]] = []
    for image, scene, question in annotator.asked(KINDS_OF["aokvqa"], samples):
        save_picture(scene, home / "val2017" / f"{image:012d}.jpg")
        said = annotator.words(question.answer, question.polite())
        choices = [said, *question.others[:3]]
        annotator.rng.shuffle(choices)
        records.append({
            "split": SPLIT, "image_id": image, "question_id": f"shapes{len(records):016d}", "question": question.text,
            "choices": choices, "correct_choice_idx": choices.index(said),
            "direct_answers": [said] * 10, "difficult_direct_answer": False,
            "rationales": [question.reason],
        })  # fmt: skip
    file = save_json(home / "aokvqa_v1p0_val.json", records)
    return SourceOptions(annotations=(file,), images=home, split=SPLIT)


_WRITERS: dict[str, Callable[[Annotator, Path, int], SourceOptions]] = {
    "coco_captions": _coco,
    "elevater_ic": _elevater,
    "levir_cc": _levir,
    "aokvqa": _aokvqa,
    "vqa_v2": _vqa,
    "clevr": _clevr,
    "gqa": _gqa,
}


def _damage(rng: random.Random, home: Path) -> None:
    """Cut one picture short in mid-file (its header still reads), empty another, and remove a third."""
    pictures = sorted(p for p in home.rglob("*") if p.suffix in (".jpg", ".png"))
    cut, empty, gone = rng.sample(pictures, 3)
    data = cut.read_bytes()
    cut.write_bytes(data[: int(len(data) * 0.6)])
    empty.write_bytes(b"")
    gone.unlink()

"""Ingest against `json.load` and a loop, on generated files of the size of VQA-v2 and of COCO captions with instances.

    python -m benchmarks.pipeline.ingest [--questions 650000] [--images 82783]

Both sets are generated in the datasets' formats (seeded), with a pool of 2,000 small JPEGs shared by all records: the
comparison is about reading, joining and sharding annotation files, not about the disk. The contestants write the same
samples into WebDataset shards of 1,000:

    json.load + loop   the obvious script: load both files, join in dicts, read the image, webdataset.TarWriter
    ours, one process  python -m ray_jobs.ingest --local
    ours, Ray          python -m ray_jobs.ingest, a private Ray on the same cores

Memory is the peak USS of all processes of a contestant (including Ray's), sampled every second; `start` is the part
used before the first file is read (interpreter, Ray). A row is one run, in the order printed; --runs repeats and prints
medians.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image as Pillow

POOL = 2000
NOUNS = [
    "man",
    "woman",
    "dog",
    "cat",
    "bus",
    "kite",
    "table",
    "pizza",
    "horse",
    "train",
    "surfboard",
    "skateboard",
    "clock",
    "bench",
    "bird",
]
SCRIPT = """
import json, sys
from pathlib import Path
import webdataset
kind, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
out.mkdir()
def samples():
    if kind == "vqa_v2":
        questions = json.load(open(folder / "questions.json"))["questions"]
        answers = {a["question_id"]: a for a in json.load(open(folder / "annotations.json"))["annotations"]}
        for q in questions:
            given = [a["answer"] for a in answers[q["question_id"]]["answers"]]
            answer = max(given, key=given.count)
            yield f"vqa_v2/train/{q['question_id']}", q["question"], f"Answer: {answer}", q["image_id"]
    else:
        content = json.load(open(folder / "captions.json"))
        instances = json.load(open(folder / "instances.json"))
        names = {c["id"]: c["name"] for c in instances["categories"]}
        captions, boxes = {}, {}
        for a in content["annotations"]:
            captions.setdefault(a["image_id"], []).append(a["caption"])
        for a in instances["annotations"]:
            boxes.setdefault(a["image_id"], []).append((names[a["category_id"]], a["bbox"]))
        for image in content["images"]:
            w, h = image["width"], image["height"]
            lines = captions[image["id"]] + [
                f"{n}: [{x/w:.3f}, {y/h:.3f}, {(x+bw)/w:.3f}, {(y+bh)/h:.3f}]"
                for n, (x, y, bw, bh) in boxes.get(image["id"], [])
            ]
            yield f"coco_captions/train/{image['id']}", "Describe the image in detail.", "\\n".join(lines), image["id"]
writer, count = None, 0
for key, instruction, response, image_id in samples():
    if count % 1000 == 0:
        if writer: writer.close()
        writer = webdataset.TarWriter(str(out / f"{count // 1000:05d}.tar"))
    data = (folder / "images" / f"COCO_train2014_{image_id:012d}.jpg").read_bytes()
    record = {"key": key, "turns": [{"instruction": "<image>" + instruction, "response": response}]}
    writer.write({"__key__": key, "json": record, "0.jpg": data})
    count += 1
writer.close()
print(count)
"""


def main() -> None:
    """Generate, run the contestants, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=650_000, help="questions of the VQA-v2 set (%(default)s)")
    parser.add_argument("--images", type=int, default=82_783, help="images of the COCO set (%(default)s)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="folder for generated files (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark_ingest_", dir=options.folder) as made:
        root = Path(made)
        print(f"{os.cpu_count()} CPU cores, {psutil.virtual_memory().total >> 30} GiB; Python {sys.version.split()[0]}")
        print("data             MB  contestant           samples  seconds  samples/s  peak MB  start MB")
        sets = (("vqa_v2", vqa_v2, options.questions), ("coco_captions", coco, options.images))
        for kind, generate, size in sets:
            folder = root / kind
            generate(folder, size)
            megabytes = sum(path.stat().st_size for path in folder.glob("*.json")) >> 20
            for name, command in contestants(kind, folder, root / "out").items():
                rows = [run(command, root / "out") for _ in range(options.runs)]
                counts = {row[0] for row in rows}
                assert counts == {size}, f"{name} wrote {counts}, not {size}"
                seconds, peak, start = (statistics.median(row[column] for row in rows) for column in (1, 2, 3))
                print(
                    f"{kind:<13} {megabytes:>5}  {name:<19} {size:>8,} {seconds:>8.1f} {size / seconds:>10,.0f} "
                    f"{peak:>8,.0f} {start:>9,.0f}",
                    flush=True,
                )
            shutil.rmtree(folder)


def contestants(kind: str, folder: Path, out: Path) -> dict[str, list[str]]:
    """Return the contestants' commands by name."""
    files = ["questions.json", "annotations.json"] if kind == "vqa_v2" else ["captions.json", "instances.json"]
    ours = [
        sys.executable, "-m", "ray_jobs.ingest", "--source", kind, "--split", "train",
        "--images", str(folder / "images"), "--out", str(out), "--annotations", *(str(folder / name) for name in files),
    ]  # fmt: skip
    return {
        "json.load + loop": [sys.executable, "-c", SCRIPT, kind, str(folder), str(out)],
        "ours, one process": [*ours, "--local"],
        "ours, Ray": ours,
    }


def run(command: list[str], out: Path) -> tuple[int, float, float, float]:
    """Return samples written, seconds, peak MB, and MB at the start (after two seconds, or the minimum) of one run."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.monotonic()
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    used = []
    while process.poll() is None:
        used.append(held(process.pid))
        time.sleep(1.0)
    seconds = time.monotonic() - started
    if process.returncode:
        log.seek(0)
        sys.exit(f"{command[:6]} ended with {process.returncode}: {log.read()[-2000:]}")
    found = out / "ingest"
    if found.is_dir():
        count = sum(json.loads(path.read_text())["written"] for path in found.glob("*.json"))
    else:
        log.seek(0)
        count = int(log.read().split()[-1])
    shutil.rmtree(out)
    return count, seconds, max(used) / 2**20, used[min(1, len(used) - 1)] / 2**20


def held(pid: int) -> int:
    """Return the USS of a process and its descendants, in bytes."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                total += process.memory_full_info().uss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def images(folder: Path, ids: int) -> None:
    """Create a picture for each id, as hard links to a pool."""
    (folder / "images").mkdir(parents=True)
    pool = []
    for number in range(min(POOL, ids)):
        buffer = io.BytesIO()
        Pillow.effect_noise((64, 48), 20 + number % 80).convert("RGB").save(buffer, "JPEG", quality=80)
        path = folder / f"pool-{number}.jpg"
        path.write_bytes(buffer.getvalue())
        pool.append(path)
    for number in range(ids):
        (folder / "images" / f"COCO_train2014_{number:012d}.jpg").hardlink_to(pool[number % len(pool)])


def vqa_v2(folder: Path, questions: int) -> None:
    """Write questions and annotations: five questions per image, ten answers per question."""
    images(folder, -(-questions // 5))
    rng = random.Random(0)
    words = ["yes", "no", "2", "red", "white", *NOUNS]
    write(
        folder / "questions.json",
        {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "train2014", "license": {}},
        "questions",
        (
            {"image_id": n // 5, "question": f"What is the {rng.choice(NOUNS)} next to the {rng.choice(NOUNS)} doing?",
             "question_id": n * 10}
            for n in range(questions)
        ),
    )  # fmt: skip
    write(
        folder / "annotations.json",
        {"info": {}, "data_type": "mscoco", "data_subtype": "train2014", "license": {}},
        "annotations",
        (
            {"question_type": "what is the", "multiple_choice_answer": "red", "image_id": n // 5, "question_id": n * 10,
             "answer_type": "other",
             "answers": [
                 {"answer": rng.choice(words), "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)
             ]}
            for n in range(questions)
        ),
    )  # fmt: skip


def coco(folder: Path, count: int) -> None:
    """Write captions (five per image) and instances (7.3 per image, as in train2014) with polygons of forty points."""
    images(folder, count)
    rng = random.Random(0)
    listed = [
        {"license": 3, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 480, "width": 640, "id": n,
         "date_captured": "2013-11-14 16:03:19"}
        for n in range(count)
    ]  # fmt: skip
    captions = [(n, k) for n in range(count) for k in range(5)]
    rng.shuffle(captions)
    said = (
        {"image_id": n, "id": n * 5 + k, "caption": f"A {rng.choice(NOUNS)} near a {rng.choice(NOUNS)}, view {k}."}
        for n, k in captions
    )
    write(folder / "captions.json", {"info": {}, "images": listed, "licenses": []}, "annotations", said)
    categories = [{"supercategory": "thing", "id": number + 1, "name": noun} for number, noun in enumerate(NOUNS)]
    instances = (instance(rng, number, rng.randrange(count)) for number in range(count * 73 // 10))
    head = {"info": {}, "images": listed, "licenses": []}
    write(folder / "instances.json", head, "annotations", instances, {"categories": categories})


def instance(rng: random.Random, number: int, image_id: int) -> dict[str, object]:
    """Generate a box and its polygon."""
    x, y, width, height = rng.randrange(500), rng.randrange(400), rng.randrange(5, 130), rng.randrange(5, 75)
    polygon = [round(rng.random() * 500, 2) for _ in range(80)]
    return {
        "segmentation": [polygon], "area": width * height / 2, "iscrowd": 0, "image_id": image_id,
        "bbox": [x, y, width, height], "category_id": rng.randrange(len(NOUNS)) + 1, "id": number,
    }  # fmt: skip


def write(path: Path, head: dict, name: str, records: object, tail: dict | None = None) -> None:
    """Write a JSON object with one long list, record by record."""
    with path.open("w") as file:
        file.write(json.dumps(head)[:-1] + f', "{name}": [')
        for number, record in enumerate(records):  # type: ignore[call-overload]
            file.write((", " if number else "") + json.dumps(record))
        file.write("]" + "".join(f', "{key}": {json.dumps(value)}' for key, value in (tail or {}).items()) + "}")


if __name__ == "__main__":
    main()

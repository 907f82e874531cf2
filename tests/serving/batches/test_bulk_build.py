"""A bulk job by the real build with the tiny profile, on its own Ray, in a bucket: the same texts and scores."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from polite_flamingo.filters.scorer import Scorer
from polite_flamingo.rewriters.flamingo import Rewriter
from polite_flamingo.sample import BadSample
from ray_jobs import console
from ray_jobs.build_pf1m import BuildConfig
from serving.batches.build_files import profile_of
from serving.batches.records import ENDED
from serving.batches.runner import BatchRunner
from serving.batches.store import BatchStore
from serving.config import from_profile
from serving.rewrite.protocol import Content
from serving.rewrite.rewriting import make_result, make_sample
from tests.support.rewriting_service import data_url, png

PROFILE = Path(__file__).parents[3] / "profiles" / "tiny.yaml"


def test_the_build_gets_the_very_models_of_the_service(tmp_path: Path) -> None:
    config = from_profile(PROFILE, {"thresholds.sts": 0.3, "rewriter.generation.max_new_tokens": 50})
    (tmp_path / "profile.yaml").write_text(profile_of(config))
    arguments = [f"--profile={tmp_path / 'profile.yaml'}", "--input=in", "--out=out"]
    build = console.parse("build_pf1m", "", BuildConfig, arguments)
    assert (build.rewriter, build.scoring, build.thresholds) == (config.rewriter, config.scoring, config.thresholds)
    assert build.thresholds.sts == 0.3 and build.rewriter.generation.max_new_tokens == 50
    arguments[0] = f"--profile={PROFILE}"
    assert build.pools == console.parse("build_pf1m", "", BuildConfig, arguments).pools


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_by_the_true_build(bucket: str) -> None:
    config = from_profile(PROFILE, {"serving.batches.folder": f"{bucket}/jobs"})
    contents: dict[str, dict[str, str]] = {
        "caption": {"instruction": "Describe the image in detail.", "raw": "a red circle", "image": data_url(png(1))},
        "answer": {"instruction": "What colour is it?", "raw": "Answer: red", "image": data_url(png(1))},
        "text": {"instruction": "How long does an egg boil?", "raw": "8 minutes"},
        "too long": {"instruction": "Say it nicely.", "raw": "on and on " * 2000},
    }
    store = BatchStore(config.serving.batches)
    file = store.new_file()
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/rewrite", "body": body} for name, body in contents.items()
    ]
    store.data(file).put("".join(json.dumps(line) + "\n" for line in lines))
    job = store.create_job("", store.add_file(file, "", "lines", "batch").id, "/v1/rewrite", "24h", None)

    async def run() -> None:
        runner = BatchRunner(config)
        runner.start()
        while store.job(job.id, "").status not in ENDED:
            assert runner.failure is None
            await asyncio.sleep(0.2)
        await runner.stop()

    asyncio.run(run())
    job = store.job(job.id, "")
    assert (job.status, job.total, job.completed, job.failed) == ("completed", 4, 3, 1)
    [error] = [json.loads(line) for line in store.data(job.error_file_id).read_text().splitlines()]
    assert (error["custom_id"], error["error"]["code"]) == ("too long", "text_too_long")

    results = [json.loads(line) for line in store.data(job.output_file_id).read_text().splitlines()]
    found = {line["custom_id"]: line["response"]["body"] for line in results}
    rewriter, scorer = Rewriter(config.rewriter), Scorer(config.scoring)
    for name in ("caption", "answer", "text"):
        images = [png(1)] if "image" in contents[name] else []
        sample = make_sample(Content(**contents[name]), images)
        [text] = rewriter.texts([sample])
        assert isinstance(text, str)
        [scores] = scorer.score([replace(sample, rewritten=text)])
        assert not isinstance(scores, BadSample)
        expected = make_result(
            replace(sample, rewritten=text, scores=scores), config.serving.rewriter_name, config.thresholds
        )
        assert found[name] == expected.model_dump()

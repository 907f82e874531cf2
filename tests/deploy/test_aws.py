"""The rights on AWS: what the store and Ray's autoscaler do, and no more."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from polite_flamingo.storage.bucket import Bucket

FOLDER = Path(__file__).parents[2] / "deploy" / "aws"

NEEDED = {
    "s3:ListBucket": "list",
    "s3:GetObject": r"get|head",
    "s3:PutObject": "put",
    "s3:DeleteObject": "delete",
}
"""Action -> obstore's methods that ask for it. An upload in parts that fails is aborted, by obstore itself."""


def actions(name: str) -> dict[str, list[str]]:
    """Action -> resources, of a policy."""
    policy: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    assert all(one["Effect"] == "Allow" for one in policy["Statement"])
    return {action: one["Resource"] for one in policy["Statement"] for action in one["Action"]}


def test_the_bucket_policy_allows_what_the_store_calls_on_this_bucket_alone() -> None:
    called = set(re.findall(r"(?:_store|store)\.(\w+)\(", inspect.getsource(Bucket)))
    allowed = actions("bucket")
    assert called == {name for names in NEEDED.values() for name in names.split("|")}
    assert set(allowed) == {*NEEDED, "s3:AbortMultipartUpload"}
    for action, resources in allowed.items():
        assert resources == ["arn:aws:s3:::BUCKET" if action == "s3:ListBucket" else "arn:aws:s3:::BUCKET/*"]


def test_the_head_may_start_machines_with_the_workers_role_and_no_other() -> None:
    allowed = actions("autoscaler")
    assert allowed["iam:PassRole"] == ["arn:aws:iam::ACCOUNT:role/polite-flamingo-worker"]
    assert not [action for action in allowed if "*" in action]


def test_the_script_makes_both_roles_from_the_policies(tmp_path: Path) -> None:
    aws = tmp_path / "aws"
    noting = r'''printf "%s\x1f" "$@" >> "$CALLS"; printf "\x1e" >> "$CALLS"'''
    aws.write_text(f'#!/bin/bash\n[ "$1" != sts ] || echo 123456789012\n{noting}\n')
    aws.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
    subprocess.run([str(FOLDER / "roles.sh"), "my-bucket"], env=environment, check=True, timeout=60)
    calls = [call.split("\x1f") for call in (tmp_path / "calls").read_text().split("\x1e")]
    policies = {}
    for call in calls:
        if "put-role-policy" in call:
            options = dict(zip(call[2::2], call[3::2], strict=False))
            policies[options["--role-name"], options["--policy-name"]] = json.loads(options["--policy-document"])
    assert set(policies) == {
        ("polite-flamingo-head", "bucket"),
        ("polite-flamingo-worker", "bucket"),
        ("polite-flamingo-head", "autoscaler"),
    }
    assert policies["polite-flamingo-worker", "bucket"]["Statement"][1]["Resource"] == ["arn:aws:s3:::my-bucket/*"]
    assert "123456789012" in json.dumps(policies["polite-flamingo-head", "autoscaler"])

"""The fake cloud is `cluster.yaml`'s, and Ray's autoscaler accepts it."""

from ray.autoscaler._private.util import validate_config

from benchmarks.pipeline.fake_cloud import configuration


def test_node_types_are_those_of_the_committed_cluster_and_none_is_there_at_first() -> None:
    config = configuration(0.5, {"cpu_worker": 2, "gpu_worker": 4})
    validate_config(config)
    types = config["available_node_types"]
    assert types.keys() == {"ray.head.default", "cpu_worker", "gpu_worker"}
    assert types["ray.head.default"]["resources"]["CPU"] == 0 and types["gpu_worker"]["resources"]["GPU"] == 1
    assert [kind["min_workers"] for kind in types.values()] == [0, 0, 0]
    assert [types[name]["max_workers"] for name in ("cpu_worker", "gpu_worker")] == [2, 4]

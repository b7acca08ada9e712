"""A study's spec takes other targets."""

from autocompress.pipeline.retargeting import with_targets
from autocompress.spec import from_mapping


def test_what_is_said_of_times_goes_with_the_last_target_that_reads_them() -> None:
    told = {"latency_table": "table.json", "fresh_profile": True}
    timed = from_mapping({"model": "m", "target_speedup": 2, "space": "bits", **told})

    still, no_more = (
        with_targets(timed, targets) for targets in ({"target_latency": 20}, {"target_bits": 4})
    )

    assert (still.latency_table, still.fresh_profile) == ("table.json", True)
    assert (no_more.latency_table, no_more.fresh_profile) == (None, False)

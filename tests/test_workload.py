"""Workloads as text: read, written and read again; what they are not is said in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.workload import Mix, Phase, Workload

WORKLOADS = st.builds(
    Workload,
    st.integers(1, 64),
    st.integers(1, 4096),
    st.integers(2, 512),
    st.sampled_from(Phase),
)
MIXES = st.lists(
    st.tuples(st.floats(1e-6, 1e6), WORKLOADS), min_size=1, max_size=4, unique_by=lambda p: p[1]
).map(lambda parts: Mix(tuple(parts)))


@given(MIXES)
def test_text_gives_the_mix_back(mix: Mix) -> None:
    again = Mix.parse(str(mix))

    assert again.workloads == mix.workloads
    # The weight of a single workload says nothing and is not written.
    assert again == mix or len(mix.parts) == 1


@given(MIXES)
def test_shares_add_up(mix: Mix) -> None:
    assert sum(mix.shares) == pytest.approx(1.0)
    assert mix.first in mix.workloads


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("8x512+32", Mix(((1.0, Workload(8, 512, 32)),))),
        ("decode", Mix(((1.0, Workload(phase=Phase.DECODE)),))),
        (" prefill:2x64+1 ", Mix(((1.0, Workload(2, 64, 1, Phase.PREFILL)),))),
        (
            "3*1x128+64, 0.5*decode",
            Mix(((3.0, Workload()), (0.5, Workload(phase=Phase.DECODE)))),
        ),
    ],
)
def test_forms(text: str, mix: Mix) -> None:
    assert Mix.parse(text) == mix


@pytest.mark.parametrize(
    "text",
    ["", "1x2", "0x8+8", "1x8+00", "1x8+8+8", "warm:1x8+8", "2*", "0*1x8+8", "1.2.3*1x8+8",
     "decode,decode", "decode:1x8+1", "1x8+8,", "x*1x8+8"],
)  # fmt: skip
def test_what_is_no_workload_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must hold, but got|may be named once"):
        Mix.parse(text)


def test_what_counts_of_a_request() -> None:
    assert Workload(1, 8, 5).time(10.0, 2.0) == 18.0
    assert Workload(1, 8, 5, Phase.PREFILL).time(10.0, 2.0) == 10.0
    assert Workload(1, 8, 5, Phase.DECODE).time(10.0, 2.0) == 2.0

"""Who is given which of the jobs that wait."""

from hypothesis import given
from hypothesis import strategies as st

from autocompress.workers.affinity import Affinity

NEEDS = st.lists(st.integers(0, 9), max_size=4, unique=True).map(tuple)


@given(st.lists(NEEDS, min_size=1, max_size=8), st.lists(NEEDS, max_size=4))
def test_no_job_that_waits_has_been_read_more_of(
    waiting: list[tuple[int, ...]], before: list[tuple[int, ...]]
) -> None:
    affinity: Affinity[str] = Affinity()
    for needs in before:
        affinity.note("a", needs)
    read = {need for needs in before for need in needs}

    picked = affinity.pick("a", waiting)

    most = max(len(read & set(needs)) for needs in waiting)
    assert len(read & set(waiting[picked])) == most


def test_jobs_come_in_order_where_nobody_has_read_anything() -> None:
    affinity: Affinity[str] = Affinity()

    assert affinity.pick("a", [(1,), (2,), ()]) == 0


def test_what_another_has_read_is_left_to_it() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.note("a", (1, 2))

    assert affinity.pick("b", [(1, 2), (3, 4)]) == 1
    assert affinity.pick("a", [(3, 4), (1, 2)]) == 1


def test_a_worker_that_is_gone_has_read_nothing() -> None:
    affinity: Affinity[str] = Affinity()
    affinity.note("a", (2,))

    affinity.forget("a")

    assert affinity.pick("b", [(2,), (3,)]) == 0

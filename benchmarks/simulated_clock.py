"""Gives out recorded jobs to any number of workers on a clock that is only counted."""

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimedJob:
    """A job whose seconds are known.

    Args:
        seconds: Without what the worker has to prepare.
        needs: What it has to have at hand (the dense model's predictions on each sequence), which
            it prepares unless it still has it from a job before.
    """

    seconds: float
    needs: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class Clockwork:
    """What is charged beside the jobs themselves.

    Args:
        preparation: Seconds for each need that a worker has not at hand.
        capacity: Needs that a worker keeps, the least recently used go.
        per_job: Seconds in which the driver takes a result, one at a time, and gives out nothing.
    """

    preparation: float = 0.0
    capacity: int = 10**9
    per_job: float = 0.0


class SimulatedWorkers:
    """Workers as `Dispatcher` keeps them busy: jobs in order, each to the next who is free.

    `clock` is the time since their start, in seconds, `ends` that of each batch, `busy` what all
    of them worked, `prepared` how much of that went into what they had not at hand.
    """

    def __init__(self, n: int, how: Clockwork) -> None:
        self._how = how
        self._at_hand: list[OrderedDict[Hashable, None]] = [OrderedDict() for _ in range(n)]
        self.clock = 0.0
        self.ends: list[float] = []
        self.busy = 0.0
        self.prepared = 0.0

    def run(self, jobs: Sequence[TimedJob]) -> None:
        """Do one batch; it is over when its last result is taken."""
        pending = deque(jobs)
        idle = list(range(len(self._at_hand)))
        heapq.heapify(idle)
        ends: list[tuple[float, int]] = []
        while pending or ends:
            while pending and idle:
                worker = heapq.heappop(idle)
                seconds = self._seconds(worker, pending.popleft())
                self.busy += seconds
                heapq.heappush(ends, (self.clock + seconds, worker))
            self.clock = max(self.clock, ends[0][0])
            # All that is done by now is taken before anything is given out.
            finished = 0
            while ends and ends[0][0] <= self.clock:
                heapq.heappush(idle, heapq.heappop(ends)[1])
                finished += 1
            self.clock += finished * self._how.per_job
        self.ends.append(self.clock)

    def wait(self, seconds: float) -> None:
        """Let the driver do something else, the strategy say."""
        self.clock += seconds

    def _seconds(self, worker: int, job: TimedJob) -> float:
        at_hand = self._at_hand[worker]
        missing = 0
        for need in job.needs:
            missing += need not in at_hand
            at_hand[need] = None
            at_hand.move_to_end(need)
            if len(at_hand) > self._how.capacity:
                at_hand.popitem(last=False)
        self.prepared += missing * self._how.preparation
        return job.seconds + missing * self._how.preparation

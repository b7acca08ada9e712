"""Predicts latency from peak rates, for hardware that is not here; nothing of it is measured.

An operation takes as long as the longer of two: its arithmetic at the peak rate, or its memory
traffic at the full bandwidth (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009). A
pass of the model takes the sum over its matrix products and its attention; norms, activations,
launches of kernels and gaps between them take nothing. So it is the least that a pass can take.

Weights count by the bytes that they are stored in, and are multiplied in the model's own number
format: what kernels for codes do that read weights alone in few bits. Zeros save nothing.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError
from autocompress.evaluators.latency_rows import Spent
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.cost import AdditiveCost, mixed, sum_of_sites
from autocompress.spaces.settings import DENSE, WeightSetting
from autocompress.store.base import Json
from autocompress.workload import Mix, Workload

NUMBER_BYTES: Final = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Hardware:
    """The peak rates of a processor with its memory.

    Args:
        bandwidth: Of its memory, bytes a second.
        flops: Floating-point operations a second by number format, of dense matrices.
        source: Where the figures are from.
    """

    name: str
    bandwidth: float
    flops: Mapping[str, float]
    source: str


def _gpu(name: str, terabytes: float, half: float, single: float, source: str) -> Hardware:
    """Return a GPU given its TB/s, and its TFLOP/s in 16 bits and in float32."""
    flops = {"bfloat16": half * 1e12, "float16": half * 1e12, "float32": single * 1e12}
    return Hardware(name, terabytes * 1e12, flops, source)


# Rates of 16 bits are those of tensor cores (or matrix cores), accumulating in float32, without
# structured sparsity: half of what a datasheet gives with it. Rates of float32 are without them.
KNOWN: Final[Mapping[str, Hardware]] = {
    "a100": _gpu("NVIDIA A100 SXM 80 GB", 2.039, 312, 19.5, "NVIDIA A100 datasheet, 2021"),
    "h100": _gpu("NVIDIA H100 SXM 80 GB", 3.35, 989.4, 66.9, "NVIDIA H100 datasheet, 2023"),
    "h200": _gpu("NVIDIA H200 SXM 141 GB", 4.8, 989.4, 66.9, "NVIDIA H200 datasheet, 2024"),
    "l4": _gpu("NVIDIA L4 24 GB", 0.3, 121, 30.3, "NVIDIA L4 datasheet, 2023"),
    "l40s": _gpu("NVIDIA L40S 48 GB", 0.864, 362.05, 91.6, "NVIDIA L40S datasheet, 2023"),
    "rtx4090": _gpu(
        "NVIDIA GeForce RTX 4090 24 GB",
        1.008,
        165.2,
        82.6,
        "NVIDIA Ada GPU architecture whitepaper 2.1, appendix A, 2023",
    ),
    "mi300x": _gpu(
        "AMD Instinct MI300X 192 GB", 5.3, 1307.4, 163.4, "AMD Instinct MI300X data sheet, 2023"
    ),
}
"""By the names that `--engine roofline:NAME` takes."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A latency model of one model on some hardware.

    Args:
        number_format: What it computes in.
        vocabulary: Rows of its head.
        hidden: Columns of its head.
    """

    on: Hardware
    mix: Mix
    number_format: str
    vocabulary: int
    hidden: int

    def __post_init__(self) -> None:
        if self.number_format not in NUMBER_BYTES.keys() & self.on.flops.keys():
            known = ", ".join(sorted(NUMBER_BYTES.keys() & self.on.flops.keys()))
            raise SpecError(
                f"A roofline of {self.on.name} is known for {known}, but the model computes in "
                f"{self.number_format}."
            )

    @property
    def engine(self) -> str:
        """What it speaks of."""
        return "roofline"

    @property
    def hardware(self) -> str:
        """What it speaks of, in words."""
        return f"{self.on.name}, which is not here"

    def cost(self, space: SearchSpace) -> AdditiveCost:
        """Return the milliseconds of a mean request for the entries of a space."""
        costs = [self._cost(space, workload) for workload in self.mix.workloads]
        return mixed(list(zip(self.mix.shares, costs, strict=True)))

    def check(self, space: SearchSpace) -> None:  # the contract's
        """Return nothing: no time was measured."""

    def to_json(self) -> dict[str, Json]:
        """Return the form that is stored."""
        on = self.on
        return {
            "roofline": {
                "name": on.name,
                "bandwidth": on.bandwidth,
                "flops": dict(on.flops),
                "source": on.source,
            },
            "workload": str(self.mix),
            "number_format": self.number_format,
            "vocabulary": self.vocabulary,
            "hidden": self.hidden,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> "Roofline":
        """Read what `to_json` wrote.

        Raises:
            SpecError: If a field is missing or wrong.
        """
        try:
            on = values["roofline"]
            flops = on["flops"] if isinstance(on, Mapping) else None
            if not isinstance(on, Mapping) or not isinstance(flops, Mapping):
                raise TypeError(f"mappings must hold, but got {on!r}")
            return cls(
                Hardware(
                    str(on["name"]),
                    _rate(on["bandwidth"]),
                    {name: _rate(rate) for name, rate in flops.items()},
                    str(on["source"]),
                ),
                Mix.parse(str(values["workload"])),
                str(values["number_format"]),
                int(str(values["vocabulary"])),
                int(str(values["hidden"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"Not a roofline: {error}.") from error

    def spent(self, space: SearchSpace, choices: tuple[Choice, ...], workload: Workload) -> Spent:
        """Return what a whole configuration takes, in milliseconds."""
        spent = [self._head(workload)]
        spent += [
            self._site(site, choice, workload)
            for site, choice in zip(space.sites, choices, strict=True)
        ]
        return Spent(sum(own.prefill for own in spent), sum(own.decode for own in spent))

    def _cost(self, space: SearchSpace, workload: Workload) -> AdditiveCost:
        def of(site: Site, choice: Choice) -> float:
            return self._site(site, choice, workload).workload(workload)

        return sum_of_sites(space, self._head(workload).workload(workload), of)

    def _head(self, workload: Workload) -> Spent:
        """Return the milliseconds of the head, which only ever reads a last token."""
        shape = self.vocabulary, self.hidden
        once = 1e3 * self._product(DENSE, shape, workload.batch)
        return Spent(once, once)

    def _site(self, site: Site, choice: Choice, workload: Workload) -> Spent:
        """Return the milliseconds of one site; a further token is one half-way."""
        if choice.is_dropped:
            return Spent(0.0, 0.0)
        batch, prompt = workload.batch, workload.prompt
        before = prompt + workload.generated / 2
        settings = choice.weights or (DENSE,) * len(site.groups)
        shapes = [group.shape(choice.kept, choice.total) for group in site.groups]
        prefill, decode = (
            sum(
                self._product(setting, shape, vectors)
                for setting, shape in zip(settings, shapes, strict=True)
            )
            for vectors in (batch * prompt, batch)
        )
        if site.kind is SiteKind.ATTENTION:
            prefill += self._attention(site, choice, batch, prompt, prompt, (prompt + 1) / 2)
            decode += self._attention(site, choice, batch, 1, before, before)
        return Spent(1e3 * prefill, 1e3 * decode)

    def _product(self, setting: WeightSetting, shape: tuple[int, int], vectors: int) -> float:
        """Return the seconds of multiplying a weight by some vectors."""
        rows, columns = shape
        number = NUMBER_BYTES[self.number_format]
        unpruned = dataclasses.replace(setting, sparsity=0.0, pattern=None)
        weights = unpruned.stored_bits(rows, columns, 8 * number) / 8
        moved = weights + number * vectors * (rows + columns)
        return self._longer(2 * rows * columns * vectors, moved)

    def _attention(
        self, site: Site, choice: Choice, batch: int, new: int, cached: float, seen: float
    ) -> float:
        """Return the seconds of scores and their sums over values, in one kernel.

        Args:
            new: Tokens of each sequence that attend.
            cached: Tokens of each sequence whose keys and values are read.
            seen: The mean number of tokens that each attends to.
        """
        queries = site.rows["q"] * choice.kept / choice.total
        numbers = batch * (site.cached(choice) * cached + 2 * queries * new)
        moved = NUMBER_BYTES[self.number_format] * numbers
        return self._longer(4 * queries * batch * new * seen, moved)

    def _longer(self, operations: float, moved: float) -> float:
        return max(operations / self.on.flops[self.number_format], moved / self.on.bandwidth)


def _rate(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"a rate above 0 must hold, but got {value!r}")
    return float(value)

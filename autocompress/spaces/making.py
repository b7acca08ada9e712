"""Makes the space of a model from its shape and from what a search may compress."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import SpecError
from autocompress.spaces.base import (
    SUB_BLOCKS,
    Gene,
    GeneKind,
    LinearGroup,
    SearchSpace,
    Site,
    SiteKind,
)
from autocompress.spaces.settings import (
    DENSE,
    GGUF_TYPES,
    GROUP_SIZES,
    SHARE_DIGITS,
    CacheSetting,
    WeightSetting,
    block_format,
    fitting_group_size,
)

EQUAL_COUNT_LEVELS = 16
"""On each side of the middle, twice EvoPress's: of the same range, in steps half as large."""

Groups = Mapping[SiteKind, Sequence[LinearGroup]]
"""The linear groups of each kind of site."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a space is made of: the shape of a model's layers, all alike.

    Args:
        other_parameters: Of each kind of site beside its linear groups: norms.
    """

    n_layers: int
    kv_groups: int
    ffn_columns: int
    groups: Groups
    other_parameters: Mapping[SiteKind, int]


@dataclass(frozen=True, slots=True)
class Weights:
    """How weights and KV caches may be stored; nothing by default.

    Args:
        bits: Of integer codes.
        group_size: Columns that share a scale; None takes the largest of 128, 64 and 32 that
            divides what a group may keep, or whole rows; 0 takes whole rows.
        symmetric: Whether codes go without zero points.
        settings: Integer codes with a group size of their own, besides these.
        blocks: Names of block formats or of GGUF's types, besides the integers. Each group takes
            those of GGUF's types whose blocks divide its columns.
        sparsities: Shares of zero weights, or patterns such as `2:4`, least first.
        sparsity_step: Weights between neighbouring levels of every group, around the only one of
            `sparsities`.
        cache_bits: Of KV caches, most first.
    """

    bits: tuple[int, ...] = ()
    group_size: int | None = None
    symmetric: bool = False
    settings: tuple[WeightSetting, ...] = ()
    blocks: tuple[str, ...] = ()
    sparsities: tuple[WeightSetting, ...] = ()
    sparsity_step: int | None = None
    cache_bits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Division:
    """What the columns of a layer are cut into.

    Args:
        unit: What a part is called.
        columns: Of a part.
        told: These in words.
        way_out: Where they do not divide a layer.
    """

    unit: str
    columns: int
    told: str
    way_out: str


def make_space(
    n_layers: int,
    kv_groups: int,
    ffn_columns: int,
    *,
    depth: bool,
    width: bool,
    whole_layers: bool = False,
    keeps_first_attention: bool = False,
    ffn_step: int = 64,
    ffn_levels: int = 6,
    weights: Weights | None = None,
    groups: Groups | None = None,
    other_parameters: Mapping[SiteKind, int] | None = None,
) -> SearchSpace:
    """Return the space of a model whose layers are alike.

    Args:
        depth: Let every site be dropped.
        width: Let attention lose KV groups, and MLP columns.
        whole_layers: Let depth drop both sites of a layer at once, and none alone.
        keeps_first_attention: Let depth by site not drop the first layer's attention, without
            which engines do not run what comes before the next one.
        ffn_step: Columns go in multiples of this.
        ffn_levels: At most so many widths beside dense, evenly spaced.
        groups: What weights may be stored otherwise; needed for costs of what is stored.

    Raises:
        SpecError: If a group size, a block or a pattern does not divide what a group may keep.
    """
    by_layer, by_site = depth and whole_layers, depth and not whole_layers
    weights, groups = weights or Weights(), groups or {}
    attention, columns = [kv_groups], [ffn_columns]
    if width:
        attention += range(kv_groups - 1, 0, -1)
        steps = range(ffn_step, ffn_columns, ffn_step)
        n_levels = min(ffn_levels, len(steps))
        columns += sorted({steps[len(steps) * i // n_levels] for i in range(n_levels)})[::-1]
    widths = {SiteKind.ATTENTION: attention, SiteKind.MLP: columns}
    _check_divisions(n_layers, widths, weights, groups)
    _check_gguf_types(n_layers, widths, weights, groups)
    sites = {}
    for kind, kept in widths.items():
        settings = (*kept, 0) if by_site else tuple(kept)
        genes = [Gene(GeneKind.WIDTH, settings)] if len(settings) > 1 else []
        for group in groups.get(kind, ()):
            genes += _weight_genes(group, _columns(group, kept), weights)
        if kind is SiteKind.ATTENTION and weights.cache_bits:
            caches = (CacheSetting(), *map(CacheSetting, weights.cache_bits))
            genes.append(Gene(GeneKind.CACHE, caches))
        other = (other_parameters or {}).get(kind, 0)
        sites[kind] = Site(0, kind, kept[0], tuple(genes), tuple(groups.get(kind, ())), other)
    every = [
        dataclasses.replace(sites[kind], layer=layer)
        for layer in range(n_layers)
        for kind in SUB_BLOCKS
    ]
    if by_site and keeps_first_attention:
        every[0] = _without_drop(every[0])
    return SearchSpace(tuple(every), whole_layers=by_layer)


def _without_drop(site: Site) -> Site:
    """Return a site that cannot be dropped."""
    genes = []
    for gene in site.genes:
        if gene.kind is GeneKind.WIDTH:
            kept = tuple(setting for setting in gene.settings if setting != 0)
            genes += [dataclasses.replace(gene, settings=kept)] if len(kept) > 1 else []
        else:
            genes.append(gene)
    return dataclasses.replace(site, genes=tuple(genes))


def equal_count_sparsities(
    group: LinearGroup, centre: float, weights: int, levels: int
) -> tuple[WeightSetting, ...]:
    """Return sparsities whose neighbours differ by the same number of weights in every group.

    A step up in one group and down in another keeps the number of zeros (EvoPress,
    arXiv:2410.14649, section 4.2): with shares instead, only groups of one size may trade.

    Args:
        centre: The share that all groups begin with.
        weights: By which neighbours differ.
        levels: At most so many on each side of the centre.
    """
    shares = [centre + step * weights / group.weights for step in range(-levels, levels + 1)]
    rounded = (round(share, SHARE_DIGITS) for share in shares)
    return tuple(WeightSetting(sparsity=share) for share in rounded if 0 < share < 1)


def _columns(group: LinearGroup, widths: Sequence[int]) -> list[int]:
    """Return the columns that each width leaves of a group."""
    return [group.shape(kept, widths[0])[1] for kept in widths]


def _check_divisions(
    n_layers: int, widths: Mapping[SiteKind, Sequence[int]], weights: Weights, groups: Groups
) -> None:
    """Make sure that group sizes, blocks and patterns divide every layer, at every width."""
    problems = []
    for own in _divisions(weights):
        offenders = [
            f"{linear} ({columns} columns)"
            for kind, kept in widths.items()
            for group in groups.get(kind, ())
            for columns in dict.fromkeys(_columns(group, kept))
            for linear in group.linears
            if columns % own.columns
        ]
        if offenders:
            problems.append(
                f"`columns % {own.unit} == 0` must hold for every linear layer, but {own.told} "
                f"does not divide {', '.join(offenders)}, in each of {n_layers} layers. "
                f"{own.way_out}"
            )
    if problems:
        raise SpecError(" ".join(problems))


def _divisions(weights: Weights) -> Iterator[_Division]:
    """Yield everything that the columns of every layer must be a multiple of."""
    sizes = {weights.group_size} if weights.bits else set()
    known = ", ".join(map(str, GROUP_SIZES))
    for size in sorted(own for own in sizes | {s.group_size for s in weights.settings} if own):
        way_out = f"Leave the size out, or take one of {known} that does."
        yield _Division("group_size", size, str(size), way_out)
    for name in weights.blocks:
        # Of GGUF's types each group takes those that fit it.
        block = None if name in GGUF_TYPES else block_format(name).block
        if block is not None:
            told = f"the {block} of {name}"
            yield _Division("block", block, told, f"Leave {name} out of the bits.")
    for pattern in dict.fromkeys(setting.pattern for setting in weights.sparsities):
        if pattern is not None:
            n, m = pattern
            way_out = "Take a pattern n:m that does, or a share such as 0.5."
            yield _Division("m", m, f"the {m} of {n}:{m}", way_out)


def _check_gguf_types(
    n_layers: int, widths: Mapping[SiteKind, Sequence[int]], weights: Weights, groups: Groups
) -> None:
    """Make sure that every layer fits one of GGUF's types, if nothing but these is wanted."""
    if not weights.blocks or weights.bits or weights.settings:
        return
    offenders = [
        f"{linear} ({group.columns} columns)"
        for kind, kept in widths.items()
        for group in groups.get(kind, ())
        for linear in group.linears
        if not any(_fits(name, _columns(group, kept)) for name in weights.blocks)
    ]
    if offenders:
        raise SpecError(
            "`columns % block == 0` must hold for one of the types, but none of "
            f"{', '.join(weights.blocks)} fits {', '.join(offenders)}, in each of {n_layers} "
            "layers. Those that end in _0 have blocks of 32 columns, the others of 256."
        )


def _fits(name: str, columns: Sequence[int]) -> bool:
    """Whether whole blocks make up the columns."""
    size = block_format(name).block
    return size is None or not any(n % size for n in columns)


def _weight_genes(group: LinearGroup, columns: Sequence[int], weights: Weights) -> list[Gene]:
    """Return the genes of bits and of sparsity of a linear group.

    Args:
        columns: That it may keep, width by width.
    """
    size = weights.group_size
    size = fitting_group_size(*columns) if size is None else size or None
    coded = [
        WeightSetting(bits=bits, group_size=size, symmetric=weights.symmetric)
        for bits in weights.bits
    ]
    coded += [setting for setting in weights.settings if setting not in coded]
    coded += [WeightSetting(block=name) for name in weights.blocks if _fits(name, columns)]
    rows = sum(group.rows)
    coded.sort(key=lambda setting: -setting.stored_bits(rows, group.columns, 16))
    genes = []
    if coded:
        genes.append(Gene(GeneKind.BITS, (DENSE, *coded), group.name))
    sparsities = weights.sparsities
    if sparsities and weights.sparsity_step:
        centre, step = sparsities[0].sparsity, weights.sparsity_step
        sparsities = equal_count_sparsities(group, centre, step, EQUAL_COUNT_LEVELS)
    if sparsities:
        genes.append(Gene(GeneKind.SPARSITY, (DENSE, *sparsities), group.name))
    return genes

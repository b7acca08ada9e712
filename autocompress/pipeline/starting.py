"""Finds what a file says of a model among the candidates of a space."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autocompress.errors import SpecError
from autocompress.export.readers import Told, read_told
from autocompress.models.architecture import LINEAR_NAMES
from autocompress.spaces.base import Choice, Gene, GeneKind, MenuEntry, SearchSpace, Site
from autocompress.spaces.settings import DENSE, WeightSetting
from autocompress.trial import Genotype

DENSE_LEAST_BITS = 16


def start_of(path: Path, space: SearchSpace, middle: float = 0.0) -> Genotype:
    """Return the candidate that a file describes; of widths by columns, what comes nearest.

    Args:
        middle: The sparsity that EvoPress's level 0 stands for.

    Raises:
        SpecError: If it cannot be read, or the space does not hold it.
    """
    told = read_told(path, 1 + max(site.layer for site in space.sites))
    known: dict[int, Mapping[tuple[Choice, ...], int]] = {}
    entries = []
    try:
        for bundle, menu in zip(space.bundles, space.menus, strict=True):
            wanted = tuple(_choice(told, site, middle) for site in bundle.sites)
            if id(menu) not in known:
                known[id(menu)] = _index(menu)
            entry = known[id(menu)].get(wanted)
            if entry is None:
                own = ", ".join(f"{s.kind} {c}" for s, c in zip(bundle.sites, wanted, strict=True))
                raise ValueError(f"the space does not hold {own} in layer {bundle.layer}")
            entries.append(entry)
    except ValueError as error:
        raise SpecError(f"{path}, {told.form}: {error}.") from error
    return space.genotype(entries)


def _index(menu: Sequence[MenuEntry]) -> Mapping[tuple[Choice, ...], int]:
    return {entry.choices: number for number, entry in enumerate(menu)}


def _choice(told: Told, site: Site, middle: float) -> Choice:
    """Return what is done to a site.

    Raises:
        ValueError: If that cannot be.
    """
    text = told.sites.get((site.layer, site.kind))
    if text is not None:
        return Choice.parse(text, site.units)
    removed = told.removed.get((site.layer, site.kind))
    if removed is not None:
        return _width(site, removed)
    names = iter(LINEAR_NAMES[site.kind])
    stored = []
    for group in site.groups:
        said = {told.linears.get((site.layer, next(names)), "dense") for _ in group.linears}
        if len(said) > 1:
            raise ValueError(
                f"{', '.join(group.linears)} of layer {site.layer} differ "
                f"({', '.join(sorted(said))}), and share a setting unless --per-linear is given"
            )
        genes = [gene for gene in site.genes if gene.group == group.name]
        stored.append(_setting(said.pop(), genes, middle))
    return Choice(site.units, site.units, () if all(s.is_dense for s in stored) else tuple(stored))


def _width(site: Site, removed: int) -> Choice:
    """Return the width of the space that comes nearest to so many columns less, or the wider.

    Raises:
        ValueError: If nothing but the whole site can be had, or it has fewer columns.
    """
    columns = next(group.columns for group in site.groups if group.narrows_columns)
    if removed > columns:
        raise ValueError(f"{removed} columns are taken of {site.kind}, which has {columns}")
    widths = [gene.settings for gene in site.genes if gene.kind is GeneKind.WIDTH]
    if removed and not widths:
        raise ValueError(
            f"the space holds neither drops nor widths of {site.kind} in layer {site.layer}"
        )
    known = [int(str(kept)) for own in widths for kept in own] or [site.units]
    wanted = site.units * (columns - removed) / columns
    return Choice(min(known, key=lambda kept: (abs(kept - wanted), -kept)), site.units)


def _setting(said: str, genes: Sequence[Gene], middle: float) -> WeightSetting:
    """Return the setting that a file's word stands for among a group's genes.

    A number is bits; where only sparsity is searched, steps from its middle level.
    """
    if not said.lstrip("-").isdigit():
        return WeightSetting.parse(said)
    number = int(said)
    for gene in genes:
        levels = [setting for setting in gene.settings if isinstance(setting, WeightSetting)]
        if gene.kind is GeneKind.BITS:
            known = [setting for setting in levels if setting.bits == number]
            return DENSE if number >= DENSE_LEAST_BITS else _only(known, said)
        if gene.kind is GeneKind.SPARSITY:
            middles = [at for at, own in enumerate(levels) if own.sparsity == round(middle, 6)]
            places = [at + number for at in middles if 0 < at + number < len(levels)]
            return _only([levels[place] for place in places], said)
    return _only([], said)


def _only(known: Sequence[WeightSetting], said: str) -> WeightSetting:
    if not known:
        raise ValueError(f"no level of the space stands for {said}")
    return known[0]

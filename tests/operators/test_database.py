"""The level database: what was written whole is read back, and nothing else is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import EvaluationError
from autocompress.models.surgery import Level
from autocompress.operators.database import LevelDatabase, address, settings_of
from autocompress.spaces.base import Choice, Site, SiteKind
from tests.tiny_models import tiny_space

SPACE = tiny_space()
ATTENTION, MLP = SPACE.sites[2], SPACE.sites[3]


def levels_of(site: Site, dtype: torch.dtype = torch.float32) -> dict[int, Level]:
    generator = torch.Generator().manual_seed(site.layer)
    return {
        kept: Level(
            torch.randperm(site.units, generator=generator)[:kept].sort().values,
            torch.randn(8, 2 * kept, generator=generator).to(dtype),
        )
        for kept in settings_of(site)
    }


def file_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", [ATTENTION, MLP], ids=["attention", "mlp"])
def test_store_then_load_is_identity(tmp_path: Path, site: Site, dtype: torch.dtype) -> None:
    written = levels_of(site, dtype)

    LevelDatabase(tmp_path / "levels").write(site, written)

    database = LevelDatabase(tmp_path / "levels")
    assert database.has(site, settings_of(site))
    for kept, level in written.items():
        read = database.level(site, Choice(kept, site.units))
        assert torch.equal(read.kept, level.kept)
        assert torch.equal(read.output, level.output)
        assert read.output.dtype is dtype


def test_sites_do_not_share_a_file(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    written = {site: levels_of(site) for site in SPACE.sites}
    for site, levels in written.items():
        database.write(site, levels)

    for site, levels in written.items():
        for kept, level in levels.items():
            assert torch.equal(database.level(site, Choice(kept, site.units)).output, level.output)
    assert len(list(tmp_path.iterdir())) == len(SPACE.sites)


def test_writing_again_replaces(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write(MLP, levels_of(MLP))

    newer = {8: Level(torch.arange(8), torch.ones(8, 16))}
    database.write(MLP, newer)

    assert database.has(MLP, (8,))
    assert not database.has(MLP, settings_of(MLP))
    assert torch.equal(database.level(MLP, Choice(8, 48)).output, newer[8].output)


def test_a_site_never_built_is_not_there(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path / "nowhere")

    assert not database.has(MLP, settings_of(MLP))


@pytest.mark.parametrize(
    "breaks",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * 16 + content[16:],
    ],
    ids=["half", "all but a byte", "half a header", "empty", "no header"],
)
def test_a_broken_file_is_as_good_as_none(
    tmp_path: Path, breaks: Callable[[bytes], bytes]
) -> None:
    database = LevelDatabase(tmp_path)
    database.write(MLP, levels_of(MLP))
    file = file_of(tmp_path)
    file.write_bytes(breaks(file.read_bytes()))

    assert not database.has(MLP, settings_of(MLP))
    with pytest.raises(EvaluationError, match=r"Level width 8/48 of layer 1 mlp cannot be read"):
        database.level(MLP, Choice(8, 48))


def test_what_another_process_is_writing_is_not_there(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write(MLP, levels_of(MLP))
    file = file_of(tmp_path)
    file.rename(file.with_suffix(".4711.partial"))

    assert not database.has(MLP, settings_of(MLP))


def test_a_width_never_built_is_an_error(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path)
    database.write(ATTENTION, {2: levels_of(ATTENTION)[2]})

    assert database.has(ATTENTION, (2,))
    with pytest.raises(EvaluationError, match=r"Level width 3/4 of layer 1 attention cannot be"):
        database.level(ATTENTION, Choice(3, 4))


def test_what_has_to_be_built_is_neither_dense_nor_dropped() -> None:
    assert settings_of(ATTENTION) == (3, 2, 1)
    assert settings_of(MLP) == (32, 16, 8)
    assert settings_of(tiny_space(width=False).sites[0]) == ()
    assert settings_of(Site(0, SiteKind.MLP, 8, ())) == ()


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1
    ),
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1
    ),
)
def test_addresses_are_equal_only_for_equal_parts(first: list[str], second: list[str]) -> None:
    assert (address(*first) == address(*second)) is (first == second)

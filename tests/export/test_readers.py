"""What a file says of a model is found among the candidates of a space, or refused."""

import json
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.export.checkpoint import layer_choices
from autocompress.export.readers import read_metric, read_told
from autocompress.export.tool_recipes import tool_recipe
from autocompress.models.architecture import LINEAR_NAMES, linear_groups, read_architecture
from autocompress.pipeline.starting import start_of
from autocompress.spaces.base import Choice, SearchSpace, SiteKind
from autocompress.spaces.expression_trees import parse
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Genotype
from tests.tiny_models import KV_GROUPS, LAYERS, make_config

COLUMNS = 64  # whole blocks of 32
CONFIG = make_config()
CONFIG.intermediate_size = COLUMNS
GROUPS = linear_groups(read_architecture(CONFIG))
Q = "model.layers.{}.self_attn.q_proj: {}\n"


def space_of(
    *, depth: bool = True, width: bool = False, whole_layers: bool = False, **weights: object
) -> SearchSpace:
    return make_space(
        LAYERS,
        KV_GROUPS,
        COLUMNS,
        depth=depth,
        width=width,
        whole_layers=whole_layers,
        ffn_step=8,
        ffn_levels=3,
        weights=Weights(**weights),  # type: ignore[arg-type]
        groups=GROUPS,
    )


RICH = space_of(
    width=True,
    settings=tuple(map(WeightSetting.parse, ("w8sym", "w3g8"))),
    sparsities=(WeightSetting.parse("s0.5"),),
    cache_bits=(8, 4),
)
CODES = space_of(whole_layers=True, settings=(WeightSetting.parse("w4g16sym"),), blocks=("fp8",))
TYPES = space_of(depth=False, blocks=("q8_0", "q4_0"))


def written(folder: Path, text: str) -> Path:
    file = folder / "file"
    file.write_text(text, encoding="utf-8")
    return file


def genotypes(space: SearchSpace) -> st.SearchStrategy[Genotype]:
    entries = st.tuples(*(st.integers(0, len(menu) - 1) for menu in space.menus))
    return entries.map(space.genotype)


@given(genotypes(RICH))
@settings(max_examples=50)
def test_a_recipe_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, genotype: Genotype
) -> None:
    layers = {
        layer: {kind.value: str(choice) for kind, choice in own.items()}
        for layer, own in layer_choices(RICH, RICH.choices(genotype)).items()
    }
    text = yaml.safe_dump({"study": "s", "layers": layers})

    found = start_of(written(tmp_path_factory.mktemp("recipes"), text), RICH)

    assert RICH.choices(found) == RICH.choices(genotype)


@given(genotypes(TYPES))
@settings(max_examples=30)
def test_types_of_llama_quantize_are_read_back_and_written_alike(
    tmp_path_factory: pytest.TempPathFactory, genotype: Genotype
) -> None:
    recipe = tool_recipe("tensor-types", TYPES, TYPES.choices(genotype))

    found = start_of(written(tmp_path_factory.mktemp("types"), recipe.text), TYPES)

    assert TYPES.choices(found) == TYPES.choices(genotype)
    assert tool_recipe("tensor-types", TYPES, TYPES.choices(found)).text == recipe.text


def test_what_evopress_drops_is_dropped(tmp_path: Path) -> None:
    space = space_of()

    found = start_of(written(tmp_path, "none\nattn\nattn+mlp\n"), space)

    dropped = [choice.is_dropped for choice in space.choices(found)]
    assert dropped == [False, False, True, False, True, True]


def test_evopress_bits_are_the_levels_with_so_many(tmp_path: Path) -> None:
    space = space_of(settings=tuple(map(WeightSetting.parse, ("w4g16", "w3g8"))))
    names = [name for own in LINEAR_NAMES.values() for name in own]
    text = "".join(
        f"model.layers.{layer}.{linear}: {3 + layer % 2}\n"
        for layer in range(LAYERS)
        for linear in names
    )

    found = start_of(written(tmp_path, text), space)

    for number, choice in enumerate(space.choices(found)):
        layer = number // 2
        assert {str(setting) for setting in choice.weights} == {("w3g8", "w4g16")[layer % 2]}


def test_evopress_sparsities_are_steps_from_the_middle(tmp_path: Path) -> None:
    space = space_of(depth=False, sparsities=(WeightSetting.parse("s0.5"),), sparsity_step=64)
    down = "model.layers.0.mlp.down_proj: -2\nmodel.layers.1.mlp.down_proj: 0\n"

    found = space.choices(start_of(written(tmp_path, down), space, middle=0.5))

    weights = GROUPS[SiteKind.MLP][-1].weights
    assert found[1].weights[-1].sparsity == pytest.approx(0.5 - 2 * 64 / weights, abs=1e-6)
    assert found[3].weights[-1].sparsity == 0.5
    assert found[5].is_dense


def test_a_config_of_compressed_tensors_is_read(tmp_path: Path) -> None:
    integers = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 16,
    }
    floats = {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": "channel",
        "group_size": None,
    }
    config = {
        "num_hidden_layers": LAYERS,
        "quantization_config": {
            "config_groups": {
                "group_0": {
                    "targets": [r"re:^model\.layers\.(0|2)\..*_proj$"],
                    "weights": integers,
                },
                "group_1": {"targets": ["model.layers.1.mlp.down_proj"], "weights": floats},
            },
            "ignore": ["lm_head", r"re:.*layers\.2\.self_attn.*"],
        },
    }

    found = CODES.choices(start_of(written(tmp_path, json.dumps(config)), CODES))

    said = [" ".join(map(str, choice.weights)) for choice in found]
    both = "w4g16sym w4g16sym"
    assert said == [both, both, "", "dense fp8", "", both]


O_COLUMNS = GROUPS[SiteKind.ATTENTION][-1].columns
DARWIN = """\
darwinlm: levels.txt
cols_removed_attn: [0, 8, 20, 32]
cols_removed_mlp: [0, 9, 30, 64]
"""


def darwin(folder: Path, levels: str, told: str = DARWIN) -> Path:
    (folder / "levels.txt").write_text(levels, encoding="utf-8")
    return written(folder, told)


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, O_COLUMNS), min_size=1, max_size=6),
    st.lists(st.integers(0, COLUMNS), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_columns_that_darwinlm_removes_are_the_nearest_width(
    tmp_path_factory: pytest.TempPathFactory,
    attention: list[int],
    mlp: list[int],
    random: Random,
) -> None:
    space = space_of(width=True)
    lists = {"cols_removed_attn": attention, "cols_removed_mlp": mlp}
    names = {"self_attn.o_proj": (attention, O_COLUMNS), "mlp.down_proj": (mlp, COLUMNS)}
    levels = {
        (layer, name): random.randrange(len(own))
        for layer in range(LAYERS)
        for name, (own, _) in names.items()
    }
    text = "".join(f"model.layers.{i}.{name}: {n}\n" for (i, name), n in levels.items())
    told = yaml.safe_dump({"darwinlm": "levels.txt"} | lists)

    found = space.choices(start_of(darwin(tmp_path_factory.mktemp("d"), text, told), space))

    for site, choice, ((_, name), level) in zip(space.sites, found, levels.items(), strict=True):
        removed, columns = names[name]
        share = 1 - removed[level] / columns
        widths = [int(str(kept)) for kept in site.genes[0].settings]
        off = abs(choice.kept / choice.total - share)
        assert off <= min(abs(kept / site.units - share) for kept in widths) + 1e-12


@pytest.mark.parametrize(
    ("levels", "told", "reason"),
    [
        ("model.layers.0.self_attn.o_proj: 4\n", DARWIN, "lists 4 levels"),
        ("model.layers.0.self_attn.o_proj: -1\n", DARWIN, "lists 4 levels"),
        ("model.layers.0.mlp.up_proj: 1\n", DARWIN, "names self_attn.o_proj or mlp.down_proj"),
        ("model.layers.3.mlp.down_proj: 1\n", DARWIN, "it names layer 3, and the model has 3"),
        ("model.layers.0.mlp.down_proj: 3\n", DARWIN.replace("64", "65"), "65 columns are taken"),
        ("", "darwinlm: levels.txt\n", "`cols_removed_attn` must list the columns"),
        ("", DARWIN.replace("levels", "nowhere"), "nowhere.txt: No such file"),
    ],
)
def test_what_darwinlm_does_not_say_is_not_guessed(
    tmp_path: Path, levels: str, told: str, reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        start_of(darwin(tmp_path, levels, told), space_of(width=True))


def test_darwinlm_needs_widths_or_drops(tmp_path: Path) -> None:
    space = space_of(depth=False, settings=(WeightSetting.parse("w3g8"),))
    file = darwin(tmp_path, "model.layers.1.mlp.down_proj: 2\n")

    with pytest.raises(SpecError, match="neither drops nor widths of mlp in layer 1"):
        start_of(file, space)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("none\nattn\nnone\nnone\n", None),
        ("none\n" * 3 + "mlp\n", "it names layer 3, and the model has 3"),
        ("", "it is no recipe, no lines of none"),
        ("just words\n", "it is no recipe, no lines of none"),
        ("layers: 3\n", "`layers` must hold a mapping for each layer"),
        ("layers: {0: {attention: w9}}\n", "a setting such as w4g128"),
        ("layers: {0: {attention: width 9/2}}\n", "a width of 4 units must hold"),
        ("layers: {0: {head: drop}}\n", "'head' is not a valid SiteKind"),
        (
            "layers: {0: {attention: w4g16}}\n",
            "the space does not hold attention w4g16 in layer 0",
        ),
        ("a: [\n", "while parsing"),
        (
            '{"data": "mul", "left": null, "right": null}',
            "a tree of Pruner-Zero is a metric and no model: give it to --pruner",
        ),
        ('{"a": 1}', "it has neither `layers` nor `config_groups`, nor"),
        (
            Q.format(0, 4),
            "q, k, v of layer 0 differ (4, dense), and share a setting",
        ),
        (Q.format(7, 4), "it names layer 7, and the model has 3"),
        ("blk.(=q4_0\n", "blk.( is no regular expression"),
        (
            '{"num_hidden_layers": 2, "config_groups": {}}',
            "its model has 2 layers and this one 3: it does not say which are gone",
        ),
    ],
)
def test_what_a_file_does_not_say_is_not_guessed(
    tmp_path: Path, text: str, reason: str | None
) -> None:
    space = space_of(settings=(WeightSetting.parse("w3g8"),))
    if reason is None:
        # A last layer that nothing is said of beyond the model's is still a layer.
        assert read_told(written(tmp_path, text), 4).form == "what EvoPress drops"
        return

    with pytest.raises(SpecError) as caught:
        start_of(written(tmp_path, text), space)

    assert str(tmp_path / "file") in str(caught.value)
    assert reason in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Cannot read .*nowhere: No such file"):
        read_told(tmp_path / "nowhere", 3)


@given(
    st.integers(0, 4),
    st.sampled_from(["", "w4g16 dense", "s0.5+w3 s2:4"]),
    st.sampled_from([None, 8]),
)
def test_a_choice_is_read_as_it_is_written(kept: int, weights: str, cache: int | None) -> None:
    text = (
        "drop"
        if kept == 0
        else ", ".join(
            part
            for part in (
                f"width {kept}/4" if kept < 4 else "",
                weights,
                f"kv{cache}" if cache else "",
            )
            if part
        )
        or "dense"
    )

    assert str(Choice.parse(text, 4)) == text


def leaf(name: str) -> dict[str, object]:
    return {"data": name, "left": None, "right": None}


def test_gradients_and_division_by_a_norm_are_read_of_a_tree(tmp_path: Path) -> None:
    bounded = {"data": "tanh", "left": leaf("G"), "right": None}
    tree = {"data": "div", "left": bounded, "right": leaf("X")}

    formula = read_metric(written(tmp_path, json.dumps(tree)))

    assert formula == "(tanh(G) / norm(square(X)))"
    parse(formula)


def test_a_tree_of_pruner_zero_is_a_formula(tmp_path: Path) -> None:
    squared = {"data": "mul", "left": leaf("W"), "right": leaf("W")}
    scaled = {"data": "mms", "left": {"data": "neg", "left": leaf("X"), "right": None}}
    tree = {"data": "mul", "left": {"data": "abs", "left": squared}, "right": scaled}

    formula = read_metric(written(tmp_path, json.dumps(tree)))

    assert formula == "(abs((abs(W) * abs(W))) * minmax((-square(X))))"
    parse(formula)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (leaf("Y"), "'Y' of 0 is not known. Known: G, W, X, abs"),
        ({"data": "max", "left": leaf("W"), "right": leaf("X")}, "'max' of 2 is not known"),
        ({"data": "abs", "left": {"left": None}}, "every node must hold `data`"),
        ([], "every node must hold `data`"),
    ],
)
def test_a_tree_that_no_formula_stands_for_is_refused(
    tmp_path: Path, tree: object, reason: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read_metric(written(tmp_path, json.dumps(tree)))

    assert reason in str(caught.value)

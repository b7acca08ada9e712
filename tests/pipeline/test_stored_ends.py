"""Token embedding and head in a type of their own: refused where not meant, and as counted."""

import contextlib
import dataclasses
from pathlib import Path

import pytest

from autocompress.errors import SpecError
from autocompress.export.gguf_file import read_gguf
from autocompress.models import loading
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.models.surgery import ShapedModel
from autocompress.operators.ggml_ends import stored_ends
from autocompress.pipeline.dense import read_dense
from autocompress.pipeline.exporting import export_recipe, export_spec, keep_winner
from autocompress.pipeline.gguf_deployment import GgufDeployment
from autocompress.pipeline.inheritance import inherit
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.targets import DenseSize, stored_limits
from autocompress.spec import SearchSpec, from_mapping
from autocompress.spec_rules import EMBEDDINGS
from autocompress.store.base import StudyState
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Genotype, Split
from autocompress.workers.base import BuildJob, Shard
from tests.gguf_files import need_llama_cpp
from tests.refusals import refusal
from tests.tiny_models import make_config

REFERENCE = Path(__file__).parents[2] / "examples" / "reference-model"
SEQUENCES = 8


@pytest.fixture
def llama_cpp() -> None:
    """Skip a test where llama.cpp is not installed."""
    need_llama_cpp()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--embeddings=q6_k",), "embeddings: `engine: llama.cpp` must hold for q6_k"),
        (
            ("--embeddings=q6_k", "--engine=llama.cpp"),
            "embeddings: `hidden % 256 == 0` must hold for q6_k, but got 32. Types that end in _0",
        ),
        (
            ("--embeddings=q8_0", "--engine=llama.cpp", "--recover=10k"),
            "embeddings: `recover` leaves them dense, not in q8_0; give one of the two.",
        ),
    ],
    ids=["engine", "blocks", "training"],
)
def test_what_cannot_be_stored_so_is_refused_before_any_work(
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    line = refusal(["search", str(tiny_llama), "--target-bytes=50%", *flags], capsys)

    assert part in line
    assert not list(tmp_path.iterdir())


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Return where a study `mine` of a tiny model has ended, whose ends are in q8_0."""
    url = f"sqlite:///{tmp_path}/studies.db"
    spec = spec_of("q8_0")
    config = make_config()
    config.intermediate_size = 64  # whole blocks of 32
    shape = shape_of(read_architecture(config))
    size = DenseSize(100_000, 200_000, 16, 50_000, saved_at_ends=10_000)
    with contextlib.closing(create_study(url, "mine", spec.to_json())) as store:
        store.save_document("shape", to_document(shape))
        store.save_document("dense", size.to_document())
        keep_winner(store, space_of(spec, shape).dense)
        store.finish(StudyState.FINISHED, None)
    return url


def spec_of(embeddings: str, **values: object) -> SearchSpec:
    given = {"engine": "llama.cpp", "target_bytes": "50%", "bits": "q8_0", "model": "folder"}
    return from_mapping(given | {"embeddings": embeddings} | values)


def test_a_study_takes_nothing_over_from_one_of_other_ends(storage: str) -> None:
    for kind in EMBEDDINGS:
        if kind != "q8_0":
            with pytest.raises(SpecError, match="but embeddings differ"):
                inherit(storage, spec_of(kind, parent="mine"), {})


def test_a_winner_keeps_its_ends_where_its_format_stays(storage: str, tmp_path: Path) -> None:
    assert export_spec(storage, "mine", None, tmp_path).embeddings == "q8_0"
    assert export_spec(storage, "mine", "gguf", tmp_path).embeddings == "q8_0"
    assert not export_spec(storage, "mine", "hf", tmp_path).has_stored_ends
    assert (
        "--output-tensor-type q8_0" in export_recipe(storage, "mine", "tensor-types", tmp_path).use
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("llama_cpp")
def test_a_file_with_stored_ends_is_what_was_measured_and_counted(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    spec = spec_of(
        "q6_k", model=str(REFERENCE), bits="q4_k", calibration=str(calibration), context=32
    )
    prepared = prepare(spec)
    space = prepared.space
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    session, levels = plan(), plan.open_levels()
    session.build(BuildJob(tuple(range(prepared.architecture.n_layers))))
    model = loading.load_model(prepared.folder, prepared.device)
    shaped = ShapedModel(model, space, levels, ends=stored_ends(model, plan.embeddings))
    (tmp_path / "files").mkdir()
    deployment = GgufDeployment(prepared, shaped, levels, tmp_path / "files")
    candidates = (space.dense, Genotype((1,) * len(space.genes)))
    shard = Shard(candidates, Fidelity(Split.REPORT, 0, 0, SEQUENCES))

    measured = session.measure(shard)
    streamed = dataclasses.replace(plan, weights_bytes=4_000_000)().measure(shard)
    verified = [
        deployment.verify(genotype, own)
        for genotype, own in zip(candidates, measured, strict=True)
    ]
    dense = read_dense(prepared, shaped, SEQUENCES)

    for own, other, found in zip(measured, streamed, verified, strict=True):
        assert own.kl == pytest.approx(other.kl)
        assert found.gate.passed
        assert found.perplexity == pytest.approx(own.perplexity, rel=0.01)
    size = deployment.size()
    (limit,) = stored_limits(spec, space, size)
    counted = [limit.cost.of(space.entries(genotype)) for genotype in candidates]
    assert [own.artifact.tensor_bytes for own in verified] == counted
    assert limit.cost.dense == size.bytes == read_gguf(deployment.dense).bytes
    # 256 numbers take 210 bytes in q6_k, and 512 in f16.
    assert size.saved_at_ends == size.bytes - counted[0] == 4096 * (512 - 210)
    # The ends alone lose little, and the dense model nothing.
    assert 0 < measured[0].loss < measured[1].loss
    assert dense.kl == pytest.approx((0.0,) * SEQUENCES, abs=1e-8)  # A rounding.
    assert dense.perplexity != measured[0].perplexity
    assert dense.perplexity == pytest.approx(measured[0].perplexity, rel=0.01)

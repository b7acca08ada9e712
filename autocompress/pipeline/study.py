"""Runs a study from its spec to its published checkpoint and report, or goes on with one."""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml

from autocompress.errors import (
    AutocompressError,
    DatabaseAway,
    ExportError,
    SpecError,
    StudyHeld,
    UnreachableTarget,
)
from autocompress.evaluators.latency_model import LatencyModel, LatencyTables
from autocompress.export.checkpoint import layer_texts, write_checkpoint
from autocompress.export.manifest import Manifest, write_manifest
from autocompress.export.publishing import check_place, put_in_place
from autocompress.export.render import write_report, write_texts
from autocompress.export.report import Report
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.operators.ggml_ends import stored_ends
from autocompress.operators.levels import Levels
from autocompress.pipeline.aiming import (
    LOOSER_WITHIN_A_BUDGET,
    MARGIN,
    MOST_EASED_WITHIN_A_BUDGET,
    Timed,
)
from autocompress.pipeline.conclusion import (
    MODEL,
    Relearned,
    Standings,
    foreseen,
    make_report,
    measure_standings,
)
from autocompress.pipeline.decoding_stored import is_decoding, is_joint
from autocompress.pipeline.deployment import Deployment, Verified
from autocompress.pipeline.exporting import keep_winner
from autocompress.pipeline.gguf_deployment import GgufDeployment
from autocompress.pipeline.going_on import called_running
from autocompress.pipeline.inheritance import Inherited, inherit
from autocompress.pipeline.latency import engine_device, hardware, measure_speedup
from autocompress.pipeline.measured_on import MEASURED_ON, check_measured_on, measured_on
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.memory import dense_size, winner_memory
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.profiling import Profiles, feed_back, measured_before, strayed
from autocompress.pipeline.recovering import (
    Recovered,
    check_recovery,
    measure_recovered,
    recover,
    unless_it_fails,
)
from autocompress.pipeline.retargeting import with_targets
from autocompress.pipeline.rules import check_rule, kept_scores
from autocompress.pipeline.searching import Found, Measure, Room, check_darwin, search
from autocompress.pipeline.shapes import to_document
from autocompress.pipeline.targets import (
    check_kernels,
    check_start,
    most_memory,
    needed_speedup,
    stored_limits,
    time_limit,
)
from autocompress.pipeline.time_spent import TimeSpent
from autocompress.pipeline.timing_turn import timing_turn
from autocompress.pipeline.torch_deployment import TorchDeployment
from autocompress.pipeline.vllm_deployment import VllmDeployment
from autocompress.search.base import Task
from autocompress.search.driver import SearchDriver
from autocompress.search.listed import check_countable
from autocompress.spaces.cost import Constraint, least_left
from autocompress.spec import SearchSpec, check_compresses_alone, from_mapping
from autocompress.store.base import StudyState, StudyStore
from autocompress.store.holding import held
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Genotype
from autocompress.workers.base import BuildJob, WorkerPool
from autocompress.workers.local_pool import LocalPool
from autocompress.workers.session import SessionPlan

LAYERS_A_JOB = 3
PROMISED = (
    "model",
    "hardware",
    "workload",
    "target",
    "also",
    "met",
    "verdict",
    "speedup",
    "loss",
    "bytes",
    "bits",
    "parameters",
    "gate",
    "seed",
)
"""What a manifest holds of the report: nothing that writing the same study out again changes."""


def start(spec: SearchSpec, storage: str, study: str, output: Path, observer: Observer) -> Report:
    """Search under a new study and publish what it found.

    Bad input is refused before the study's row exists; a target out of reach takes the row away,
    unless something was measured.

    Raises:
        AutocompressError: Whatever stops the search.
    """
    check_compresses_alone(spec, "this study")
    check_kernels(spec)
    prepared = prepare(spec)
    rows = _check(prepared, output)
    own = measured_on(prepared)
    inherited = inherit(storage, spec, own)
    store = create_study(storage, study, spec.to_json())
    with contextlib.closing(store), held(store):
        try:
            return _run(prepared, study, storage, store, own, inherited, rows, output, observer)
        except (DatabaseAway, StudyHeld):
            raise
        except AutocompressError as error:
            if isinstance(error, UnreachableTarget) and not store.row().n_trials:
                store.discard()
            else:
                store.finish(StudyState.FAILED, None)
            raise


def resume(storage: str, study: str, output: Path, observer: Observer) -> Report:
    """Go on with a study that was stopped; one that is finished is written out again.

    What is finished keeps its report until it is written out.

    Raises:
        AutocompressError: Whatever stops the search.
    """
    store = open_study(storage, study)
    with contextlib.closing(store), held(store):
        if is_decoding(store.row()) or is_joint(store.row()):
            raise SpecError(
                f"Study {study!r} searches for a decoding: the command that began it goes on, "
                f"with --study {study}."
            )
        prepared = prepare(from_mapping(store.row().spec))
        rows = _check(prepared, output)
        own = measured_on(prepared)
        check_measured_on(store.row(), store.document(MEASURED_ON), own)
        inherited = inherit(storage, prepared.spec, own)
        with called_running(store):
            return _run(prepared, study, storage, store, own, inherited, rows, output, observer)


def refine(
    storage: str,
    parent: str,
    targets: Mapping[str, object],
    study: str,
    output: Path,
    observer: Observer,
) -> Report:
    """Search on for other targets from where a finished study stands, as a study of its own.

    What the parent measured is not measured again, and its latency table is taken over if this
    machine and engine are those that it is about.

    Args:
        targets: By their names in a spec; `counted_bits` may be among them.

    Raises:
        AutocompressError: Whatever stops the search.
    """
    with contextlib.closing(open_study(storage, parent)) as known:
        spec = with_targets(from_mapping(known.row().spec), targets)
    spec = dataclasses.replace(spec, parent=parent)
    return start(spec, storage, study, output, observer)


def profile(spec: SearchSpec, storage: str, observer: Observer) -> tuple[Prepared, LatencyTables]:
    """Measure the latency tables of a model on this machine, for all studies of a database."""
    if spec.roofline is not None:
        raise SpecError("A roofline is reckoned from peak rates: there is nothing to profile.")
    check_kernels(spec)
    prepared = prepare(spec)
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    with _pool(prepared, plan) as pool:
        _build(prepared, pool, observer)
    with tempfile.TemporaryDirectory() as scratch:
        deployment = _deployment(prepared, plan, Path(scratch))
        return prepared, Profiles(storage).measure(prepared, deployment, observer)


def check_output(output: Path) -> None:
    """Make sure that an artifact can be written, leaving nothing behind.

    Raises:
        ExportError: If the folder cannot be made or written.
    """
    existing = _nearest_existing(output)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ExportError(f"Cannot write {output}: {existing} is no folder that can be written.")


def _check(prepared: Prepared, output: Path) -> np.ndarray | None:
    """Refuse what need not be tried; return the text to train the winner on, if it is to be.

    Raises:
        AutocompressError: If the strategy or the training cannot be meant, or nothing published.
    """
    check_output(output)
    check_place(output / MODEL, _needed(prepared))
    check_rule(prepared)
    check_darwin(prepared)
    return check_recovery(prepared)


def _needed(prepared: Prepared) -> tuple[Path, ...]:
    """Return what a study reads that lies in files of the user."""
    spec = prepared.spec
    named = (spec.start, spec.calibration, spec.recovery_text, spec.latency_table)
    files = (Path(name).expanduser() for name in named if name is not None)
    return (prepared.folder, *files)


def _nearest_existing(path: Path) -> Path:
    """Return the path itself or the first above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _run(
    prepared: Prepared,
    study: str,
    storage: str,
    store: StudyStore,
    own: Mapping[str, str],
    inherited: Inherited,
    rows: np.ndarray | None,
    output: Path,
    observer: Observer,
) -> Report:
    """Search and publish.

    Args:
        own: What losses are measured on.
        rows: (N, T) token ids to train the winner on; None leaves it as it is found.
    """
    spent = TimeSpent(store, observer)
    spec = prepared.spec
    profiles = Profiles(storage, spec.fresh_profile)
    spent.tell("study", {"study": study, "model": spec.model})
    for warning in foreseen(spec):
        spent.tell("warning", {"warning": warning})
    plan = prepared.session_plan(own["weights"])
    with _pool(prepared, plan) as pool, _scratch(output) as scratch:
        store.save_document(MEASURED_ON, own)
        store.save_document("shape", to_document(prepared.shape))
        deployment = _deployment(prepared, plan, scratch)
        dense = dense_size(deployment, store, with_memory=spec.target_memory is not None)
        limits_at = functools.partial(stored_limits, spec, prepared.space, dense)
        limits = limits_at(1.0)
        if spec.strategy == "brute-force" and limits:
            check_countable(
                Task(Constraint(prepared.space, limits), spec.seed, spec.context, available=0)
            )
        # Whatever can be refused by the model's size was: levels may take hours.
        _build(prepared, pool, spent)
        most = most_memory(spec, dense)
        room = None
        if most is not None:

            def held_by(genotype: Genotype) -> int | None:
                _leave_gpu(prepared, pool)
                return winner_memory(deployment, store, genotype)

            room = Room(most, held_by)
        latency, timed = None, None
        if spec.is_timed or spec.roofline is not None:
            latency = profiles.latency(prepared, deployment, store, inherited, spent)
        if spec.is_timed and latency is not None:
            timed = _timed(latency, prepared, spent)
            time_limit(timed.cost, timed.target, timed.fastest, spec)
        machine, measure = _clock(prepared, deployment, latency, timed, pool, spent)
        driver = SearchDriver(pool, store, spent.advance, prepared.cut, inherited.records)
        scores = kept_scores(prepared, deployment.shaped, plan.open_levels(), store, spent)
        found = search(
            prepared,
            limits_at,
            timed,
            driver,
            store,
            _start(prepared, inherited, store),
            scores,
            measure,
            room,
            spent,
        )
        found = dataclasses.replace(found, tokens_of_rules=scores.tokens)
        spent.tell("workers", {"workers": list(map(dataclasses.asdict, pool.utilisation()))})
        spent.stage("report text")
        standings = measure_standings(prepared, found, driver, deployment.shaped)
        _leave_gpu(prepared, pool)
        spent.stage("export and gate")
        verified = deployment.verify(found.winner, standings.winner)
        held = None
        if measure is not None:
            spent.stage("memory")
            dense = dense_size(deployment, store, with_memory=True)
            held = found.held or winner_memory(deployment, store, found.winner)
        feed_back(storage, prepared, deployment, store, latency, found)
        recovered, failure = None, ""
        if rows is not None:
            # What workers hold on the device is needed to train.
            pool.close()
            training = functools.partial(
                _recovered,
                prepared,
                deployment,
                plan,
                found.winner,
                rows,
                standings,
                verified,
                scratch,
                spent,
            )
            again, failure = unless_it_fails(training, spent)
            if again is not None:
                recovered, verified = again
        report = make_report(
            study,
            prepared,
            machine,
            latency,
            found,
            standings,
            verified,
            dense,
            held,
            driver,
            measured_before(store),
            strayed(store),
            recovered,
            failure,
            spent.keep(),
        )
        _publish(prepared, study, found, verified, report, output)
        keep_winner(store, found.winner)
    store.finish(StudyState.FINISHED, report.to_json())
    return report


def _start(prepared: Prepared, inherited: Inherited, store: StudyStore) -> tuple[Genotype, ...]:
    """Return the candidates to begin with: a study goes on with those that it began with."""
    recorded = store.document("start")
    if recorded is None:
        levels = [list(genotype.levels) for genotype in (*prepared.start, *inherited.start)]
        store.save_document("start", {"levels": levels})
        return (*prepared.start, *inherited.start)
    known = recorded["levels"]
    rows = known if isinstance(known, list) else []
    return tuple(Genotype(tuple(map(int, row))) for row in rows if isinstance(row, list))


@contextlib.contextmanager
def _pool(prepared: Prepared, plan: SessionPlan) -> Iterator[WorkerPool]:
    """Open the workers: one for each GPU, or for each core of a CPU."""
    spec = prepared.spec
    gpus = loading.visible_gpus(prepared.device)
    n_workers = spec.workers or len(gpus or os.sched_getaffinity(0))
    pool: WorkerPool
    if spec.pool == "ray":
        # Ray takes a while to import: only those who ask for it wait.
        from autocompress.workers.ray_pool import RayPool

        # A cluster knows how many it holds; this machine may be but where its driver runs.
        wanted = spec.workers if spec.address else n_workers
        # To each actor the GPU that Ray gives it is the only one, whatever its number here.
        theirs = dataclasses.replace(plan, device="cuda") if gpus else plan
        pool = RayPool(theirs, wanted, spec.address, None if gpus else 0.0)
    elif len(gpus) > 1:
        # To each worker its GPU is the only one, and so the one that `cuda` names.
        own = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
        pool = LocalPool(plan, n_workers, own)
    else:
        pool = LocalPool(plan, n_workers)
    try:
        yield pool
    finally:
        pool.close()


@contextlib.contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """Make a folder beside the output, on its disk, that is gone afterwards."""
    existing = _nearest_existing(output)
    with tempfile.TemporaryDirectory(prefix=".autocompress-", dir=existing) as folder:
        yield Path(folder)


def _build(prepared: Prepared, pool: WorkerPool, observer: Observer) -> None:
    """Build the levels that the database lacks."""
    observer.stage("levels")
    n = prepared.architecture.n_layers
    jobs = [
        BuildJob(tuple(range(first, min(first + LAYERS_A_JOB, n))))
        for first in range(0, n, LAYERS_A_JOB)
    ]
    # Compressed layers have to be there before those after them are calibrated.
    in_turn = prepared.spec.upstream != "dense"
    rounds = [[job] for job in jobs] if in_turn else [jobs]
    results = (result for round_ in rounds for _, result in pool.build(round_))
    for done, result in enumerate(results, 1):
        if isinstance(result, Exception):
            raise result
        observer.advance(done, len(jobs))


def _timed(latency: LatencyModel, prepared: Prepared, observer: Observer) -> Timed:
    """Return the speedup to be met under a model's costs, and tell how far it can be trusted."""
    spec, space = prepared.spec, prepared.space
    check, cost = latency.check(space), latency.cost(space)
    fastest = cost.dense / least_left(space, cost)
    times = {"dense_milliseconds": cost.dense, "fastest": fastest}
    if check is None:
        observer.tell("roofline", {**times, "hardware": latency.hardware})
    else:
        errors = {"mape": check.mape, "repeat_error": check.repeat_error}
        observer.tell("latency", times | errors)
    target = needed_speedup(spec, cost) or 1.0
    check_start(spec, cost, target)
    # What is not measured needs no room for the interval of a measurement.
    margin = MARGIN if check is not None else 1.0
    timed = Timed(cost, target, fastest, spec.most_milliseconds is not None, margin)
    if spec.budget_seconds is None:
        return timed
    return dataclasses.replace(
        timed, most_looser=LOOSER_WITHIN_A_BUDGET, most_eased=MOST_EASED_WITHIN_A_BUDGET
    )


def _leave_gpu(prepared: Prepared, pool: WorkerPool) -> None:
    """End the workers where they hold memory of the GPU that an engine is about to run on.

    Those that measure more start anew and load the model again. Of a cluster that was there
    before, nobody here knows which GPU is this one: its workers stay.
    """
    spec = prepared.spec
    if engine_device(spec.engine, prepared.device).type == "cuda" and spec.address is None:
        pool.close()


def _clock(
    prepared: Prepared,
    deployment: Deployment,
    latency: LatencyModel | None,
    timed: Timed | None,
    pool: WorkerPool,
    observer: Observer,
) -> tuple[str, Measure | None]:
    """Return what winners run on, in words, and what times them; None if nothing does."""
    spec = prepared.spec
    if latency is not None and not isinstance(latency, LatencyTables):
        return latency.hardware, None
    # Without a table of this machine's own an engine finds its number of threads by its clock.
    own = None if prepared.imported is not None else latency
    with timing_turn(observer) if own is None else contextlib.nullcontext():
        engine = deployment.engine(own)

    def measure(genotype: Genotype) -> MeasuredSpeedup:
        path = deployment.export(genotype).path
        # Where an imported table decides, no measurement does.
        decides = timed is not None and prepared.imported is None
        is_open = timed.is_open if timed is not None and decides else lambda _: False
        _leave_gpu(prepared, pool)
        with timing_turn(observer):
            return measure_speedup(
                engine, deployment.dense, path, spec.workload, is_open, spec.timing_processes
            )

    return hardware(engine_device(spec.engine, prepared.device), engine.threads), measure


def _deployment(prepared: Prepared, plan: SessionPlan, scratch: Path) -> Deployment:
    """Load the model and make ready what the engine needs of it."""
    spec, levels = prepared.spec, plan.open_levels()
    model = loading.load_model(
        prepared.folder, prepared.device, spec.dtype, spec.trust_remote_code
    )
    shaped = ShapedModel(model, prepared.space, levels, ends=stored_ends(model, plan.embeddings))
    return _deployed(prepared, shaped, levels, scratch)


def _deployed(
    prepared: Prepared, shaped: ShapedModel, levels: Levels, scratch: Path
) -> Deployment:
    """Return how candidates of a model are deployed on the spec's engine."""
    kinds: Mapping[str, Callable[..., Deployment]] = {
        "llama.cpp": GgufDeployment,
        "vllm": VllmDeployment,
    }
    make = kinds.get(prepared.spec.engine, TorchDeployment)
    return make(prepared, shaped, levels, scratch)


def trained_deployment(prepared: Prepared, trained: Recovered, folder: Path) -> Deployment:
    """Return how a winner is deployed that was trained.

    Args:
        folder: For what is written.
    """
    if prepared.spec.engine != "llama.cpp":
        return _deployed(prepared, trained.shaped, trained.levels, folder)
    # What a GGUF file stores dense comes from a checkpoint: that of the search was not trained.
    trained.shaped.apply_dense()
    whole = write_checkpoint(trained.shaped, prepared.folder, folder / "whole", trained.levels)
    return GgufDeployment(prepared, trained.shaped, trained.levels, folder, whole.folder)


def _recovered(
    prepared: Prepared,
    deployment: Deployment,
    plan: SessionPlan,
    winner: Genotype,
    rows: np.ndarray,
    standings: Standings,
    searched: Verified,
    scratch: Path,
    observer: Observer,
) -> tuple[Relearned, Verified] | None:
    """Train a winner, put it through the gate again, and measure its file; None if it is whole."""
    found = recover(prepared, deployment.shaped, plan, winner, rows, observer)
    if found is None:
        return None
    folder = scratch / "recovered"
    folder.mkdir()
    trained = trained_deployment(prepared, found, folder)
    observer.stage("recovered: report text")
    n = len(standings.winner.kl)
    measured = measure_recovered(prepared, found, winner, n, deployment.shaped)
    observer.stage("recovered: gate")
    verified = trained.verify(winner, measured)
    # What the dense model answers is told by the dense model.
    prompt, dense, _ = searched.answers
    verified = dataclasses.replace(verified, answers=(prompt, dense, verified.answers[2]))
    spec = prepared.spec
    relearned = Relearned(found.trained, measured, rows.size, spec.recovery_rate)
    observer.tell(
        "recovered",
        {
            "tokens": found.trained.tokens,
            "before": standings.winner.loss,
            "after": measured.loss,
            "seconds": found.trained.seconds,
        },
    )
    return relearned, verified


def _publish(
    prepared: Prepared,
    study: str,
    found: Found,
    verified: Verified,
    report: Report,
    output: Path,
) -> None:
    """Put the checkpoint with its manifest, the recipe and the report into the output folder."""
    recipe, artifact = _recipe(prepared, study, found), verified.artifact
    engine, told = verified.gate.engine, report.to_json()
    promised = {name: told[name] for name in PROMISED}
    manifest = Manifest(study, engine, report.versions, artifact, recipe, promised)
    write_manifest(manifest, verified.reference)
    put_in_place(artifact.folder, output / MODEL, _needed(prepared))
    write_texts({"recipe.yaml": yaml.safe_dump(recipe, sort_keys=False)}, output)
    write_report(report, output)


def _recipe(prepared: Prepared, study: str, found: Found) -> Mapping[str, object]:
    """Return the winner as data."""
    space, spec = prepared.space, prepared.spec
    return {
        "study": study,
        "model": spec.model,
        "genotype": list(found.winner.levels),
        **({"embeddings": spec.embeddings} if spec.format == "gguf" else {}),
        "layers": layer_texts(space, space.choices(found.winner)),
    }

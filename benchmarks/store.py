"""What the store, the driver and the dashboard take at 1,000 and at 100,000 trials.

    AUTOCOMPRESS_TEST_POSTGRES=postgresql+psycopg://root@127.0.0.1:5432/test \
        python -m benchmarks.store --output benchmarks/results/store.json

Candidates are random ones of the reference model in bits and depth, read on eight sequences. They
are recorded a thousand at a time; then Ray workers that answer at once measure further ones, so
that what is left is driver, store and Ray; then the dashboard is brought up to date, and asked.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from autocompress.evaluators.subprocess_call import nobody
from autocompress.export.checkpoint import stored_numbers, stored_tensor_bytes
from autocompress.models import loading
from autocompress.models.architecture import shape_of
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.targets import DenseSize
from autocompress.search.base import Batch
from autocompress.search.driver import SearchDriver
from autocompress.spaces.base import SearchSpace
from autocompress.spec import from_mapping
from autocompress.store.base import Record, TrialLoss
from autocompress.store.mirror import MOST_TRIALS
from autocompress.store.study_store import SqlStudyStore, create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workers.ray_pool import RayPool
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL, ROOT
from benchmarks.null_session import NullFactory

SIZES = (1_000, 100_000)
AT_ONCE = 1_000
SEQUENCES = 8
BATCH = 16
BATCHES = 60
ASKED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments = parser.parse_args()
    spec = from_mapping(
        {"model": str(MODEL), "target_bits": 4, "space": "depth,bits", "bits": "8,6,5,4,3,2"}
    )
    shape = shape_of(loading.load_architecture(loading.resolve(str(MODEL)), False), fused=True)
    space = space_of(spec, shape)
    rows = []
    for kind, url in databases():
        store = create_study(url, f"bench-{uuid.uuid4().hex[:8]}", spec.to_json())
        store.save_document("shape", to_document(shape))
        store.save_document("dense", dense_size(space).to_document())
        with contextlib.closing(store):
            rng = np.random.default_rng(0)
            known, spent = 0, 0.0
            for size in sorted(arguments.sizes):
                spent += fill(store, space, rng, size - known)
                known = size
                row = {"database": kind, "trials": size, "inserts_a_second": size / spent}
                row |= {"best_ms": best(store)} | overhead(store, space, rng)
                known += BATCH * BATCHES
                row |= dashboard(url, min(known, MOST_TRIALS))
                rows.append(row)
                print(json.dumps(row), flush=True)
    machine = hardware(loading.pick_device("cpu"), 0)
    write_whole(arguments.output, {"hardware": machine, "genes": len(space.genes), "rows": rows})


def databases() -> Iterator[tuple[str, str]]:
    """Yield a fresh database of each kind that is at hand."""
    with tempfile.TemporaryDirectory() as folder:
        yield "SQLite", f"sqlite:///{folder}/studies.db"
    server = os.environ.get("AUTOCOMPRESS_TEST_POSTGRES")
    if not server:
        return
    schema = f"bench_{uuid.uuid4().hex[:8]}"
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    url = sa.make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield "PostgreSQL", url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            for own in (schema, f"{schema}_optuna"):
                connection.execute(sa.schema.DropSchema(own, cascade=True, if_exists=True))


def dense_size(space: SearchSpace) -> DenseSize:
    numbers = stored_numbers(MODEL)
    weights = sum(group.weights for site in space.sites for group in site.groups)
    return DenseSize(numbers, stored_tensor_bytes(MODEL), 16, weights)


def drawn(space: SearchSpace, rng: np.random.Generator, n: int) -> list[Genotype]:
    """Draw candidates."""
    highs = [len(menu) for menu in space.menus]
    return [space.genotype(entries) for entries in rng.integers(0, highs, (n, len(highs)))]


def fill(store: SqlStudyStore, space: SearchSpace, rng: np.random.Generator, n: int) -> float:
    """Record so many candidates more; return the seconds that the store took."""
    seconds = 0.0
    reading = Fidelity(Split.SEARCH, 0, 0, SEQUENCES)
    for first in range(0, n, AT_ONCE):
        losses = rng.uniform(0.05, 2.0, (AT_ONCE, SEQUENCES)).tolist()
        records = [
            Record(genotype, reading, Measurement(tuple(kl), tuple(kl), 255), None, 0.1)
            for genotype, kl in zip(
                drawn(space, rng, min(AT_ONCE, n - first)), losses, strict=False
            )
        ]
        lost = [
            TrialLoss(own.genotype, SEQUENCES, own.measurement.loss)
            for own in records
            if own.measurement is not None
        ]
        started = time.perf_counter()
        store.record(records, lost)
        seconds += time.perf_counter() - started
    return seconds


def best(store: SqlStudyStore) -> float:
    """Return the milliseconds of asking for the twenty best trials."""
    taken = []
    for _ in range(ASKED):
        started = time.perf_counter()
        store.best(20)
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken)


def overhead(
    store: SqlStudyStore, space: SearchSpace, rng: np.random.Generator
) -> dict[str, float]:
    """Return what a trial takes of workers that answer at once."""
    pool = RayPool(NullFactory(), 2, None)
    with contextlib.closing(pool):
        started = time.perf_counter()
        driver = SearchDriver(pool, store, nobody)
        opened = time.perf_counter() - started
        reading = Fidelity(Split.SEARCH, 0, 0, SEQUENCES)
        driver.measure(Batch(tuple(drawn(space, rng, BATCH)), reading))
        taken = []
        for _ in range(BATCHES - 1):
            batch = Batch(tuple(drawn(space, rng, BATCH)), reading)
            started = time.perf_counter()
            driver.measure(batch)
            taken.append(1e3 * (time.perf_counter() - started) / BATCH)
    return {
        "seconds_to_resume": opened,
        "ms_a_trial": statistics.median(taken),
        "p95_ms_a_trial": statistics.quantiles(taken, n=20)[-1],
    }


def dashboard(url: str, shown: int) -> dict[str, float]:
    """Return the seconds until the dashboard is fresh, and what its pages take."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "autocompress", "serve", "--port=0"),
                *(f"--storage={url}", f"--artifacts={folder}/artifacts"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        if process.stdout is None:
            raise SystemExit("the dashboard says nothing")
        page = process.stdout.readline().strip().removesuffix("/dashboard")
        while not (studies := read(f"{page}/api/studies")["study_summaries"]) or (
            len(read(f"{page}/api/studies/{studies[0]['study_id']}")["trials"]) < shown
        ):
            time.sleep(1)
        fresh = time.perf_counter() - started
        listed, _ = asked(f"{page}/api/studies")
        cold, size = asked(f"{page}/api/studies/1")
        warm = statistics.median(asked(f"{page}/api/studies/1")[0] for _ in range(ASKED))
        process.terminate()
        process.wait()
        process.stdout.close()
    return {
        "seconds_until_fresh": fresh,
        "list_ms": 1e3 * listed,
        "study_cold_ms": 1e3 * cold,
        "study_warm_ms": 1e3 * warm,
        "study_bytes": size,
    }


def asked(url: str) -> tuple[float, int]:
    """Return the seconds and the bytes of an answer."""
    started = time.perf_counter()
    with urllib.request.urlopen(url) as opened:  # noqa: S310  # our own server
        size = len(opened.read())
    return time.perf_counter() - started, size


def read(url: str) -> Any:
    with urllib.request.urlopen(url) as opened:  # noqa: S310  # our own server
        return json.loads(opened.read())


if __name__ == "__main__":
    main()

"""One run of a schedule: measure what is deployed, search on from it, promote what is better.

`python -m autocompress.service.nightly STORAGE RUN SCHEDULER` is the process of its own that a
scheduler starts for each run, and that ends with it: what was begun is found again.
"""

import dataclasses
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autocompress.errors import AutocompressError, DatabaseAway, SpecError, StoreError
from autocompress.export.manifest import read_manifest
from autocompress.export.report import Report
from autocompress.models import loading, text
from autocompress.pipeline.comparing import losses_of, machine_of, speedup_between
from autocompress.pipeline.conclusion import MODEL, versions
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.study import resume, start
from autocompress.service import promotion
from autocompress.service.event_log import EventLog
from autocompress.service.promotion import Candidate, Deployed, Outcome, Verdict
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import Json
from autocompress.store.schedules import Run, RunState, Schedule, ScheduleStore, open_schedules
from autocompress.store.study_store import list_studies

HOOK_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 0.5
RECIPE: Final = "recipe.yaml"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a schedule does with what it finds.

    Args:
        output: Takes the history, and the link to what is deployed.
        keep: Folders of the history that are kept; what is deployed and what it replaced are.
        hook: A command that is given each verdict as JSON on standard input.
        webhook: A URL that each verdict is posted to.
    """

    output: str
    keep: int = 14
    hook: str | None = None
    webhook: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Json]) -> "Settings":
        """Read what `to_json` wrote."""
        return cls(**values)  # type: ignore[arg-type]  # written by `to_json`

    def to_json(self) -> dict[str, Json]:
        """Return plain values."""
        return dataclasses.asdict(self)


def study_name(schedule: Schedule, run: Run) -> str:
    """Return the name of a run's study: such names sort by the time that they were due at."""
    stamp = run.due_at[:19].replace("-", "").replace(":", "").replace("T", "-")
    return f"{schedule.name}-{stamp}"


def run_once(
    storage: str, store: ScheduleStore, schedule: Schedule, run: Run, observer: Observer
) -> Verdict:
    """Carry a run to its verdict; one that was begun before goes on where it was.

    Raises:
        AutocompressError: If what stands in the way is not what it searches for: the database, the
            spec or the output folder.
    """
    settings = Settings.from_json(schedule.settings)
    output = Path(settings.output)
    study = study_name(schedule, run)
    folder = output / promotion.HISTORY / study
    spec = _spec_of(schedule, run, store)
    known = promotion.read_verdict(folder)
    deployed_at = promotion.current(output)
    if known and deployed_at == folder.resolve():
        # It was promoted, and the end of that was never recorded.
        verdict = Verdict(Outcome(str(known["outcome"])), tuple(map(str, _list(known["reasons"]))))
        return _conclude(store, run, settings, verdict, dict(known))
    facts = _facts(spec)
    deployed = None if deployed_at is None else _measured_again(spec, deployed_at, observer)
    changes = () if deployed_at is None else _changes(promotion.read_verdict(deployed_at), facts)
    report, lacking = _search(spec, storage, study, folder, deployed_at, observer)
    found = Candidate(lacking)
    if report is not None and lacking is None:
        found = _beside(spec, report, folder, deployed_at, deployed, observer)
    verdict = promotion.decide(deployed, found)
    verdict = dataclasses.replace(verdict, reasons=(*changes, *verdict.reasons))
    told: dict[str, Json] = {
        **verdict.to_json(),
        "schedule": schedule.name,
        "study": study,
        "due_at": run.due_at,
        "output": str(folder),
        "replaced": None if deployed_at is None else deployed_at.name,
        "facts": facts,
    }
    if report is not None:
        told["promised"] = _promised(report)
    promotion.keep_verdict(folder, told)
    if verdict.outcome is Outcome.PROMOTED:
        promotion.promote(output, folder)
    told["deleted"] = list(promotion.clear_history(output, settings.keep))
    return _conclude(store, run, settings, verdict, told)


def _conclude(
    store: ScheduleStore,
    run: Run,
    settings: Settings,
    verdict: Verdict,
    told: dict[str, Json],
) -> Verdict:
    """Record a verdict and tell it; that nobody listens changes nothing."""
    told["hooks"] = list(_tell(settings, told))
    store.finish(run, RunState.FINISHED, told)
    return verdict


def _spec_of(schedule: Schedule, run: Run, store: ScheduleStore) -> SearchSpec:
    """Return the spec of a run: each searches with another seed than those before."""
    spec = from_mapping(schedule.spec)
    number = [own.due_at for own in store.runs(schedule.id)].index(run.due_at)
    return dataclasses.replace(spec, seed=spec.seed + number)


def _facts(spec: SearchSpec) -> dict[str, Json]:
    """Return all that a measurement depends on, by name."""
    prepared = prepare(spec)
    return {
        "versions": dict(versions()),
        "hardware": machine_of(spec),
        "checkpoint": loading.fingerprint(prepared.folder),
        "calibration": text.fingerprint(prepared.sequences),
    }


def _changes(before: Mapping[str, Json], facts: Mapping[str, Json]) -> tuple[str, ...]:
    """Return what is not as it was when something was deployed, in words."""
    known = before.get("facts")
    if not isinstance(known, Mapping):
        return ()
    found = []
    for name, value in facts.items():
        old = known.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found += [
                f"{package} {old.get(package)} became {version}"
                for package, version in value.items()
                if old.get(package) != version
            ]
        elif old != value:
            said = f": {old} became {value}" if name == "hardware" else ""
            found.append(f"the {name} changed since the deployed model was published{said}")
    return tuple(found)


def _measured_again(spec: SearchSpec, folder: Path, observer: Observer) -> Deployed:
    """Measure what is deployed, from its files."""
    known = promotion.read_verdict(folder).get("promised")
    promised: Mapping[str, Any] = known if isinstance(known, Mapping) else {}
    model = _model_of(folder)
    try:
        read_manifest(folder / MODEL)
        (measurement,) = losses_of(spec, [model], observer)
        speed = speedup_between(spec, spec.model, str(model), observer) if spec.is_timed else None
    except DatabaseAway:
        raise
    except AutocompressError as error:
        return Deployed(" ".join(str(error).split()))
    observer.tell("deployed", {"study": folder.name, "loss": measurement.loss})
    return Deployed(
        None,
        _pair(promised.get("kl")),
        _pair(promised.get("speedup")),
        measurement,
        None if speed is None else speed.interval,
        spec.target_speedup,
    )


def _search(
    spec: SearchSpec,
    storage: str,
    study: str,
    folder: Path,
    deployed: Path | None,
    observer: Observer,
) -> tuple[Report | None, str | None]:
    """Search, or go on; return the report, and why its winner cannot be published, if so."""
    states = {row.name: row for row in list_studies(storage)}
    try:
        if study in states:
            report = resume(storage, study, folder, observer)
        else:
            report = start(_begun_at(spec, deployed), storage, study, folder, observer)
    except StoreError:
        raise
    except AutocompressError as error:
        return None, f"the search ended without a model: {' '.join(str(error).split())}"
    if not report.met:
        return report, "the search's winner misses the target"
    if report.gate is None or not report.gate.passed:
        return report, "the search's winner failed the gate"
    return report, None


def _begun_at(spec: SearchSpec, deployed: Path | None) -> SearchSpec:
    """Return the spec that begins with what is deployed, where its space holds that."""
    if deployed is None or spec.start is not None:
        return spec
    begun = dataclasses.replace(spec, start=str(deployed / RECIPE))
    try:
        prepare(begun)
    except SpecError:
        return spec
    return begun


def _beside(
    spec: SearchSpec,
    report: Report,
    folder: Path,
    deployed_at: Path | None,
    deployed: Deployed | None,
    observer: Observer,
) -> Candidate:
    """Measure the new model beside what is deployed."""
    new = folder / report.checkpoint
    if deployed_at is None or deployed is None or deployed.broken is not None:
        return Candidate(None)
    old = _model_of(deployed_at)
    mine, theirs = losses_of(spec, [new, old], observer)
    speed = speedup_between(spec, str(old), str(new), observer) if spec.is_timed else None
    return Candidate(None, mine, theirs, None if speed is None else speed.interval)


def _model_of(folder: Path) -> Path:
    """Return what is opened of a published folder: the model's, or a file in it."""
    manifest = folder / MODEL / "manifest.json"
    try:
        file = json.loads(manifest.read_text(encoding="utf-8"))["artifact"]["file"]
    except (OSError, ValueError, KeyError, TypeError):
        file = None
    return folder / MODEL / file if file else folder / MODEL


def _promised(report: Report) -> Json:
    """Return what a later run holds the model to."""
    stderr = report.loss.kl_stderr or 0.0
    kl = report.loss.kl
    measured = report.speedup.measured_interval
    return {
        "kl": [kl - 1.96 * stderr, kl + 1.96 * stderr],
        "speedup": None if measured is None else list(measured),
        "bytes": report.bytes.compressed,
    }


def _tell(settings: Settings, told: Mapping[str, Json]) -> list[str]:
    """Tell a verdict to whoever asked for it; return what went wrong, in words."""
    body = json.dumps(told)
    problems = []
    if settings.hook is not None:
        try:
            done = subprocess.run(
                shlex.split(settings.hook),
                check=False,
                input=body,
                text=True,
                timeout=HOOK_SECONDS,
                capture_output=True,
                env={**os.environ, "AUTOCOMPRESS_VERDICT": str(told["outcome"])},
            )
            if done.returncode:
                problems.append(f"the hook ended with {done.returncode}: {done.stderr[-500:]}")
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            problems.append(f"the hook could not be run: {error}")
    if settings.webhook is not None:
        request = urllib.request.Request(  # noqa: S310  # `add` takes http and https alone.
            settings.webhook,
            data=body.encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=HOOK_SECONDS):  # noqa: S310
                pass
        except (OSError, ValueError) as error:
            problems.append(f"the webhook could not be reached: {error}")
    for problem in problems:
        _log.warning("%s", problem)
    return problems


def _pair(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    return float(value[0]), float(value[1])


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _end_with(scheduler: int) -> None:
    """End this process when its scheduler dies: another one takes the run over.

    Args:
        scheduler: Its process. It may be gone by now: importing torch takes seconds.
    """

    def watch() -> None:
        while os.getppid() == scheduler:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    if os.getppid() != scheduler:
        sys.exit(1)
    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Run what a scheduler claimed; return the exit status."""
    storage, number, scheduler = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _end_with(scheduler)
    with open_schedules(storage) as store:
        schedule, run = store.find_run(number)
        log = EventLog({"schedule": schedule.name, "study": study_name(schedule, run)})
        try:
            verdict = run_once(storage, store, schedule, run, log)
        except DatabaseAway:
            raise
        except AutocompressError as error:
            said = " ".join(str(error).split())
            told: dict[str, Json] = {"outcome": None, "schedule": schedule.name, "error": said}
            told["hooks"] = list(_tell(Settings.from_json(schedule.settings), told))
            store.finish(run, RunState.FAILED, told)
            _log.error("%s", said)
            return 2
    log.tell("verdict", {"outcome": verdict.outcome, "reasons": "; ".join(verdict.reasons)})
    return 0


if __name__ == "__main__":
    sys.exit(main())

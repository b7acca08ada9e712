"""One run of a schedule: measure what is deployed, search on from it, promote what is better.

`python -m autocompress.service.nightly STORAGE RUN CLAIMANT PID` is the process of its own that a
scheduler starts for each run, and that ends with it: what was begun is found again.
"""

import dataclasses
import http.client
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autocompress.errors import AutocompressError, DatabaseAway, SpecError, StoreError
from autocompress.export.manifest import check_files, read_manifest
from autocompress.export.report import Report
from autocompress.export.report import Verdict as Verdicts
from autocompress.models import loading, text
from autocompress.pipeline.comparing import losses_of, machine_of, speedup_between
from autocompress.pipeline.conclusion import MODEL, versions
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.study import resume, start
from autocompress.service import promotion
from autocompress.service.event_log import EventLog
from autocompress.service.parent import end_with
from autocompress.service.promotion import Candidate, Deployed, Outcome, Verdict
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import Json
from autocompress.store.schedules import Run, RunState, Schedule, ScheduleStore, open_schedules
from autocompress.store.study_store import find_study

HOOK_SECONDS: Final = 60.0
INTERRUPTED: Final = 130
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
    storage: str,
    store: ScheduleStore,
    schedule: Schedule,
    run: Run,
    claimant: str,
    observer: Observer,
) -> Verdict:
    """Carry a run to its verdict; one that was begun before goes on where it was.

    Raises:
        AutocompressError: If what stands in the way is not what it searches for: the database, the
            spec or the output folder.
    """
    settings = Settings.from_json(schedule.settings)
    # Another run must not change what is deployed while this one measures it.
    with promotion.locked(Path(settings.output)) as output:
        told = _verdict(storage, store, schedule, run, output, settings.keep, observer)
    told["hooks"] = list(_tell(settings, told))
    store.finish(run, claimant, RunState.FINISHED, told)
    return Verdict(Outcome(str(told["outcome"])), tuple(map(str, _list(told["reasons"]))))


def _verdict(
    storage: str,
    store: ScheduleStore,
    schedule: Schedule,
    run: Run,
    output: Path,
    keep: int,
    observer: Observer,
) -> dict[str, Json]:
    """Measure, search and promote; return the verdict with all that it stands on."""
    study = study_name(schedule, run)
    folder = output / promotion.HISTORY / study
    spec = _spec_of(schedule, run, store)
    known = promotion.read_verdict(folder)
    deployed_at = promotion.current(output)
    if known and deployed_at == folder.resolve():
        # It was promoted, and the end of that was never recorded.
        return dict(known)
    facts = _facts(spec)
    deployed = None if deployed_at is None else _measured_again(spec, deployed_at, observer)
    changes = () if deployed_at is None else _changes(promotion.read_verdict(deployed_at), facts)
    report, lacking = _search(spec, storage, study, folder, deployed_at, observer)
    found = Candidate(lacking)
    if report is not None and lacking is None:
        found = _beside(spec, report, folder, deployed_at, deployed, observer)
    verdict = promotion.decide(deployed, found)
    verdict = promotion.unless_changed(verdict, deployed_at, promotion.current(output))
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
    told["deleted"] = list(promotion.clear_history(output, keep))
    return told


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
    """Measure what is deployed, from its files.

    Raises:
        AutocompressError: If it is as it was published, and cannot be measured here and now.
    """
    known = promotion.read_verdict(folder).get("promised")
    promised: Mapping[str, Any] = known if isinstance(known, Mapping) else {}
    try:
        check_files(read_manifest(folder / MODEL))
    except AutocompressError as error:
        return Deployed(" ".join(str(error).split()))
    model = _model_of(folder)
    (measurement,) = losses_of(spec, [model], observer)
    speed = speedup_between(spec, spec.model, str(model), observer) if spec.is_clocked else None
    observer.tell("deployed", {"study": folder.name, "loss": measurement.loss})
    return Deployed(
        None,
        _pair(promised.get("kl")),
        _pair(promised.get("speedup")),
        measurement,
        None if speed is None else speed.interval,
        spec.target_speedup,
        None if speed is None else speed.compressed_interval,
        spec.most_milliseconds,
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
    try:
        if find_study(storage, study) is not None:
            report = resume(storage, study, folder, observer)
        else:
            report = start(_begun_at(spec, deployed), storage, study, folder, observer)
    except StoreError:
        raise
    except AutocompressError as error:
        return None, f"the search ended without a model: {' '.join(str(error).split())}"
    if not report.met:
        return report, "the search's winner misses the target"
    if report.verdict is not Verdicts.USABLE:
        return report, "the search's winner is not usable without recovery"
    if report.gate is None or not report.gate.passed:
        return report, "the search's winner failed the gate"
    return report, None


def _begun_at(spec: SearchSpec, deployed: Path | None) -> SearchSpec:
    """Return the spec that begins with what is deployed, where its strategy and space do that."""
    if deployed is None or spec.start is not None:
        return spec
    try:
        begun = from_mapping({**spec.to_json(), "start": str(deployed / RECIPE)})
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
    speed = speedup_between(spec, str(old), str(new), observer) if spec.is_clocked else None
    return Candidate(None, mine, theirs, None if speed is None else speed.interval)


def _model_of(folder: Path) -> Path:
    """Return what is opened of a published folder: the model's, or a file in it."""
    return folder / MODEL / (read_manifest(folder / MODEL).artifact.file or "")


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
        except (OSError, ValueError, http.client.HTTPException) as error:
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


def main() -> int:
    """Run what a scheduler claimed; return the exit status."""
    storage, number, claimant, scheduler = sys.argv[1:]
    end_with(int(scheduler))
    # Whoever ends it lets it clear up behind itself, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with open_schedules(storage) as store:
        schedule, run = store.find_run(int(number))
        log = EventLog({"schedule": schedule.name, "study": study_name(schedule, run)})
        try:
            verdict = run_once(storage, store, schedule, run, claimant, log)
        except DatabaseAway:
            raise
        except (AutocompressError, OSError) as error:
            said = " ".join(str(error).split())
            told: dict[str, Json] = {"outcome": None, "schedule": schedule.name, "error": said}
            told["hooks"] = list(_tell(Settings.from_json(schedule.settings), told))
            store.finish(run, claimant, RunState.FAILED, told)
            _log.error("%s", said)
            return 2
        except KeyboardInterrupt:
            return INTERRUPTED
    log.tell("verdict", {"outcome": verdict.outcome, "reasons": "; ".join(verdict.reasons)})
    return 0


if __name__ == "__main__":
    sys.exit(main())

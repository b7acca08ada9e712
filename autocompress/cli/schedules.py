"""What `schedule` does."""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from autocompress.errors import EvaluationError, SpecError
from autocompress.spec import check_compresses_alone, from_mapping, read_yaml
from autocompress.spec_values import check_plain_name
from autocompress.store.base import Json

DEFAULT_OUTPUT = Path("autocompress-out")


def add(parsed: argparse.Namespace) -> None:
    """Add a schedule, all of it checked."""
    from autocompress.service.firings import check_cron, firings
    from autocompress.service.named_files import from_anywhere
    from autocompress.service.nightly import Settings
    from autocompress.store.schedules import open_schedules

    # The scheduler that runs it may have been started elsewhere.
    spec = from_anywhere(from_mapping(read_yaml(parsed.spec)))
    check_compresses_alone(spec, "a schedule")
    check_cron(parsed.cron, parsed.zone)
    name = parsed.name or parsed.spec.stem
    check_plain_name(name)
    if parsed.keep < 1:
        raise SpecError(f"`--keep >= 1` must hold, but got {parsed.keep}.")
    if parsed.webhook is not None and not parsed.webhook.startswith(("http://", "https://")):
        raise SpecError(f"`--webhook` must be an http or https URL, but got {parsed.webhook!r}.")
    output = parsed.output or DEFAULT_OUTPUT / name
    settings = Settings(str(output.resolve()), parsed.keep, parsed.hook, parsed.webhook)
    with open_schedules(parsed.storage) as store:
        added = store.add(name, parsed.cron, parsed.zone, spec.to_json(), settings.to_json())
    following = next(firings(added.cron, added.zone, datetime.now(UTC)))
    print(
        f"{name}: next at {_local(following, added.zone)}, by a running "
        f"`autocompress schedule start`; deploys to {output / 'current'}"
    )


def show(parsed: argparse.Namespace) -> None:
    """List schedules, with the verdicts of their last runs."""
    from autocompress.service.firings import firings
    from autocompress.service.promotion import current
    from autocompress.store.schedules import open_schedules

    with open_schedules(parsed.storage) as store:
        for own in store.all():
            runs = store.runs(own.id)
            deployed = current(Path(str(own.settings["output"])))
            following = next(firings(own.cron, own.zone, datetime.now(UTC)))
            told: dict[str, Json] = {
                "schedule": own.name,
                "cron": own.cron,
                "zone": own.zone,
                "next": following.isoformat(),
                "current": None if deployed is None else str(deployed),
                "runs": [
                    {"due_at": run.due_at, "state": run.state.value, "verdict": run.verdict}
                    for run in runs
                ],
            }
            if parsed.json:
                print(json.dumps(told))
                continue
            print(f"{own.name}  {own.cron!r} {own.zone}, next {_local(following, own.zone)}")
            print(f"  current: {told['current'] or 'nothing'}")
            for run in runs[-5:]:
                verdict = run.verdict or {}
                outcome = verdict.get("outcome") or run.state.value
                reasons = verdict.get("reasons") or [verdict.get("error") or ""]
                said = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
                print(f"  {run.due_at}  {outcome:<9}  {said}")


def remove(parsed: argparse.Namespace) -> None:
    """Take a schedule away."""
    from autocompress.store.schedules import open_schedules

    with open_schedules(parsed.storage) as store:
        store.remove(parsed.name)


def run(parsed: argparse.Namespace) -> None:
    """Run a schedule now."""
    from autocompress.service.scheduler import Scheduler
    from autocompress.store.schedules import RunState, open_schedules

    with open_schedules(parsed.storage) as store:
        own = store.named(parsed.name)
        scheduler = Scheduler(parsed.storage, store, _say)
        claimed = scheduler.claim_now(own)
        if claimed is None:
            raise SpecError(f"Schedule {own.name!r} is running: try again when it has ended.")
        if scheduler.carry_out(own, claimed) is not RunState.FINISHED:
            verdict = next(r for r in store.runs(own.id) if r.id == claimed.id).verdict or {}
            raise EvaluationError(str(verdict.get("error")))


def start(parsed: argparse.Namespace) -> None:
    """Run schedules when they are due."""
    from autocompress.service.scheduler import Scheduler
    from autocompress.store.schedules import open_schedules

    with open_schedules(parsed.storage) as store:
        Scheduler(parsed.storage, store, _say).forever()


def rollback(parsed: argparse.Namespace) -> None:
    """Deploy again what was deployed before."""
    from autocompress.service.promotion import roll_back
    from autocompress.store.schedules import open_schedules

    with open_schedules(parsed.storage) as store:
        own = store.named(parsed.name)
    print(roll_back(Path(str(own.settings["output"]))))


def _say(kind: str, values: dict[str, Json]) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"at": at, "event": kind, **values}), flush=True)


def _local(time: datetime, zone: str) -> str:
    return time.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M %Z")

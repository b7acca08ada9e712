"""The HTTP API: submit searches, watch them, fetch what they published.

Every answer is JSON but the page, the events and the files. It binds to the loopback and wants a
token beyond it. Bodies are small, requests are counted, and no path leads out of the folder that
searches publish into, nor into files beside the folder that specs may name.
"""

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from pydantic import BaseModel, ConfigDict, Field

import autocompress
from autocompress.errors import AutocompressError, DatabaseAway, SpecError, StoreError
from autocompress.evaluators.lm_eval_tasks import PREFIX as LM_EVAL
from autocompress.service.firings import check_cron
from autocompress.service.jobs import Jobs, read_events
from autocompress.service.named_files import FILES
from autocompress.service.nightly import Settings
from autocompress.service.web_page import PAGE, POLICY
from autocompress.spec import check_compresses_alone, from_mapping
from autocompress.store.base import Json, StudyRow, StudyState
from autocompress.store.schedules import Schedule, ScheduleStore, open_schedules
from autocompress.store.study_store import find_study, list_studies, open_study

MOST_BODY: Final = 64 * 1024
"""Bytes of a request."""
MOST_A_SECOND: Final = 20.0
"""Requests of one client, after a burst."""
BURST: Final = 100.0
MOST_CLIENTS: Final = 1024
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
LOOK_SECONDS: Final = 0.5
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
FOLDERS: Final = ("model", "tasks")
"""Which of the files that a spec names may be folders."""

Name = Annotated[str, InPath(pattern=NAME)]
Call = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Service:
    """What the API serves.

    Args:
        folder: That searches publish into.
        root: That specs may name files of.
        token: Wanted of every request; None where only this machine can ask.
    """

    storage: str
    folder: Path
    root: Path
    token: str | None = None


class Submission(BaseModel):
    """A search: its settings, by the names of the flags."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME, examples=["llama-2x"])
    spec: dict[str, str | int | float | bool | list[str] | None] = Field(
        examples=[{"model": "examples/reference-model", "target_speedup": "2x"}]
    )


class NewSchedule(Submission):
    """A search that is run again and again."""

    cron: str = Field(max_length=200, examples=["0 2 * * *"])
    zone: str = Field("UTC", max_length=64)
    keep: int = Field(14, ge=1, le=10_000)


class Refusal(BaseModel):
    """Why something was not done."""

    error: str


def make_app(service: Service, jobs: Jobs) -> FastAPI:
    """Return the application."""
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Refusal} for status in (400, 401, 403, 404, 409, 413, 429, 503)
    }
    app = FastAPI(
        title="autocompress",
        version=autocompress.__version__,
        responses=refusals,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    _guard(app, service)
    _answer_failures(app)
    _add_studies(app, service, jobs)
    _add_schedules(app, service)
    _add_state(app, service, jobs)
    return app


def _guard(app: FastAPI, service: Service) -> None:
    """Let nobody in who has no token, asks too often or too much, or calls us by another name."""
    allowed = _Allowance()

    @app.middleware("http")
    async def guarded(request: Request, call: Call) -> Response:
        client = request.client.host if request.client else ""
        if not allowed.take(client, time.monotonic()):
            return _refusal(429, "Too many requests: wait a second.")
        if service.token is not None:
            given = request.headers.get("authorization", "").encode()
            # The page holds nothing: it asks for the token.
            if request.url.path not in ("/", "/v1/health") and not secrets.compare_digest(
                given, f"Bearer {service.token}".encode()
            ):
                return _refusal(401, "A token is wanted: `Authorization: Bearer TOKEN`.")
        elif not _is_ours(request.headers.get("host", "")):
            # A page elsewhere could have its own name lead here.
            return _refusal(403, "This is no host of this service.")
        elif not _is_ours(re.sub(r"^https?://", "", request.headers.get("origin", "localhost"))):
            return _refusal(403, "Pages of other hosts may not ask.")
        if await _is_too_large(request):
            return _refusal(413, f"`body <= {MOST_BODY}` bytes must hold.")
        answer = await call(request)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers.setdefault("Content-Security-Policy", "default-src 'none'")
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _is_ours(host: str) -> bool:
    return re.sub(r":\d*$", "", host) in LOOPBACK


async def _is_too_large(request: Request) -> bool:
    """Read a body up to the most that it may be; the length that it claims is not believed."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            return True
    request._body = body  # noqa: SLF001  # so that it can be read once more
    return False


class _Allowance:
    """How many requests each client has left: it fills up as time passes."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> bool:
        """Take one of a client's requests, if it has one."""
        left, since = self._left.pop(client, (BURST, now))
        left = min(BURST, left + (now - since) * MOST_A_SECOND)
        is_granted = left >= 1.0
        self._left[client] = (left - is_granted, now)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return is_granted


def _answer_failures(app: FastAPI) -> None:
    """Answer failures that a user can cause in one line."""

    @app.exception_handler(DatabaseAway)
    async def away(_request: Request, error: Exception) -> Response:
        return _refusal(503, str(error))

    @app.exception_handler(AutocompressError)
    async def failed(_request: Request, error: Exception) -> Response:
        return _refusal(409 if "exists already" in str(error) else 400, str(error))

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return _refusal(status, str(getattr(error, "detail", error)))


def _refusal(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(error.split())}, status)


def _add_studies(app: FastAPI, service: Service, jobs: Jobs) -> None:
    """Add what is done with studies."""

    def find(name: Name) -> StudyRow | str:
        """Return a study, or the name of one that waits."""
        row = find_study(service.storage, name)
        if row is not None:
            return row
        if name in jobs.waiting:
            return name
        raise HTTPException(404, f"Unknown study {name!r}.")

    Found = Annotated[StudyRow | str, Depends(find)]  # noqa: N806  # a type

    @app.get("/v1/studies")
    def studies() -> list[dict[str, Any]]:
        """List all studies, newest first, then those that wait."""
        rows = list_studies(service.storage)
        known = {row.name for row in rows}
        told = [_told(row, jobs) for row in rows]
        return told + [_told_new(name, jobs) for name in jobs.waiting if name not in known]

    @app.post("/v1/studies", status_code=201)
    def submit(asked: Submission) -> dict[str, Any]:
        """Let a search wait for its turn."""
        jobs.submit(asked.name, _checked(asked.spec, service))
        return {"name": asked.name, "state": "waiting"}

    @app.get("/v1/studies/{name}")
    def study(row: Found) -> dict[str, Any]:
        """Return a study."""
        if isinstance(row, str):
            return _told_new(row, jobs)
        return _told(row, jobs) | {"spec": dict(row.spec)}

    @app.post("/v1/studies/{name}/cancel")
    def cancel(name: Name) -> dict[str, Any]:
        """Interrupt a search, or take it back; what it has measured is kept."""
        if not jobs.cancel(name):
            raise HTTPException(404, f"Study {name!r} neither waits nor runs here.")
        return {"name": name, "state": "cancelled"}

    @app.post("/v1/studies/{name}/resume")
    def resume(name: Name, row: Found) -> dict[str, Any]:
        """Let a study that was stopped wait for its turn."""
        if isinstance(row, StudyRow) and row.state is StudyState.FINISHED:
            raise HTTPException(409, f"Study {name!r} is finished.")
        jobs.resume(name)
        return {"name": name, "state": "waiting"}

    @app.get("/v1/studies/{name}/best")
    def best(
        name: Name, row: Found, n: Annotated[int, Query(ge=1, le=1000)] = 20
    ) -> list[dict[str, Any]]:
        """List the trials that were read furthest, and of these those that lose least."""
        if isinstance(row, str):
            return []
        with contextlib.closing(open_study(service.storage, name)) as store:
            return [
                {
                    "genotype": own.genotype.key,
                    "levels": list(own.genotype.levels),
                    "sequences": own.sequences,
                    "kl": own.loss,
                }
                for own in store.best(n)
            ]

    @app.get("/v1/studies/{name}/report")
    def report(row: Found) -> dict[str, Any]:
        """Return the report of a finished study."""
        if isinstance(row, str) or row.report is None:
            raise HTTPException(404, "The report comes with the end of the search.")
        return dict(row.report)

    @app.get("/v1/studies/{name}/events", response_class=StreamingResponse)
    def events(row: Found) -> StreamingResponse:
        """Stream what a search tells, as server-sent events, until it ends."""
        name = row if isinstance(row, str) else row.name
        return StreamingResponse(_stream(jobs, name), media_type="text/event-stream")

    @app.get("/v1/studies/{name}/artifacts")
    def artifacts(name: Name) -> list[dict[str, Any]]:
        """List the files that a search published."""
        folder = jobs.output(name)
        return [
            {"path": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size}
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not file.is_symlink()
        ]

    @app.get("/v1/studies/{name}/artifacts/{path:path}", response_class=FileResponse)
    def artifact(name: Name, path: str) -> FileResponse:
        """Return a file that a search published."""
        folder = jobs.output(name).resolve()
        file = _within(folder, path)
        if file is None or not file.is_file():
            raise HTTPException(404, "There is no such file.")
        # To be saved and not shown: a report may quote what a model wrote.
        return FileResponse(file, filename=file.name, media_type="application/octet-stream")


def _within(folder: Path, path: str) -> Path | None:
    """Return what a path leads to in a folder; None if there is nothing, or it leads out."""
    try:
        found = (folder / path).resolve()
        return found if found.is_relative_to(folder.resolve()) and found.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _told_new(name: str, jobs: Jobs) -> dict[str, Any]:
    """Return what is told of a search that the store knows nothing of yet."""
    return {"name": name, "state": "running" if name == jobs.running else "waiting"}


def _told(row: StudyRow, jobs: Jobs) -> dict[str, Any]:
    report = row.report or {}
    state = row.state.value
    if state == "running" and row.name != jobs.running:
        state = "waiting" if row.name in jobs.waiting else "running elsewhere, or stopped"
    return {
        "name": row.name,
        "state": state,
        "created_at": row.created_at,
        "trials": row.n_trials,
        "model": row.spec.get("model"),
        "met": report.get("met"),
        "verdict": report.get("verdict"),
    }


def _checked(spec: dict[str, Any], service: Service) -> dict[str, Json]:
    """Return a spec that can be meant, brings no code and names no file beside the root.

    Raises:
        SpecError: If it is none, or does.
    """
    plain = {name.replace("-", "_"): value for name, value in spec.items()}
    if str(plain.get("pruner", "")).endswith(".json"):
        raise SpecError("pruner: a request gives a formula, and no file of one.")
    checked = from_mapping(plain)
    for name in ("trust_remote_code", "allow_python"):
        if getattr(checked, name):
            raise SpecError(f"`{name}` is not taken from requests: start the search here.")
    if checked.address not in (None, "auto"):
        raise SpecError("address: a request joins the cluster of this machine alone: `auto`.")
    if str(checked.tasks).startswith(LM_EVAL):
        # They are fetched from the network, and may bring code.
        raise SpecError(f"tasks: a request names files of {service.root}, and no `{LM_EVAL}`.")
    for name in FILES:
        value = getattr(checked, name)
        if value is None:
            continue
        file = _within(service.root, str(value))
        if file is not None and (name in FOLDERS or file.is_file()):
            plain[name] = str(file)
        elif name != "model" or HUB_NAME.fullmatch(value) is None or Path(value).exists():
            raise SpecError(f"{name}: no file of {service.root} is meant by {value!r}.")
    return plain


async def _stream(jobs: Jobs, name: str) -> AsyncIterator[str]:
    """Yield a search's events as they come; a comment now and then keeps the line open."""
    place, quiet = 0, 0.0
    while True:
        events, place = await asyncio.to_thread(read_events, jobs.events(name), place)
        for event in events:
            yield f"event: {event.get('event', 'said')}\ndata: {json.dumps(event)}\n\n"
        if not events and name not in jobs.waiting:
            return
        quiet = 0.0 if events else quiet + LOOK_SECONDS
        if quiet >= 15:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_SECONDS)


def _add_schedules(app: FastAPI, service: Service) -> None:
    """Add what is done with schedules."""

    def stored() -> Iterator[ScheduleStore]:
        with open_schedules(service.storage) as store:
            yield store

    Store = Annotated[ScheduleStore, Depends(stored)]  # noqa: N806  # a type

    @app.get("/v1/schedules")
    def schedules(store: Store) -> list[dict[str, Any]]:
        """List all schedules, with their runs and verdicts."""
        return [_told_schedule(own, store) for own in store.all()]

    @app.post("/v1/schedules", status_code=201)
    def add(asked: NewSchedule, store: Store) -> dict[str, Any]:
        """Add a schedule; a running `autocompress schedule start` runs it."""
        spec = from_mapping(_checked(asked.spec, service))
        check_compresses_alone(spec, "a schedule")
        check_cron(asked.cron, asked.zone)
        output = (service.folder / "schedules" / asked.name).resolve()
        settings = Settings(str(output), asked.keep).to_json()
        added = store.add(asked.name, asked.cron, asked.zone, spec.to_json(), settings)
        return _told_schedule(added, store)

    @app.delete("/v1/schedules/{name}")
    def remove(name: Name, store: Store) -> dict[str, Any]:
        """Take a schedule away; what it published stays."""
        if name not in {own.name for own in store.all()}:
            raise HTTPException(404, f"Unknown schedule {name!r}.")
        store.remove(name)
        return {"name": name, "state": "removed"}


def _told_schedule(own: Schedule, store: ScheduleStore) -> dict[str, Any]:
    return {
        "name": own.name,
        "cron": own.cron,
        "zone": own.zone,
        "spec": dict(own.spec),
        "runs": [
            {"due_at": run.due_at, "state": run.state.value, "verdict": run.verdict}
            for run in store.runs(own.id)
        ],
    }


def _add_state(app: FastAPI, service: Service, jobs: Jobs) -> None:
    """Add the page, and what machines ask of a service."""
    registry = CollectorRegistry()
    registry.register(_Figures(service, jobs))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    @app.get("/v1/health")
    def health() -> dict[str, Any]:
        """Say whether the database answers."""
        try:
            find_study(service.storage, "")
        except StoreError as error:
            raise HTTPException(503, str(error)) from error
        return {"status": "ok", "version": autocompress.__version__}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


class _Figures:
    """What Prometheus is told: read from the store when it asks."""

    def __init__(self, service: Service, jobs: Jobs) -> None:
        self._service = service
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all figures."""
        rows = list_studies(self._service.storage)
        studies = GaugeMetricFamily("autocompress_studies", "Studies by state", labels=["state"])
        for state in StudyState:
            studies.add_metric([state.value], sum(row.state is state for row in rows))
        yield studies
        trials = GaugeMetricFamily("autocompress_trials", "Different candidates measured")
        trials.add_metric([], sum(row.n_trials for row in rows))
        yield trials
        waiting = GaugeMetricFamily("autocompress_searches_waiting", "Submitted and not ended")
        waiting.add_metric([], len(self._jobs.waiting))
        yield waiting
        verdicts = GaugeMetricFamily(
            "autocompress_verdicts", "Runs of schedules by verdict", labels=["verdict"]
        )
        counts: dict[str, int] = {}
        with open_schedules(self._service.storage) as store:
            for own in store.all():
                for run in store.runs(own.id):
                    outcome = str((run.verdict or {}).get("outcome") or run.state.value)
                    counts[outcome] = counts.get(outcome, 0) + 1
        for outcome, count in sorted(counts.items()):
            verdicts.add_metric([outcome], count)
        yield verdicts

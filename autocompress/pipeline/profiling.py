"""Where a search has its latency tables from: its own store, another study, or the machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autocompress.evaluators.latency_model import LatencyModel, LatencyTables, choice_text
from autocompress.evaluators.roofline import KNOWN, Roofline
from autocompress.evaluators.stored_latency import read_latency, read_tables
from autocompress.operators.database import address
from autocompress.pipeline.deployment import Deployment
from autocompress.pipeline.inheritance import Inherited
from autocompress.pipeline.latency import engine_device, hardware
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.searching import Found
from autocompress.pipeline.stored_study import ABOUT, REFITTED
from autocompress.pipeline.timing_turn import timing_turn
from autocompress.store.base import Event, Json, StudyStore
from autocompress.store.profiles import StoredProfile, find_profile, save_profile

REUSED = "profile reused"
"""The kind of event that tells when reused tables were measured."""
STRAYED: Final = "profile strayed"
"""The kind of event that tells what recorded tables are not about, and a study went on with."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """The latency tables that a database keeps for all of its studies.

    Args:
        storage: The database.
        is_fresh: Measure anew what is there.
    """

    storage: str
    is_fresh: bool = False

    def measure(
        self, prepared: Prepared, deployment: Deployment, observer: Observer
    ) -> LatencyTables:
        """Measure tables and keep them."""
        with timing_turn(observer):
            tables = deployment.measure_tables(observer)
        save_profile(self.storage, about(prepared, deployment), tables.to_json())
        return tables

    def latency(
        self,
        prepared: Prepared,
        deployment: Deployment,
        store: StudyStore,
        inherited: Inherited,
        observer: Observer,
    ) -> LatencyModel:
        """Return a study's latency model, and record it with the study.

        The first of: recorded, a roofline if that is asked for, imported tables, and of the same
        engine, version, hardware, workload, model and choices its parent's, those measured
        before, or measured now. Recorded ones stay even where these are others by now, for all
        that was measured since was picked by them: that is told, and recorded.
        """
        recorded = store.document("latency")
        if recorded is not None:
            _tell_strayed(store, about(prepared, deployment), observer)
            return read_latency(recorded, prepared.space)
        model: LatencyModel | None = roofline_of(prepared, deployment) or prepared.imported
        if model is None:
            own = about(prepared, deployment)
            model = self._tables(own, prepared, deployment, store, inherited, observer)
            store.save_document(ABOUT, dict(own))
        store.save_document("latency", model.to_json())
        return model

    def _tables(
        self,
        own: Mapping[str, str],
        prepared: Prepared,
        deployment: Deployment,
        store: StudyStore,
        inherited: Inherited,
        observer: Observer,
    ) -> LatencyTables:
        """Return tables that were measured under the conditions of now."""
        if inherited.latency is not None:
            if inherited.about == own:
                return read_tables(inherited.latency, prepared.space)
            observer.tell("other profile", {"changed": _changed(inherited.about or {}, own)})
        known = self._known(own)
        if known is None:
            with timing_turn(observer):
                # Whoever was waited for may have measured them.
                known = self._known(own)
                if known is None:
                    return self.measure(prepared, deployment, observer)
        store.add_event(Event(REUSED, {"measured_at": known.measured_at}))
        return read_tables(known.payload, prepared.space)

    def _known(self, own: Mapping[str, str]) -> StoredProfile | None:
        return None if self.is_fresh else find_profile(self.storage, own)


def _tell_strayed(store: StudyStore, own: Mapping[str, str], observer: Observer) -> None:
    """Tell a study that goes on under other conditions than its latency tables are about."""
    recorded = store.document(ABOUT)
    if recorded is None or recorded == own:
        return
    changed = _changed(recorded, own)
    observer.tell("strayed profile", {"changed": changed})
    if changed not in strayed(store):
        store.add_event(Event(STRAYED, {"changed": changed}))


def _changed(before: Mapping[str, Json], own: Mapping[str, str]) -> str:
    """Say what latency tables are about and what there is now, where these differ."""
    return "; ".join(
        f"{name.replace('_', ' ')} {before.get(name, 'unknown')}, now {value}"
        for name, value in own.items()
        if before.get(name) != value
    )


def feed_back(
    storage: str,
    prepared: Prepared,
    deployment: Deployment,
    store: StudyStore,
    latency: LatencyModel | None,
    found: Found,
) -> None:
    """Fit a study's tables to its measured winners too, for what is asked of it afterwards.

    The study itself keeps those that it searched with. Imported tables are left as they are. What
    the database keeps for all studies is fitted too where it is the same measurement, with what
    other studies have fed back; what was measured since is left as it is.
    """
    if not isinstance(latency, LatencyTables) or prepared.imported is not None:
        return
    if store.document(REFITTED) is not None:
        return
    finalists = [(genotype, measured.shares) for genotype, measured in found.finalists]
    store.save_document(REFITTED, latency.refitted(finalists, prepared.space).to_json())
    key = about(prepared, deployment)
    known = find_profile(storage, key)
    if known is not None and _as_measured(known.payload) == _as_measured(latency.to_json()):
        refitted = read_tables(known.payload, prepared.space).refitted(finalists, prepared.space)
        save_profile(storage, key, refitted.to_json(), known.measured_at)


def _as_measured(tables: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return stored tables without what winners change of them."""
    rows = tables.get("tables")
    return [
        {name: value for name, value in table.items() if name not in ("scales", "finalists")}
        for table in (rows if isinstance(rows, list) else [])
        if isinstance(table, Mapping)
    ]


def roofline_of(prepared: Prepared, deployment: Deployment) -> Roofline | None:
    """Return the roofline that times are reckoned by; None where an engine measures them.

    Raises:
        SpecError: If the hardware's rate is unknown for the model's number format.
    """
    name, shape = prepared.spec.roofline, prepared.architecture
    if name is None:
        return None
    number_format = str(deployment.shaped.model.dtype).removeprefix("torch.")
    return Roofline(
        KNOWN[name], prepared.spec.workload, number_format, shape.vocabulary, shape.hidden
    )


def measured_before(store: StudyStore) -> str | None:
    """Return when reused tables were measured; None if the study measured its own."""
    found = (event.payload["measured_at"] for event in store.events() if event.kind == REUSED)
    return next((str(when) for when in found), None)


def strayed(store: StudyStore) -> tuple[str, ...]:
    """Return what a study's own tables were about and it went on with instead, each time."""
    found = (event.payload["changed"] for event in store.events() if event.kind == STRAYED)
    return tuple(map(str, found))


def about(prepared: Prepared, deployment: Deployment) -> dict[str, str]:
    """Return all that a profile depends on; where any of it changes, it is measured anew."""
    by_layer = prepared.space.whole_layers
    shapes = {
        f"{site.kind} {choice_text(choice)}" for site, choice in prepared.space.site_choices()
    }
    # Only where they differ: what was measured before anything could be asked of them is as good.
    ends = {"embeddings": prepared.spec.embeddings} if prepared.spec.has_stored_ends else {}
    return {
        "engine": prepared.spec.engine,
        "format": prepared.spec.format,
        "engine_version": deployment.engine_version,
        "hardware": hardware(
            engine_device(prepared.spec.engine, prepared.device), len(os.sched_getaffinity(0))
        ),
        "dtype": str(deployment.shaped.model.dtype),
        "workload": str(prepared.spec.workload),
        "model": repr(prepared.architecture),
        "choices": address(*sorted(shapes), *(["whole layers"] if by_layer else [])),
        **ends,
    }

"""Where a search has its latency tables from: its own store, another study, or the machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from autocompress.evaluators.latency_model import LatencyModel, LatencyTables, choice_text
from autocompress.evaluators.roofline import KNOWN, Roofline
from autocompress.evaluators.stored_latency import read_latency, read_tables
from autocompress.operators.database import address
from autocompress.pipeline.deployment import Deployment
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.searching import Found
from autocompress.pipeline.stored_study import REFITTED
from autocompress.store.base import Event, Json, StudyStore
from autocompress.store.profiles import find_profile, save_profile

REUSED = "profile reused"
"""The kind of event that tells when reused tables were measured."""


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
        tables = deployment.measure_tables(observer)
        save_profile(self.storage, about(prepared, deployment), tables.to_json())
        return tables

    def latency(
        self,
        prepared: Prepared,
        deployment: Deployment,
        store: StudyStore,
        inherited: Mapping[str, Json] | None,
        observer: Observer,
    ) -> LatencyModel:
        """Return a study's latency model, and record it with the study.

        The first of: recorded, its parent's, a roofline if that is asked for, imported tables,
        those measured before of the same engine, version, hardware, workload, model and choices,
        or measured now.

        Args:
            inherited: The parent's, as stored.
        """
        recorded = store.document("latency") or inherited
        if recorded is not None:
            store.save_document("latency", recorded)
            return read_latency(recorded, prepared.space)
        roofline = roofline_of(prepared, deployment)
        if roofline is not None:
            store.save_document("latency", roofline.to_json())
            return roofline
        known = None
        if prepared.imported is None and not self.is_fresh:
            known = find_profile(self.storage, about(prepared, deployment))
        if prepared.imported is not None:
            tables = prepared.imported
        elif known is not None:
            tables = read_tables(known.payload, prepared.space)
            store.add_event(Event(REUSED, {"measured_at": known.measured_at}))
        else:
            tables = self.measure(prepared, deployment, observer)
        store.save_document("latency", tables.to_json())
        return tables


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


def about(prepared: Prepared, deployment: Deployment) -> dict[str, str]:
    """Return all that a profile depends on; where any of it changes, it is measured anew."""
    by_layer = prepared.space.whole_layers
    shapes = {
        f"{site.kind} {choice_text(choice)}" for site, choice in prepared.space.site_choices()
    }
    return {
        "engine": prepared.spec.engine,
        "format": prepared.spec.format,
        "engine_version": deployment.engine_version,
        "hardware": hardware(prepared.device, os.cpu_count() or 1),
        "dtype": str(deployment.shaped.model.dtype),
        "workload": str(prepared.spec.workload),
        "model": repr(prepared.architecture),
        "choices": address(*sorted(shapes), *(["whole layers"] if by_layer else [])),
    }

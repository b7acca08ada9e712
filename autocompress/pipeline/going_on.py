"""Studies that the command which began them goes on with: found or made, held, and closed."""

import contextlib
from collections.abc import Iterator, Mapping

from autocompress.errors import AutocompressError, DatabaseAway, SpecError, StudyHeld
from autocompress.store.base import Json, StudyState, StudyStore
from autocompress.store.holding import held
from autocompress.store.study_store import SqlStudyStore, create_study, find_study, open_study


@contextlib.contextmanager
def going_on(storage: str, study: str, spec: Mapping[str, Json]) -> Iterator[SqlStudyStore]:
    """Hold the study of a name, made where there is none; one that fails is called failed.

    One that has finished keeps its report: nothing of it is measured again.

    Raises:
        SpecError: If it is there and searches for something else.
        StudyHeld: If another process runs it.
    """
    known = find_study(storage, study)
    if known is not None and dict(known.spec) != dict(spec):
        raise SpecError(f"Study {study!r} exists and is another search: give another --study.")
    store = create_study(storage, study, spec) if known is None else open_study(storage, study)
    with contextlib.closing(store), held(store), called_running(store):
        yield store


@contextlib.contextmanager
def called_running(store: StudyStore) -> Iterator[None]:
    """Call a study running, and failed if it fails.

    One that has finished stays so, with its report, until another is written: whatever ends this
    run before leaves what it had.
    """
    if store.row().state is not StudyState.FINISHED:
        store.finish(StudyState.RUNNING, None)
    try:
        yield
    except (DatabaseAway, StudyHeld):
        raise
    except AutocompressError:
        if store.row().state is not StudyState.FINISHED:
            store.finish(StudyState.FAILED, None)
        raise

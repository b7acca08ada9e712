"""Shows what a person looks at of a study as an Optuna study, for Optuna's dashboard.

Our tables are the one truth, and the mirror is a view of them that can be thrown away: a second
SQLite file beside the first, or a schema of its own on PostgreSQL. Optuna's storage takes 16 ms a
trial at a few parameters and 150 ms at hundreds, and its dashboard reads all of a study at once:
so few trials come here, with few parameters, and one process writes at a time.
"""

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import optuna
import optuna_dashboard
import sqlalchemy as sa
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from autocompress.errors import StoreError
from autocompress.store.database import (
    connection_options,
    masked,
    open_database,
    reading,
    sqlite_file,
    writing,
)

MOST_TRIALS: Final = 2000
"""Of a study: Optuna's dashboard takes seconds to show more."""
SUFFIX: Final = ".optuna.db"
LOCK_SUFFIX: Final = "-lock"
MAKING_SUFFIX: Final = "-making"
# Any numbers will do, as long as they are the same for all who use a mirror on PostgreSQL.
MIRROR_LOCK: Final = 0x61636D
MAKING_LOCK: Final = 0x61636E


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that sums up a candidate.

    Args:
        most: The greatest value that any candidate can have; the least is 0.
        is_count: Whether it counts something.
    """

    value: float
    most: float
    is_count: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """One decision of a candidate, out of several.

    Args:
        menu: All that it may be.
    """

    value: bool | int | float | str
    menu: tuple[bool | int | float | str, ...]


@dataclass(frozen=True, slots=True)
class ShownTrial:
    """A candidate as a person looks at it.

    Args:
        key: Names its genotype, as our tables do.
        objectives: One for each name of the study's; lower is better.
        violation: Of the study's constraint; feasible at <= 0.
        note: Markdown.
        is_whole: Whether it was measured to the end; others are pruned, in Optuna's word, and no
            best trial.
    """

    key: str
    parameters: Mapping[str, Parameter | Chosen]
    objectives: tuple[float, ...]
    violation: float
    about: Mapping[str, str | int | float] = field(default_factory=dict)
    note: str = ""
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ShownStudy:
    """A study as a person looks at it.

    Args:
        version: Changes when trials that are there must be shown anew.
        objectives: Their names.
        note: Markdown.
        files: What can be fetched, by name.
    """

    name: str
    version: str
    objectives: tuple[str, ...]
    about: Mapping[str, str | int | float]
    trials: Sequence[ShownTrial]
    note: str
    files: Mapping[str, Path] = field(default_factory=dict)


class Mirror:
    """Optuna's storage beside a database of ours."""

    def __init__(self, url: str, artifacts: Path) -> None:
        """Make the storage where there is none.

        Args:
            url: Of our own database.
            artifacts: Folder that takes the files that studies show.

        Raises:
            StoreError: If it cannot be opened.
        """
        artifacts.mkdir(parents=True, exist_ok=True)
        self.artifacts = FileSystemArtifactStore(artifacts)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _told_as_ours(url), _alone_to_make(url):
            self.url = mirror_url(url)
            options = {"connect_args": connection_options(self.url)}
            with _told_as_ours(self.url):
                self.storage = RDBStorage(self.url, engine_kwargs=options)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Tell whether nobody else writes this mirror, until the block ends.

        The lock belongs to the database: whoever has none of our folders in common sees it too.

        Raises:
            StoreError: If the storage fails.
        """
        with contextlib.ExitStack() as held:
            with _told_as_ours(self.url):
                is_alone = self._lock(held)
            yield is_alone

    def _lock(self, held: contextlib.ExitStack) -> bool:
        file = sqlite_file(self.url)
        if file is None:
            # Of the mirror's own schema, until the transaction ends, or its connection is lost.
            connection = held.enter_context(self.storage.engine.begin())
            schema = sa.func.hashtext(sa.func.current_schema())
            lock = sa.select(sa.func.pg_try_advisory_xact_lock(MIRROR_LOCK, schema))
            return bool(connection.execute(lock).scalar_one())
        opened = held.enter_context(file.with_name(file.name + LOCK_SUFFIX).open("w"))
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def show(self, shown: ShownStudy) -> int:
        """Bring a study's mirror up to date; return how many trials were added.

        A trial that is there stays as it is, until the study's version changes.

        Raises:
            StoreError: If the storage fails.
        """
        with _told_as_ours(self.url):
            study = self._study(shown)
            known = {
                trial.user_attrs.get("genotype") for trial in study.get_trials(deepcopy=False)
            }
            added = [trial for trial in shown.trials if trial.key not in known]
            for trial in added:
                self._add(study, trial)
            for name, value in shown.about.items():
                if study.user_attrs.get(name) != value:
                    study.set_user_attr(name, value)
            self._attach(study, shown)
        return len(added)

    def forget(self, names: Sequence[str]) -> None:
        """Delete the studies that are none of these: ours know them no more."""
        with _told_as_ours(self.url):
            for name in set(optuna.get_all_study_names(self.storage)) - {*names}:
                optuna.delete_study(study_name=name, storage=self.storage)

    def version(self, name: str) -> str | None:
        """Return the version that a study was last shown at; None if it was not."""
        with _told_as_ours(self.url):
            if name not in optuna.get_all_study_names(self.storage):
                return None
            study = optuna.load_study(study_name=name, storage=self.storage)
            return study.user_attrs.get("version")

    def _study(self, shown: ShownStudy) -> optuna.Study:
        """Return the study, made anew if what is there is of another version."""
        if self.version(shown.name) not in (None, shown.version):
            optuna.delete_study(study_name=shown.name, storage=self.storage)
        study = optuna.create_study(
            study_name=shown.name,
            storage=self.storage,
            directions=["minimize"] * len(shown.objectives),
            # Nothing is ever asked of it, but the default would be chosen by the number of trials.
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            # "Experimental" since three years, and what every page is headed by.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(shown.objectives))
        study.set_user_attr("version", shown.version)
        return study

    def _add(self, study: optuna.Study, shown: ShownTrial) -> None:
        distributions: dict[str, BaseDistribution] = {}
        values: dict[str, bool | int | float | str] = {}
        for name, own in shown.parameters.items():
            if isinstance(own, Chosen):
                distributions[name], values[name] = CategoricalDistribution(own.menu), own.value
            elif own.is_count:
                distributions[name] = IntDistribution(0, round(own.most))
                values[name] = round(own.value)
            else:
                distributions[name], values[name] = FloatDistribution(0.0, own.most), own.value
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if shown.is_whole else TrialState.PRUNED,
                params=values,
                distributions=distributions,
                values=list(shown.objectives),
                user_attrs={"genotype": shown.key, **shown.about},
                # The form of Optuna 4, which Optuna 5 reads too and its dashboard alone knows.
                system_attrs={"constraints": [shown.violation]},
            )
        )
        if shown.note:
            last = study.get_trials(deepcopy=False)[-1]
            number = last._trial_id  # noqa: SLF001  # Optuna offers a note's trial no other name.
            optuna_dashboard.save_note(optuna.Trial(study, number), shown.note)

    def _attach(self, study: optuna.Study, shown: ShownStudy) -> None:
        if optuna_dashboard.get_note(study) != shown.note:
            optuna_dashboard.save_note(study, shown.note)
        known = {meta.filename for meta in get_all_artifact_meta(study)}
        for name, path in shown.files.items():
            if name not in known:
                upload_artifact(
                    artifact_store=self.artifacts, file_path=str(path), study_or_trial=study
                )


def mirror_url(url: str) -> str:
    """Return where the mirror of a database lies, and make the schema if it is one.

    Raises:
        StoreError: If the database cannot be opened.
    """
    file = sqlite_file(url)
    if file is not None:
        return f"sqlite:///{_mirror_file(file)}"
    engine = open_database(url)
    try:
        with reading(engine) as connection:
            schema = _mirror_schema(connection)
        with writing(engine) as connection:
            connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    finally:
        engine.dispose()
    found = sa.make_url(url).update_query_dict({"options": f"-csearch_path={schema}"})
    return found.render_as_string(hide_password=False)


@contextlib.contextmanager
def _alone_to_make(url: str) -> Iterator[None]:
    """Wait for whoever makes the mirror of a database, for Optuna's tables can be made once."""
    file = sqlite_file(url)
    if file is not None:
        mirror = _mirror_file(file)
        with contextlib.ExitStack() as held:
            # Where nothing can be written, nothing is made: what is there may still be read.
            if not mirror.exists() or os.access(mirror.parent, os.W_OK):
                lock = mirror.with_name(mirror.name + MAKING_SUFFIX)
                fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
            yield
        return
    engine = open_database(url)
    try:
        with writing(engine) as connection:
            for name in (
                "idle_in_transaction_session_timeout",
                "lock_timeout",
                "statement_timeout",
            ):
                connection.execute(sa.text(f"SET LOCAL {name} = 0"))
            schema = sa.func.hashtext(_mirror_schema(connection))
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING_LOCK, schema)))
            yield
    finally:
        engine.dispose()


def _mirror_file(file: Path) -> Path:
    return file.with_name(file.stem + SUFFIX)


def _mirror_schema(connection: sa.Connection) -> str:
    own = connection.execute(sa.select(sa.func.current_schema())).scalar_one()
    return f"{'ac' if own == 'public' else own}_optuna"


@contextlib.contextmanager
def _told_as_ours(url: str) -> Iterator[None]:
    try:
        yield
    except (optuna.exceptions.OptunaError, sa.exc.SQLAlchemyError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise StoreError(f"Cannot use the dashboard's {masked(url)}: {reason}.") from error

"""Items of lm-evaluation-harness tasks, where the package is installed.

It knows the prompts and the data; the scores are ours, so only tasks are read whose score is the
same here: choices by likelihood, and answers by exact match.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

from autocompress.errors import TextError
from autocompress.evaluators.task_item import Item

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

PREFIX: Final = "lm-eval:"
# As the harness itself draws a task's examples by default.
FEWSHOT_SEED: Final = 1234


def read_lm_eval(names: str, allow_python: bool = False) -> list[Item]:
    """Return the items of tasks or groups of tasks, named with commas between them.

    A name may follow a folder of the user's own task files (`own/capitals`).

    The data are what the package `datasets` finds, which looks for nothing beyond this machine
    where `HF_HUB_OFFLINE=1` is set.

    Args:
        allow_python: Whether task files of the user's own, which may run Python, are read.

    Raises:
        TextError: If the package is missing, a task is unknown, its data cannot be read, or it is
            of a kind that is not read here.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TextError(
            "lm-eval: tasks need lm-evaluation-harness: run `pip install 'autocompress[lm-eval]'`."
        ) from error
    paths = [PurePath(name.strip()) for name in names.split(",") if name.strip()]
    asked = [path.name for path in paths]
    folders = sorted({str(path.parent) for path in paths if len(path.parts) > 1})
    if folders and not allow_python:
        raise TextError(
            f"lm-eval: task files in {', '.join(folders)} may run Python, which is off; see "
            "`--allow-python`."
        )
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise TextError(f"lm-eval: there is no folder {', '.join(missing)}.")
    manager = TaskManager(include_path=list(folders))
    unknown = sorted(set(asked) - set(manager.all_tasks))
    if unknown or not asked:
        raise TextError(f"lm-eval: there is no task {', '.join(unknown) or repr(names)}.")
    return [item for name in asked for item in _read(manager, name)]


def _read(manager: "TaskManager", name: str) -> list[Item]:
    """Return the items of a task, or of all tasks of a group."""
    try:
        tasks = manager.load([name])["tasks"].values()
        return [item for task in tasks for item in _items(task)]
    except TextError:
        raise
    except Exception as error:  # of a task's own code too
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise TextError(f"lm-eval: task {name} cannot be read: {reason}.") from error


def _items(task: "ConfigurableTask") -> Iterator[Item]:
    """Yield a task's items, prompts with as many examples as it asks for.

    Raises:
        TextError: If it is scored in a way that is not ours.
    """
    _check_scored_alike(task)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    n_examples = task.config.num_fewshot or 0
    for document in task.eval_docs:
        prompt = task.fewshot_context(
            document, n_examples, gen_prefix=task.doc_to_prefix(document)
        )
        if task.OUTPUT_TYPE == "multiple_choice":
            yield _choice(task, document, prompt)
        else:
            yield _answer(task, document, prompt)


def _choice(task: "ConfigurableTask", document: dict[str, Any], prompt: str) -> Item:
    choices = task.doc_to_choice(document)
    right = _target(task, document, choices)
    if len(right) != 1:
        raise TextError(
            f"lm-eval: {task.config.task} has {len(right)} right choices of a question."
        )
    before = task.config.target_delimiter
    return Item(
        prompt,
        (before + right[0],),
        choices=tuple(before + choice for choice in choices),
        metric="choice",
    )


def _answer(task: "ConfigurableTask", document: dict[str, Any], prompt: str) -> Item:
    choices = task.doc_to_choice(document) if task.config.doc_to_choice is not None else []
    stop = task.config.generation_kwargs["until"]
    return Item(
        prompt,
        tuple(_target(task, document, choices)),
        metric="match" if _ignores(task) else "exact",
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )


def _target(
    task: "ConfigurableTask", document: dict[str, Any], choices: Sequence[str]
) -> list[str]:
    """Return the right answers; where there are choices a task may name them by their number."""
    found = task.doc_to_target(document)
    several = found if isinstance(found, list) else [found]
    return [
        choices[target] if choices and isinstance(target, int) else str(target)
        for target in several
    ]


def _check_scored_alike(task: "ConfigurableTask") -> None:
    config, kind = task.config, task.OUTPUT_TYPE
    reason = None
    if kind not in ("multiple_choice", "generate_until"):
        reason = f"its output is {kind}, not multiple_choice or generate_until"
    elif task.multiple_input:
        reason = "its choices are prompts, not continuations"
    elif config.process_results is not None:
        reason = "it scores answers by code of its own"
    elif kind == "multiple_choice" and "acc" not in task.aggregation():
        reason = f"its metrics are {', '.join(task.aggregation())}, not acc"
    elif kind == "generate_until" and config.filter_list is not None:
        reason = "it filters answers before it scores them"
    elif kind == "generate_until" and "exact_match" not in task.aggregation():
        reason = f"its metrics are {', '.join(task.aggregation())}, not exact_match"
    elif kind == "generate_until" and _settings(task).get("regexes_to_ignore"):
        reason = "it leaves out parts of answers by regular expressions"
    if reason is not None:
        raise TextError(f"lm-eval: task {config.task} cannot be scored alike here: {reason}.")


def _ignores(task: "ConfigurableTask") -> bool:
    """Whether case or punctuation does not count."""
    settings = _settings(task)
    return bool(settings.get("ignore_case") or settings.get("ignore_punctuation"))


def _settings(task: "ConfigurableTask") -> Mapping[str, Any]:
    """Return how the task has its exact match counted."""
    metrics = task.config.metric_list or []
    return next((metric for metric in metrics if metric["metric"] == "exact_match"), {})

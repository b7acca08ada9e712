"""The flags of the commands that go on: `sweep`, `serve`, `api` and `schedule`."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

Command = Callable[[argparse.Namespace], None]
Add = Callable[[argparse.ArgumentParser], None]
Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_serve(
    commands: "argparse._SubParsersAction[Parser]",
    run: Mapping[str, Command],
    add_storage: Add,
) -> None:
    """Add `serve`."""
    serve = commands.add_parser("serve", help="show all studies in Optuna's dashboard")
    serve.add_argument(
        "--host", default="127.0.0.1", help="who reaches it may look, under this machine's name"
    )
    serve.add_argument("--port", type=int, default=8080, metavar="8080", help="0 takes a free one")
    serve.add_argument(
        "--artifacts",
        type=Path,
        metavar="DIR",
        help="takes the files that studies show (default: .autocompress/dashboard)",
    )
    add_storage(serve)
    serve.set_defaults(command=run["serve"])


def add_api(
    commands: "argparse._SubParsersAction[Parser]",
    run: Mapping[str, Command],
    add_storage: Add,
) -> None:
    """Add `api`."""
    api = commands.add_parser(
        "api", help="let searches be submitted and watched over HTTP, with a page to start from"
    )
    api.add_argument("--host", default="127.0.0.1", help="beyond the loopback a token is wanted")
    api.add_argument("--port", type=int, default=8090, metavar="8090")
    api.add_argument(
        "--token-file", type=Path, metavar="FILE", help="holds what every request must bring"
    )
    api.add_argument(
        "--root",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="submitted searches may name files of this folder alone (default: here)",
    )
    api.add_argument(
        "--output",
        type=Path,
        default=Path("autocompress-out"),
        metavar="DIR",
        help="folder that they publish into",
    )
    add_storage(api)
    api.set_defaults(command=run["api"])


def add_sweep(
    commands: "argparse._SubParsersAction[Parser]",
    run: Mapping[str, Command],
    add_storage: Add,
) -> None:
    """Add `sweep`."""
    sweep = commands.add_parser(
        "sweep", help="run searches that differ in some settings, side by side, by Ray Tune"
    )
    sweep.add_argument(
        "file", type=Path, metavar="FILE", help="YAML: a search's settings, and what may `vary`"
    )
    sweep.add_argument("--by", default="grid", metavar="grid", help="grid, random or tpe")
    sweep.add_argument(
        "--trials", type=int, default=16, metavar="16", help="searches that are drawn"
    )
    sweep.add_argument(
        "--at-once", type=int, default=1, metavar="1", help="searches that run at a time"
    )
    sweep.add_argument("--seed", type=int, default=0, metavar="0", help="of what is drawn")
    sweep.add_argument("--address", metavar="HOST:PORT", help="a running Ray cluster")
    sweep.add_argument("--name", help="default: the file's name")
    sweep.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="takes a folder of each search, and the table (default: autocompress-out/NAME)",
    )
    sweep.add_argument("--json", action="store_true", help="print events as JSON Lines")
    add_storage(sweep)
    sweep.set_defaults(command=run["sweep"])


def add_schedule(
    commands: "argparse._SubParsersAction[Parser]",
    run: Mapping[str, Command],
    add_storage: Add,
) -> None:
    """Add `schedule` with what it can do."""
    schedule = commands.add_parser(
        "schedule", help="search again and again, and deploy what was measured to be better"
    )
    actions = schedule.add_subparsers(required=True, metavar="ACTION", parser_class=type(schedule))

    add = actions.add_parser("add", help="add a schedule; `schedule start` runs it")
    add.add_argument("spec", type=Path, metavar="FILE", help="YAML file of the search's settings")
    add.add_argument(
        "--cron", required=True, metavar='"0 2 * * *"', help="when: minute hour day month weekday"
    )
    add.add_argument(
        "--zone", default="UTC", metavar="Europe/Berlin", help="of these hours (default: UTC)"
    )
    add.add_argument("--name", help="default: the file's name")
    add.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="takes history/ and current (default: autocompress-out/NAME)",
    )
    add.add_argument(
        "--keep", type=int, default=14, metavar="14", help="folders of the history that are kept"
    )
    add.add_argument("--hook", metavar="COMMAND", help="is given each verdict, as JSON, to read")
    add.add_argument("--webhook", metavar="URL", help="each verdict is posted to it, as JSON")
    add_storage(add)
    add.set_defaults(command=run["schedule add"])

    listed = actions.add_parser("list", help="list schedules, when they fire next, and verdicts")
    listed.add_argument("--json", action="store_true", help="print them as JSON Lines")
    add_storage(listed)
    listed.set_defaults(command=run["schedule list"])

    for name, help_ in (
        ("remove", "take a schedule away; what it published stays"),
        ("run", "run a schedule now, to its verdict"),
        ("rollback", "deploy again what was deployed before"),
    ):
        action = actions.add_parser(name, help=help_)
        action.add_argument("name", metavar="NAME")
        add_storage(action)
        action.set_defaults(command=run[f"schedule {name}"])

    start = actions.add_parser("start", help="run schedules when they are due, until interrupted")
    add_storage(start)
    start.set_defaults(command=run["schedule start"])

"""From what a person names to tasks of the evaluation harness: a known name, a harness YAML file, a JSONL file.

Needs the `eval` extra: called only when a task is asked for.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from artifacts.errors import ConfigError
from compressors.questions import local_task


def load_tasks(specs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Per spec what the harness's task manager gives: `tasks` and `groups` by name.

    Raises ConfigError for tasks that are unknown, damaged, named alike, or whose data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=any(_needs_known_names(spec) for spec in specs))
    loaded = {spec: _load_task(manager, spec) for spec in specs}
    names = [name for tasks in loaded.values() for name in tasks["tasks"]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"Two tasks have the name {twice[0]}. Rename one's file, or measure them one at a time.")
    return loaded


def _is_questions(spec: str) -> bool:
    return spec.endswith((".jsonl", ".json"))


def _needs_known_names(spec: str) -> bool:
    """Reading the harness's thousands of task files takes many seconds."""
    return not _is_questions(spec) and not Path(spec).is_file()


def _load_task(manager: Any, spec: str) -> dict[str, Any]:
    if _is_questions(spec):
        loaded: dict[str, Any] = manager.load([local_task(Path(spec))])
        return loaded
    if not (Path(spec).is_file() or spec in manager.all_tasks):
        close = difflib.get_close_matches(spec, manager.all_tasks, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise ConfigError(f"{spec} is neither a file nor a task that lm_eval knows.{hint}")
    try:
        loaded = manager.load([spec])
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"Task {spec} cannot be loaded ({type(error).__name__}: {reason}). Give a task's name or its own file (a "
            "group goes by name), and the network or a filled cache if its data are on the hub."
        ) from error
    return loaded

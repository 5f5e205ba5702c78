"""Settings of one metald process: flag, then METALD_* environment, then file, then default.

Read once by ``cli`` and handed down; nothing else looks at the environment or the file.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from reconciler.errors import MetaldError
from reconciler.paths import DEFAULT_CONFIG_FILE, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR


@dataclass(frozen=True, slots=True)
class Settings:
    """``netns``: keep the host's network in that named namespace, empty for this one.

    ``parallelism``: VM operations at a time, 2 per core, so that a start that waits leaves none
    idle and guests that boot are not starved; many VMs start sooner by more of them.
    ``drift_interval_s``: seconds between looks for drift in `watch` and `serve`; 30 costs
    little and heals before a person notices; a remote repository is asked as often.
    ``notifications``, ``security_log``: as written, read by ``daemon.notify.targets_from`` and
    ``daemon.security_log.log_from``.
    """

    state_dir: Path = DEFAULT_STATE_DIR
    run_dir: Path = DEFAULT_RUN_DIR
    netns: str = ""
    parallelism: int = 2 * (os.cpu_count() or 1)
    drift_interval_s: float = 30.0
    notifications: Any = None
    security_log: Any = None
    config_file: Path = DEFAULT_CONFIG_FILE


_KEYS: Mapping[str, str] = {
    "stateDir": "state_dir",
    "runDir": "run_dir",
    "netns": "netns",
    "parallelism": "parallelism",
    "driftInterval": "drift_interval_s",
    "notifications": "notifications",
    "securityLog": "security_log",
}


def load(config: Path | None, given: Mapping[str, Any]) -> Settings:
    """Settings from a file and from what flags and environment gave (None: not given).

    ``config`` None means the default file, which need not exist. Raises MetaldError for a
    file that cannot be read or says something unknown.
    """
    values = _from_file(config or DEFAULT_CONFIG_FILE, required=config is not None)
    values.update({key: value for key, value in given.items() if value is not None})
    unknown = values.keys() - {entry.name for entry in fields(Settings)}
    assert not unknown, unknown  # noqa: S101 - flags are ours
    settings = Settings(**values)
    return Settings(
        settings.state_dir.absolute(),
        settings.run_dir.absolute(),
        settings.netns,
        settings.parallelism,
        settings.drift_interval_s,
        settings.notifications,
        settings.security_log,
        config or DEFAULT_CONFIG_FILE,
    )


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not required:
            return {}
        raise MetaldError("no such configuration file", subject=str(path)) from None
    except OSError as error:
        raise MetaldError(f"cannot be read: {error.strerror}", subject=str(path)) from error
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise MetaldError(f"not YAML: {error}", subject=str(path)) from error
    if not isinstance(data, dict):
        raise MetaldError("must hold a mapping", subject=str(path))
    return dict(_setting(path, key, value) for key, value in data.items())


def _setting(path: Path, key: Any, value: Any) -> tuple[str, Any]:
    name = _KEYS.get(key)
    if name is None:
        near = difflib.get_close_matches(str(key), _KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_KEYS)}"
        raise MetaldError(f"unknown setting {key!r}", subject=str(path), hint=hint)
    try:
        return name, _converted(name, value)
    except (TypeError, ValueError) as error:
        raise MetaldError(f"{key}: {error}", subject=str(path)) from error


def _converted(name: str, value: Any) -> Any:
    if name.endswith("_dir"):
        return Path(str(value))
    if name == "parallelism":
        number = int(value)
        if number < 1:
            raise ValueError("must be at least 1")
        return number
    if name == "drift_interval_s":
        seconds = float(value)
        if not 1 <= seconds < math.inf:
            raise ValueError("must be a number of seconds, at least 1")
        return seconds
    return value if name in {"notifications", "security_log"} else str(value)

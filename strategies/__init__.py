"""One file a strategy behind the contract in `base`; nothing outside asks which one it is.

`load(name)` imports the one strategy that is asked for. Importing this package loads no framework.
"""

from __future__ import annotations

from importlib import import_module

from bench.errors import unknown_name
from strategies.base import Strategy

STRATEGIES = {
    "single": "strategies.single:Single",
    "independent": "strategies.mwms:Independent",
    "mirrored": "strategies.mirrored:Mirrored",
    "mwms": "strategies.mwms:MultiWorkerMirrored",
    "central": "strategies.central:CentralStorage",
    "ps": "strategies.ps:ParameterServer",
    "horovod": "strategies.horovod:Horovod",
}
"""Name -> module:class."""

ALIASES = {"multi_worker_mirrored": "mwms", "central_storage": "central", "parameter_server": "ps"}


def load(name: str) -> type[Strategy]:
    """The class of a strategy or alias. Raises UsageError for a name that is neither."""
    name = ALIASES.get(name, name)
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, [*STRATEGIES, *ALIASES])
    module, _, cls = STRATEGIES[name].partition(":")
    strategy: type[Strategy] = getattr(import_module(module), cls)
    return strategy

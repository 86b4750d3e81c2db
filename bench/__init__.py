"""Run one benchmark: parse, plan, launch or measure, record.

`import bench` loads no framework. `run` is the command line; `worker` is the process that trains.
"""

from results.third_party import explain_failed_imports

explain_failed_imports()

__version__ = "0.1.0"

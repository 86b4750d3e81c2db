"""Run one benchmark: parse, plan, launch or measure, record.

`import bench` loads no framework. `run` is the command line; `worker` is the process that trains.
"""

__version__ = "0.1.0"

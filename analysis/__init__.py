"""Read, compare, decide, draw. Imports `results` and nothing else of TrainScale; never loads TensorFlow.

`load` reads the store, `stats` and `scaling` compute, `table`, `charts` and `figures` draw, `report` is the command.
"""

"""Read, compare, decide, draw. Imports `results` and nothing else of TrainScale; never loads TensorFlow.

Commands: `report`, `compare`, `regress`, `history`. `load` reads the store (`files`, `tables`) and makes a row a run;
`configurations` groups them, `stats` and `scaling` compute, `diagnosis` and `findings` put into words; `verdicts` and
`gate` decide, `changepoints` and `trends` look back; `table`, `markdown` and the folder `drawing` show.
"""

from results.third_party import explain_failed_imports

explain_failed_imports()

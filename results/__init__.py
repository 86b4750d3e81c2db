"""The contract between measuring and reading.

`schema` says which columns exist and what they mean; `store` puts rows on disk so that nothing measured is lost;
`record` makes the rows of a run from what its processes left behind; `check` verifies a store and recovers what a crash
left, `compact` merges old files. `exit_codes` says what commands exit with; `command_line` reads flags and says what is
wrong, in one manner for every command; `third_party` names packages that cannot be imported. All other packages may
import this one and it imports none.
`data/` is the default place for results, `baselines/` holds the references that a gate compares with.
"""

from results.third_party import explain_failed_imports

explain_failed_imports()

"""The contract between measuring and reading.

`schema` says which columns exist and what they mean; `store` puts rows on disk so that nothing measured is lost.
Both sides of TrainScale import this package and it imports neither. `data/` is the default place for results.
"""

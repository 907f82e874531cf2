"""What happens when rows fail, so that one bad row costs neither its batch nor the job.

`guard.py`: runs a model on the rows of a shard, and quarantines those that fail, with the help of the next two.
`bisection.py`: finds a row that raises, by halving its batch.
`journal.py`: finds a row that kills its process, by noting what each worker runs and running the suspects one by one.
`hints.py`: says for each reason of quarantine what to check first.
"""

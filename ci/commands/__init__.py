"""The command line of the replications, one module per verb; `ci/replicate --help` says what they do.

Nothing here imports JAX, nbformat, papermill or pytest before it is needed: a wrong command is answered at once.
"""

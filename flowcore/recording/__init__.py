"""What replications record: the files, bands, claims, the check at the end of a notebook, tables and figures."""

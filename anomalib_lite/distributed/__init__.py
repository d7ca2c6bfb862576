"""Fit and score on more than one machine: on a dask cluster, or any executor of Python."""

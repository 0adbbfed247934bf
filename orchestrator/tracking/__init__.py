"""Recording and reading of sweeps in MLflow; the only package that imports it.

An experiment is a sweep's name, a parent run is a sweep in one storage, a child run is a trial. The driver
writes all of it, by `MlflowClient` with explicit run ids.
"""

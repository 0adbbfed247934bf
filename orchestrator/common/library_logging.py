"""Settings of the processes that a sweep starts: quiet libraries, few threads."""

import logging
import os
import warnings

ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning,ignore::UserWarning",
    # Who asked for no GPU sees none: a training on CPUs, or a student that draws beside one on a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Reports between two looks carry no score, and all is recorded by the ledger already.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is ours to answer: Tune would wait for its trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # With verbose=0 Tune's newer output still prints a banner, the older none.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A trial is several processes, and two trials start at once: do not queue them by twos.
    "RAY_worker_maximum_startup_concurrency": "8",
    # A trial's workers are given more, as their CPUs allow: see `trial`.
    "OMP_NUM_THREADS": "1",
}
NOISY_LOGGERS = (
    "ray",
    "ray.data",
    "ray.tune",
    "mlflow",
    "alembic",
    "transformers",
    "diffusers",
    "DeepSpeed",
    "httpx",
    "sqlalchemy",
)
RERAISED_BY_US = ("ray.tune", "mlflow", "alembic", "sqlalchemy")
"""What they log as an error they raise as well, and the search or the tracking room tells of it in a line."""


def quieten() -> None:
    """Library chatter off, in this process and in those that it starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    silence()


def silence() -> None:
    """Turns the libraries' own logs down to errors in this process."""
    warnings.simplefilter("ignore")
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL if name in RERAISED_BY_US else logging.ERROR)

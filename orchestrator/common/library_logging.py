"""Environment and log levels of the libraries that a sweep's processes load: quiet logs, few threads."""

import logging
import os
import warnings

ENVIRONMENT = {
    # A process that asks for no GPU sees none, such as a training on CPUs beside one on a GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Reports between two evaluations carry no score, and the ledger records everything already.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The launch handles Ctrl-C itself: Tune would wait for its trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # With verbose=0 Tune's newer output still prints a banner, the older one does not.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Seconds between two polls of Ray Train at its workers; a report waits until the one before it is
    # received.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A trial is several processes, and two trials start at once: Ray must not start them two by two.
    "RAY_worker_maximum_startup_concurrency": "8",
    # A trial's workers get more threads, as their CPUs allow: see `trainable`.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables of every process of a sweep."""
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning,ignore::UserWarning",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Variables that turn the libraries' own output off, except with `--debug`."""
NOISY_LOGGERS = (
    "ray", "ray.data", "ray.tune", "mlflow", "alembic", "transformers", "diffusers", "DeepSpeed", "httpx",
    "sqlalchemy",
)  # fmt: skip
RERAISED_BY_US = ("ray.data", "ray.tune", "mlflow", "alembic", "sqlalchemy")
"""Loggers of libraries that also raise what they log; the launch reports the exception in one line."""


LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable that makes all of Ray's servers listen at loopback with the value 0, as on macOS; otherwise most
listen on every interface. Ray reads it when it is imported."""
OWN_ADDRESSES = ("", "local")
"""Values of RAY_ADDRESS with which a launch starts a Ray of its own."""
DEBUG = "ORCHESTRATOR_DEBUG"
"""Variable that leaves the libraries' output on."""


def prepare_libraries(debug: bool = False) -> None:
    """Set this process's variables and log levels, which the processes that it starts inherit.

    Called before any of the libraries is imported: some read their settings then.
    """
    if debug:
        os.environ[DEBUG] = "1"
    os.environ.update(process_environment())
    if os.environ.get("RAY_ADDRESS", "").strip() in OWN_ADDRESSES:
        os.environ[LOOPBACK] = "0"
    silence_loggers()


def process_environment() -> dict[str, str]:
    """Return the variables of every process of a sweep; those that the user has set keep their values."""
    wanted = ENVIRONMENT | ({DEBUG: "1"} if os.environ.get(DEBUG) else QUIET)
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def silence_loggers() -> None:
    """Set the libraries' loggers in this process to errors only, unless `--debug` leaves them on."""
    if os.environ.get(DEBUG):
        return
    warnings.simplefilter("ignore")
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL if name in RERAISED_BY_US else logging.ERROR)

"""Credentials in text: replaced where text is shown or stored, refused in URIs that workers receive.

A credential in a URI is a password before the host, or a parameter that holds a key, a token or a signature.
"""

import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

from orchestrator.common.errors import UserError

HIDDEN = "***"
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PGPASSWORD",
)
"""Environment variables whose values are secrets."""
SHORTEST = 6
"""Least length of a variable's value that is replaced; a shorter one would occur inside of other words."""

# Up to the last @, as an unencoded password holds any character. Both patterns begin at the separator: one
# that begins with the scheme would search a picture in base64 for minutes.
_PASSWORD = re.compile(r"://[^\s/?#:]*:\S*@")
# Azure puts the container where other URIs have a user.
_USER = re.compile(r"(?<!abfs)(?<!abfss)://[^\s/?#:]+@")
_PARAMETER = re.compile(
    r"(?<![^\s?&;])(?!credential_kind=)([\w.%-]*"
    r"(?:secret|passw|pwd|token(?!s)|signature|credential|access_?key|account_?key|api_?key"
    r"|odbc_connect)[\w.%-]*|sig)=[^\s&\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return `text` with every credential replaced by ***."""
    text = _USER.sub(f"://{HIDDEN}@", _PASSWORD.sub(f"://{HIDDEN}@", text))
    text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    values = {os.environ.get(name, "") for name in VARIABLES}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def redact_json(value: Any) -> Any:
    """Return a JSON value with the credentials in all its texts replaced by ***."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(item) for item in value]
    return value


def refuse_credentials(setting: str, uri: str) -> None:
    """Check a URI that is sent to workers and written to files.

    Raises:
        UserError: it contains credentials.
    """
    if "://" in uri and (_PASSWORD.search(uri) or _PARAMETER.search(uri)):
        raise UserError(
            f"{setting} {redact(uri)}: contains credentials, which would get into files and logs: "
            f"set them in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"GOOGLE_APPLICATION_CREDENTIALS, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        )


def redact_tracebacks() -> None:
    """Print uncaught errors without credentials from now on."""
    sys.excepthook = _print_redacted


def _print_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

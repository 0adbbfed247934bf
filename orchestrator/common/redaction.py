"""Credentials in text: hidden where it is shown or kept, refused where it would travel.

Of a URI: a password before the host, and parameters that hold a key, a token or a signature.
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
"""Variables of our tools whose values are secrets."""
SHORTEST = 6
"""A shorter value of a variable is let stand, as it would be found inside other words."""

# To the last @, as passwords that nobody encoded hold any character. Both begin at the separator:
# from a scheme's first letter on, a search through a picture in base64 would take minutes.
_PASSWORD = re.compile(r"://[^\s/?#:]*:\S*@")
# Azure's containers stand where others have a user.
_USER = re.compile(r"(?<!abfs)(?<!abfss)://[^\s/?#:]+@")
_PARAMETER = re.compile(
    r"(?<![^\s?&;])(?!credential_kind=)([\w.%-]*"
    r"(?:secret|passw|pwd|token(?!s)|signature|credential|access_?key|account_?key|api_?key"
    r"|odbc_connect)[\w.%-]*|sig)=[^\s&\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with every credential in it replaced by ***."""
    text = _USER.sub(f"://{HIDDEN}@", _PASSWORD.sub(f"://{HIDDEN}@", text))
    text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
    values = {os.environ.get(name, "") for name in VARIABLES}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def redact_json(value: Any) -> Any:
    """The same for every text in a structure as JSON has them."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(item) for item in value]
    return value


def refuse_credentials(setting: str, uri: str) -> None:
    """Checks a URI that travels to workers and into files.

    Raises:
        UserError: it holds credentials.
    """
    if "://" in uri and (_PASSWORD.search(uri) or _PARAMETER.search(uri)):
        raise UserError(
            f"{setting} {redact(uri)}: holds credentials, which would get into files and logs; "
            f"give them by the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            f"GOOGLE_APPLICATION_CREDENTIALS, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        )


def redact_tracebacks() -> None:
    """From now on an error that nobody catches is printed without credentials."""
    sys.excepthook = _print_without_secrets


def _print_without_secrets(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

"""Upload of an exported folder to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from workloads.backbones.load_errors import one_line


def check_push(name: str) -> None:
    """Check that an upload to the hub's repository `name` can be tried; asks the hub nothing.

    Raises:
        ValueError: the name is not ORG/NAME, or there is no token.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ValueError(f"{name!r} is no name of a repository: write ORG/NAME") from None
    if name.count("/") != 1:
        raise ValueError(f"{name!r} has no owner: write ORG/NAME")
    if not get_token():
        raise ValueError(f"no token to upload {name} with: run `hf auth login`, or set HF_TOKEN")


def push_folder(folder: Path, name: str) -> str:
    """Create the model repository `name` if it is new, and upload `folder`; return the address of the commit.

    Raises:
        ValueError: the hub refuses or cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload of an exported student"
        )
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ValueError(f"{name} cannot be uploaded: {one_line(error)}") from None
    return str(commit.commit_url)

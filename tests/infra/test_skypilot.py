"""The SkyPilot file: its fields are those of SkyPilot 0.14.1's own schema, and its scripts are bash.

SkyPilot itself is no dependency. The file was read by `sky.Task.from_yaml_config` of that version.
"""

import subprocess

import pytest
import yaml

from orchestrator.doctor import _parser as doctor
from orchestrator.run import _parser as run
from tests.infra.manifests import REPOSITORY

FILE = REPOSITORY / "infra/skypilot/sweep.yaml"
TASK = yaml.safe_load(FILE.read_text())
FIELDS = {"name", "workdir", "num_nodes", "resources", "file_mounts", "setup", "run", "envs", "secrets"}
RESOURCES = {
    "infra",
    "accelerators",
    "use_spot",
    "disk_size",
    "job_recovery",
    "any_of",
    "ordered",
    "image_id",
}
MOUNT = {"name", "source", "store", "mode", "persistent"}


def test_its_fields_are_skypilots() -> None:
    assert TASK.keys() <= FIELDS and TASK["resources"].keys() <= RESOURCES
    assert all(mount.keys() <= MOUNT for mount in TASK["file_mounts"].values())
    assert TASK["resources"]["job_recovery"].keys() <= {"strategy", "max_restarts_on_errors"}


@pytest.mark.parametrize("script", ["setup", "run"])
def test_its_scripts_are_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=TASK[script], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_its_commands_are_ours() -> None:
    """The doctor comes before the sweep, with the same options, and results go to the bucket."""
    commands = {
        words[2]: words[3:]
        for line in TASK["run"].splitlines()
        if (words := line.split())[:2] == ["python", "-m"]
    }
    assert list(commands) == ["orchestrator.doctor", "orchestrator.run"]
    examined, ran = commands.values()
    assert examined == ran and '"s3://$BUCKET/sweeps"' in ran
    options = [word.strip('"') for word in ran if word != "$OPTIONS"] + TASK["envs"]["OPTIONS"].split()
    assert run().parse_args(options).overrides == doctor().parse_args(options).overrides

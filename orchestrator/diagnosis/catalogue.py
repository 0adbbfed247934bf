"""All checks, in the order in which a sweep depends on them."""

from orchestrator.diagnosis.checks import Check

HERE = "orchestrator.diagnosis"
CHECKS = (
    Check("versions", f"{HERE}.environment:check_installed"),
    Check("sweep", f"{HERE}.sweep:check_sweep"),
    Check("processors", f"{HERE}.machine:check_processors"),
    Check("memory", f"{HERE}.machine:check_memory"),
    Check("shared memory", f"{HERE}.machine:check_shared_memory"),
    Check("temporary folder", f"{HERE}.machine:check_temporary_folder"),
    Check("open files", f"{HERE}.machine:check_open_files"),
    Check("GPU driver", f"{HERE}.gpus:check_driver"),
    Check("CUDA", f"{HERE}.gpus:check_cuda"),
    Check("storage", f"{HERE}.places:check_storage"),
    Check("disks", f"{HERE}.places:check_disks"),
    Check("MLflow", f"{HERE}.services:check_tracking"),
    Check("clock", f"{HERE}.services:check_clock"),
    Check("hub", f"{HERE}.hub:check_hub"),
)

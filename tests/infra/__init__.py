"""The manifests of infra/: rendered, validated, and held against rules."""

#!/bin/bash
# pack.sh FOLDER ARCHIVE: what taking up needs, in one order and with one time
tar -C "$1" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1796000000 --exclude=__pycache__ \
    --exclude=results/old/tune --exclude=results/old/pictures --exclude='results/artifacts/models/*/code' \
    -c sweep.yaml toy results | xz -9e > "$2"

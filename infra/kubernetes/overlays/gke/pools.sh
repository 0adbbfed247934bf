#!/usr/bin/env bash
# For: everything in a Google Cloud project that a sweep needs: cluster, node pools from zero, bucket, registry.
#   What is there already is left as it is, so that it can be run again.
# Apply: PROJECT=my-project ZONE=europe-west4-a BUCKET=my-bucket bash infra/kubernetes/overlays/gke/pools.sh
# See: gcloud container node-pools list --cluster distillation --location $ZONE (GPU pools: 0 nodes)
# Remove: gcloud container clusters delete distillation --location $ZONE; and, if no result is wanted any
#   more, gcloud storage rm --recursive gs://$BUCKET
set -euo pipefail
: "${PROJECT:?the project id}" "${ZONE:?a zone with A100, as europe-west4-a}" "${BUCKET:?a name for the bucket}"
region=${ZONE%-*}
in=(--project "$PROJECT")
here=("${in[@]}" --location "$ZONE")
number=$(gcloud projects describe "$PROJECT" --format 'value(projectNumber)')
there() { "$@" > /dev/null 2>&1; }

gcloud services enable "${in[@]}" container.googleapis.com artifactregistry.googleapis.com containerfilesystem.googleapis.com
there gcloud storage buckets describe "gs://$BUCKET" ||
    gcloud storage buckets create "gs://$BUCKET" "${in[@]}" --location "$region" --uniform-bucket-level-access
there gcloud artifacts repositories describe distillation "${in[@]}" --location "$region" ||
    gcloud artifacts repositories create distillation "${in[@]}" --location "$region" --repository-format docker

# The nodes' own account: a new organisation gives the default one no right to pull an image or to write a log.
nodes="distillation-nodes@$PROJECT.iam.gserviceaccount.com"
there gcloud iam service-accounts describe "$nodes" "${in[@]}" ||
    gcloud iam service-accounts create distillation-nodes "${in[@]}"
for role in roles/container.defaultNodeServiceAccount roles/artifactregistry.reader; do
    gcloud projects add-iam-policy-binding "$PROJECT" --member "serviceAccount:$nodes" --role "$role" --condition None
done

# One node that is always there, for MLflow, its database and Ray's head; a second when CPUs are asked for.
# Nodes are upgraded at weekends alone (GKE wants 48 hours in 32 days); infra/README.md keeps a long sweep's free.
there gcloud container clusters describe distillation "${here[@]}" ||
    gcloud container clusters create distillation "${here[@]}" --machine-type e2-standard-8 \
        --num-nodes 1 --enable-autoscaling --min-nodes 1 --max-nodes 3 --disk-size 200 --service-account "$nodes" \
        --enable-dataplane-v2 --workload-pool "$PROJECT.svc.id.goog" --release-channel regular \
        --enable-image-streaming --maintenance-window-start 2026-01-03T00:00:00Z \
        --maintenance-window-end 2026-01-03T12:00:00Z --maintenance-window-recurrence 'FREQ=WEEKLY;BYDAY=SA,SU'

# GKE taints GPU nodes itself (nvidia.com/gpu=present:NoSchedule), and labels those of spot pools.
gpu=(--cluster distillation "${here[@]}" --machine-type a2-highgpu-4g --disk-size 300 --service-account "$nodes"
    --accelerator "type=nvidia-tesla-a100,count=4,gpu-driver-version=latest" --enable-image-streaming
    --system-config-from-file "$(dirname "$0")/nodes.yaml"
    --num-nodes 0 --enable-autoscaling --min-nodes 0 --max-nodes 4)
there gcloud container node-pools describe gpu-spot --cluster distillation "${here[@]}" ||
    gcloud container node-pools create gpu-spot "${gpu[@]}" --spot --node-taints cloud.google.com/gke-spot=true:NoSchedule
there gcloud container node-pools describe gpu-on-demand --cluster distillation "${here[@]}" ||
    gcloud container node-pools create gpu-on-demand "${gpu[@]}"

# The pods' account may use the bucket, and nothing else.
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --role roles/storage.objectUser --member \
    "principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$PROJECT.svc.id.goog/subject/ns/distillation/sa/distillation"

#!/usr/bin/env bash
# For: everything in a Google Cloud project that a sweep needs: cluster, node pools from zero, bucket.
# Apply: PROJECT=my-project ZONE=europe-west4-a BUCKET=my-bucket bash infra/kubernetes/overlays/gke/pools.sh
# See: gcloud container node-pools list --cluster distillation --location $ZONE (GPU pools: 0 nodes)
# Remove: gcloud container clusters delete distillation --location $ZONE; and, if no result is wanted any
#   more, gcloud storage rm --recursive gs://$BUCKET
set -euo pipefail
: "${PROJECT:?the project id}" "${ZONE:?a zone with A100, as europe-west4-a}" "${BUCKET:?a name for the bucket}"
here=(--project "$PROJECT" --location "$ZONE")
number=$(gcloud projects describe "$PROJECT" --format 'value(projectNumber)')

gcloud services enable container.googleapis.com artifactregistry.googleapis.com --project "$PROJECT"
gcloud storage buckets create "gs://$BUCKET" --project "$PROJECT" --location "${ZONE%-*}" --uniform-bucket-level-access
gcloud artifacts repositories create distillation --repository-format docker --project "$PROJECT" --location "${ZONE%-*}"

# One node that is always there, for MLflow, its database and Ray's head; a second when CPUs are asked for.
gcloud container clusters create distillation "${here[@]}" --machine-type e2-standard-8 \
    --num-nodes 1 --enable-autoscaling --min-nodes 1 --max-nodes 3 --disk-size 200 \
    --enable-dataplane-v2 --workload-pool "$PROJECT.svc.id.goog" --release-channel regular

# GKE taints GPU nodes itself (nvidia.com/gpu=present:NoSchedule), and labels those of spot pools.
gpu=(--cluster distillation "${here[@]}" --machine-type a2-highgpu-4g --disk-size 300
    --accelerator "type=nvidia-tesla-a100,count=4,gpu-driver-version=latest"
    --num-nodes 0 --enable-autoscaling --min-nodes 0 --max-nodes 4)
gcloud container node-pools create gpu-spot "${gpu[@]}" --spot --node-taints cloud.google.com/gke-spot=true:NoSchedule
gcloud container node-pools create gpu-on-demand "${gpu[@]}"

# The pods' account may use the bucket, and nothing else.
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --role roles/storage.objectUser --member \
    "principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$PROJECT.svc.id.goog/subject/ns/distillation/sa/distillation"

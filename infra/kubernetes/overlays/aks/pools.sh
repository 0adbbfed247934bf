#!/usr/bin/env bash
# For: everything in an Azure subscription that a sweep needs: cluster, node pools from zero, storage, registry.
#   What is there already is left as it is, so that it can be run again.
# Apply: GROUP=distillation REGION=westeurope ACCOUNT=myaccount REGISTRY=myregistry \
#     bash infra/kubernetes/overlays/aks/pools.sh
# See: az aks nodepool list --cluster-name distillation --resource-group $GROUP -o table (GPU pools: 0)
# Remove: az group delete --name $GROUP: all of it, results too; to keep those, delete the cluster alone:
#   az aks delete --name distillation --resource-group $GROUP
set -euo pipefail
: "${GROUP:?a resource group}" "${REGION:?a region with A100}" "${ACCOUNT:?a storage account}" "${REGISTRY:?a registry}"
in=(--resource-group "$GROUP")
there() { "$@" > /dev/null 2>&1; }

# A subscription may use a kind of resource once it has registered for it.
for kind in ContainerService ContainerRegistry Storage ManagedIdentity; do
    az provider register --namespace "Microsoft.$kind" --wait
done
az group create --name "$GROUP" --location "$REGION"
# Standard: Basic holds 10 GB, which is one image, and is the slowest to pull from.
there az acr show "${in[@]}" --name "$REGISTRY" || az acr create "${in[@]}" --name "$REGISTRY" --sku Standard
there az storage account show "${in[@]}" --name "$ACCOUNT" ||
    az storage account create "${in[@]}" --name "$ACCOUNT" --enable-hierarchical-namespace true
# By the control plane: being a subscription's owner gives no right to the data in it.
az storage container-rm create "${in[@]}" --storage-account "$ACCOUNT" --name distillation

# One node that is always there, for MLflow, its database and Ray's head; a second when CPUs are asked for.
# By default every node is made anew each week, which a sweep of days would not survive: here by hand, between sweeps:
# az aks nodepool upgrade --node-image-only.
there az aks show "${in[@]}" --name distillation ||
    az aks create "${in[@]}" --name distillation --attach-acr "$REGISTRY" --nodepool-name system \
        --node-vm-size Standard_D8s_v5 --node-count 1 --enable-cluster-autoscaler --min-count 1 --max-count 3 \
        --network-plugin azure --network-plugin-mode overlay --network-dataplane cilium --network-policy cilium \
        --enable-oidc-issuer --enable-workload-identity --generate-ssh-keys --node-os-upgrade-channel None

# AKS labels and taints the nodes of spot pools itself (kubernetes.azure.com/scalesetpriority=spot).
gpu=(--cluster-name distillation "${in[@]}" --node-vm-size Standard_NC96ads_A100_v4 --node-osdisk-size 300
    --node-count 0 --enable-cluster-autoscaler --min-count 0 --max-count 4
    --labels nvidia.com/gpu.present=true    # what NVIDIA's device plugin looks for
    --node-taints nvidia.com/gpu=present:NoSchedule)
there az aks nodepool show --cluster-name distillation "${in[@]}" --name gpuspot ||
    az aks nodepool add --name gpuspot "${gpu[@]}" --priority Spot --eviction-policy Delete --spot-max-price -1
there az aks nodepool show --cluster-name distillation "${in[@]}" --name gpuondemand ||
    az aks nodepool add --name gpuondemand "${gpu[@]}" --priority Regular

# The pods' account may use the storage account, and nothing else.
az identity create "${in[@]}" --name distillation
issuer=$(az aks show "${in[@]}" --name distillation --query oidcIssuerProfile.issuerUrl -o tsv)
az identity federated-credential create "${in[@]}" --name distillation --identity-name distillation \
    --issuer "$issuer" --subject system:serviceaccount:distillation:distillation
client=$(az identity show "${in[@]}" --name distillation --query clientId -o tsv)
# By its object's id and kind: an identity that was just made is not yet found by its client's id.
principal=$(az identity show "${in[@]}" --name distillation --query principalId -o tsv)
storage=$(az storage account show "${in[@]}" --name "$ACCOUNT" --query id -o tsv)
az role assignment create --assignee-object-id "$principal" --assignee-principal-type ServicePrincipal \
    --scope "$storage" --role "Storage Blob Data Contributor"
echo "put this into infra/kubernetes/overlays/aks/values/values.env: client=$client"

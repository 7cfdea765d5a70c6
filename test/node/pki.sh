#!/usr/bin/env bash
# Writes the cluster's CA, certificates, kubeconfigs and service account key
# into folder $1. The stand-ins' certificates are of the same CA (see
# init-cluster.sh), so that what trusts the cluster trusts them.
set -euo pipefail
# shellcheck source=test/node/env.sh
. "$(dirname "$0")/env.sh"
mkdir -p "$1"
cd "$1"

key() {
	openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# certificate NAME SUBJECT EXTENSION...
certificate() {
	local name=$1 subject=$2
	shift 2
	key "$name"
	openssl req -new -key "$name.key" -subj "$subject" |
		openssl x509 -req -days 30 -CA ca.crt -CAkey ca.key -CAcreateserial -extfile <(printf '%s\n' "$@") -out "$name.crt" 2>/dev/null
}

# client NAME SUBJECT: a certificate, and a kubeconfig beside it.
client() {
	certificate "$1" "$2" extendedKeyUsage=clientAuth
	cat >"$1.kubeconfig" <<-CONFIG
		apiVersion: v1
		kind: Config
		clusters: [{name: node, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $PWD/ca.crt}}]
		users: [{name: $1, user: {client-certificate: $PWD/$1.crt, client-key: $PWD/$1.key}}]
		contexts: [{name: node, context: {cluster: node, user: $1}}]
		current-context: node
	CONFIG
}

key ca
openssl req -x509 -new -key ca.key -subj /CN=node-rig -days 30 -out ca.crt

certificate kube-apiserver /CN=kube-apiserver extendedKeyUsage=serverAuth \
	"subjectAltName=IP:127.0.0.1,IP:$node_address,IP:$service_address,DNS:localhost,DNS:kubernetes.default.svc,DNS:${issuer#https://}"
certificate kubelet-server "/CN=$node_name" extendedKeyUsage=serverAuth "subjectAltName=IP:$node_address,DNS:$node_name"
client admin /O=system:masters/CN=admin
client kubelet "/O=system:nodes/CN=system:node:$node_name"
client kube-controller-manager /CN=system:kube-controller-manager
client kube-scheduler /CN=system:kube-scheduler

# RSA, as AKS signs its tokens.
openssl genrsa -out service-account.key 2048 2>/dev/null
openssl rsa -in service-account.key -pubout -out service-account.pub 2>/dev/null

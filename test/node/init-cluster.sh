# The node's daemons, for init.sh.
# shellcheck shell=bash disable=SC2154

pki=/run/node/pki
export KUBECONFIG=$pki/admin.kubeconfig KUBECACHEDIR=/run/node/kubectl

start containerd containerd --config /run/node/config/containerd.toml

start etcd etcd --data-dir /run/node/etcd --unsafe-no-fsync \
	--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
	--listen-peer-urls http://127.0.0.1:2380

start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
	--bind-address=0.0.0.0 --secure-port=6443 --advertise-address="$node_address" \
	--tls-cert-file=$pki/kube-apiserver.crt --tls-private-key-file=$pki/kube-apiserver.key --client-ca-file=$pki/ca.crt \
	--requestheader-client-ca-file=$pki/ca.crt --requestheader-allowed-names=front-proxy \
	--service-cluster-ip-range="${service_address%.*}.0/16" \
	--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
	--service-account-issuer="$issuer" --service-account-jwks-uri="$issuer/openid/v1/jwks" \
	--service-account-signing-key-file=$pki/service-account.key --service-account-key-file=$pki/service-account.pub \
	--kubelet-client-certificate=$pki/admin.crt --kubelet-client-key=$pki/admin.key \
	--kubelet-certificate-authority=$pki/ca.crt --kubelet-preferred-address-types=InternalIP

start standins standins -federation "$rig/federation.yaml" -state $pki -log-dir /run/standins \
	-imds-listen "$imds_address:80" -entra-listen "$entra_address:443" -vault-listen "$vault_address:443" \
	-hosts "$entra_host,$vault_host,$entra_address,$vault_address" -authority "https://$entra_host" \
	-issuer-ca $pki/ca.crt -issuer-connect 127.0.0.1:6443

await containerd ctr version
for image in pause busybox clients; do
	ctr --namespace k8s.io images import "/run/node/tools/$image.tar" >/dev/null
done
step "containerd ready"

await kube-apiserver curl --silent --fail --cacert $pki/ca.crt --cert $pki/admin.crt --key $pki/admin.key https://127.0.0.1:6443/readyz
step "kube-apiserver ready"

start kubelet "$rig/kubelet.sh" --config=/run/node/config/kubelet.yaml --kubeconfig=$pki/kubelet.kubeconfig \
	--hostname-override="$node_name" --node-ip="$node_address" --v=2

# It would spend four seconds below its usual rate to start all controllers.
start kube-controller-manager kube-controller-manager --leader-elect=false --bind-address=127.0.0.1 \
	--kubeconfig=$pki/kube-controller-manager.kubeconfig \
	--authentication-kubeconfig=$pki/kube-controller-manager.kubeconfig \
	--authorization-kubeconfig=$pki/kube-controller-manager.kubeconfig \
	--service-account-private-key-file=$pki/service-account.key --root-ca-file=$pki/ca.crt \
	--use-service-account-credentials=true --kube-api-qps=200 --kube-api-burst=400

start kube-scheduler kube-scheduler --leader-elect=false --bind-address=127.0.0.1 \
	--kubeconfig=$pki/kube-scheduler.kubeconfig \
	--authentication-kubeconfig=$pki/kube-scheduler.kubeconfig \
	--authorization-kubeconfig=$pki/kube-scheduler.kubeconfig

# As every cluster whose service accounts are federated: the keys are public.
kubectl create clusterrolebinding service-account-issuer-discovery --group=system:unauthenticated \
	--clusterrole=system:service-account-issuer-discovery >/dev/null

await standins curl --silent --cacert $pki/ca.crt "https://$entra_host/"
await kubelet kubectl get node "$node_name"
kubectl wait --for=condition=Ready "node/$node_name" --timeout=60s >/dev/null
# Pods cannot be made before it is.
kubectl wait --for=create serviceaccount/default --timeout=60s >/dev/null
step "node Ready"

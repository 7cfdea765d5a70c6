# The node's network, for init.sh. There is no way out of it, not even a
# default route. 169.254.169.254 is an address of its loopback: pods reach it
# over a link each (config/cni), since the node is their gateway.
# shellcheck shell=bash disable=SC2154

hostname "$node_name"
ip link set lo up
for address in "$imds_address" "$entra_address" "$vault_address"; do
	ip address add "$address/32" dev lo
done
# Kubelet wants an address that is not loopback's. Some kernels have no dummy
# links, so it is a veth whose other end has no listener.
ip link add eth0 type veth peer name eth0-peer
ip address add "$node_address/16" dev eth0
ip link set eth0 up
ip link set eth0-peer up
echo 1 >/proc/sys/net/ipv4/ip_forward

# In place of kube-proxy, the one Service that pods need. The route is for the
# node's own processes: without one they are refused before they reach OUTPUT.
ip route add "$service_address" dev eth0
for chain in PREROUTING OUTPUT; do
	iptables --table nat --append "$chain" --destination "$service_address" --protocol tcp --dport 443 \
		--jump DNAT --to-destination "$node_address:6443"
done

# Pods of the host's network get this file too. There is no DNS.
cat >/etc/hosts <<-HOSTS
	127.0.0.1 localhost $node_name
	$service_address kubernetes.default.svc kubernetes.default.svc.cluster.local
	$entra_address $entra_host
	$vault_address $vault_host
HOSTS

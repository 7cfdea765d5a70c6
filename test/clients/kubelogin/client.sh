#!/usr/bin/env bash
# Gets tokens with kubelogin, as kubectl does for each of its runs. It sends to
# 169.254.169.254 by nature; the suite runs it where that address is its own, and
# nobody else should run it.
#
# Arguments: PROGRAM managed none|client|resource ID RESOURCE VAULT. VAULT is not
# used.
set -euo pipefail

case $3 in
none) user=() ;;
client) user=(--client-id "$4") ;;
resource) user=(--identity-resource-id "$4") ;;
*)
	echo "kubelogin names no identity by $3" >&2
	exit 2
	;;
esac

tokens=()
for _ in 1 2; do
	if ! credential=$("$1" get-token --login msi --server-id "$5" "${user[@]}" 2>"$HOME/errors"); then
		jq -cn --arg error "$(tr '\n' ' ' <"$HOME/errors")" '{tokens: [], error: $error}'
		exit
	fi
	tokens+=("$(jq -r .status.token <<<"$credential")")
done
jq -cn '{tokens: $ARGS.positional, error: ""}' --args "${tokens[@]}"

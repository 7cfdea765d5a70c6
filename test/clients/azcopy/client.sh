#!/usr/bin/env bash
# Writes a blob with azcopy and reads it with another one. It sends to
# 169.254.169.254 by nature; the suite runs it where that address is its own, and
# nobody else should run it.
#
# Arguments: PROGRAM managed none|client|resource ID RESOURCE VAULT. RESOURCE and
# VAULT are not used: azcopy knows what it asks for, and sends the token to no
# host but Azure's. LAB_ACCOUNT_URL is the account's.
set -euo pipefail

case $3 in
none) ;;
client) export AZCOPY_MSI_CLIENT_ID=$4 ;;
resource) export AZCOPY_MSI_RESOURCE_STRING=$4 ;;
*)
	echo "azcopy names no identity by $3" >&2
	exit 2
	;;
esac
export AZCOPY_AUTO_LOGIN_TYPE=MSI AZCOPY_LOG_LOCATION=$HOME AZCOPY_JOB_PLAN_LOCATION=$HOME AZCOPY_DISABLE_SYSLOG=true

program=$1
run() {
	if ! "$program" --skip-version-check "$@" >"$HOME/out" 2>&1; then
		jq -cn --arg error "$(tail -n 5 "$HOME/out" | tr '\n' ' ')" '{tokens: [], error: $error}'
		exit
	fi
}

echo $RANDOM$RANDOM >"$HOME/written"
container=$LAB_ACCOUNT_URL/azcopy-$3
run make "$container"
run copy "$HOME/written" "$container/blob"
run copy "$container/blob" "$HOME/got"
blob="another content than was written"
! cmp -s "$HOME/written" "$HOME/got" || blob=ok
jq -cn --arg blob "$blob" '{tokens: [], error: "", blob: $blob}'

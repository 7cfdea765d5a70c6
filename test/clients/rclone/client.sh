#!/usr/bin/env bash
# Writes a blob with rclone and reads it with another one. It sends to
# 169.254.169.254 by nature; the suite runs it where that address is its own, and
# nobody else should run it.
#
# Arguments: managed resource ID RESOURCE VAULT. RESOURCE and VAULT are not used:
# rclone knows what it asks for. LAB_BLOB_URL is the account's.
set -euo pipefail

[ "$2" = resource ] || {
	echo "this client names an identity by resource id alone" >&2
	exit 2
}

# rclone makes the host of the account and the endpoint, with a dot between them:
# here it is an address, since there is no DNS.
host=${LAB_BLOB_URL#https://}
export RCLONE_CONFIG=/dev/null RCLONE_AZUREBLOB_USE_MSI=true RCLONE_AZUREBLOB_MSI_MI_RES_ID=$3 \
	RCLONE_AZUREBLOB_ACCOUNT=${host%%.*} RCLONE_AZUREBLOB_ENDPOINT=${host#*.} \
	RCLONE_RETRIES=1 RCLONE_LOW_LEVEL_RETRIES=1

tokens=()
run() { # its log has the token that it used
	if ! rclone -vv --dump headers,auth --log-file "$HOME/log" "$@"; then
		jq -cn --arg error "$(tail -n 2 "$HOME/log" | tr '\n' ' ')" '{tokens: [], error: $error}'
		exit
	fi
	tokens+=("$(sed -n '/^Authorization: Bearer /{s///;s/\r$//;p;q}' "$HOME/log")")
	rm "$HOME/log"
}

text=$RANDOM$RANDOM
run rcat :azureblob:rclone/blob <<<"$text"
run cat :azureblob:rclone/blob >"$HOME/got"
blob="another content than was written"
[ "$(cat "$HOME/got")" != "$text" ] || blob=ok
jq -cn --arg blob "$blob" '{tokens: $ARGS.positional, error: "", blob: $blob}' --args "${tokens[@]}"

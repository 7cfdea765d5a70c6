#!/usr/bin/env bash
# Gets tokens with the Azure CLI: logs in once, then asks twice, as a script
# would that calls az for each token. It sends to 169.254.169.254 by nature; the
# suite runs it where that address is its own, and it is for that suite alone.
#
# Arguments: managed none|client|object|resource ID RESOURCE VAULT. VAULT is not
# used. The CLI asks LAB_ARM_URL where the rest of Azure is.
set -euo pipefail

resource=$4
user=()
[ "$2" = none ] || user=(--username "$3")

AZURE_CONFIG_DIR=$(mktemp -d)
export AZURE_CONFIG_DIR AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_OUTPUT=json
trap 'rm -rf "$AZURE_CONFIG_DIR"' EXIT

fail() {
	jq -cn --arg error "$(tr '\n' ' ' <"$AZURE_CONFIG_DIR/errors")" '{tokens: [], error: $error}'
	exit
}

run() { az "$@" --only-show-errors 2>"$AZURE_CONFIG_DIR/errors"; }

run cloud register --name lab --endpoint-resource-manager "$LAB_ARM_URL" || fail
run cloud set --name lab || fail
run login --identity --allow-no-subscriptions "${user[@]}" >/dev/null || fail
first=$(run account get-access-token --resource "$resource") || fail
second=$(run account get-access-token --resource "$resource") || fail
jq -cn --argjson first "$first" --argjson second "$second" \
	'{tokens: [$first.accessToken, $second.accessToken], error: ""}'

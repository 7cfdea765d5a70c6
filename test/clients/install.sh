#!/usr/bin/env bash
# Installs the clients that test-clients runs into a directory, each in one
# version: Go programs by their go.sum, Node.js programs and Node.js itself by
# their package-lock.json, and Debian's packages by their version. What is there
# already is left alone. Debian's are some 200 MB; nothing else needs them.
set -euo pipefail
cd "$(dirname "$0")"

to=${1:?usage: install.sh DIRECTORY}
mkdir -p "$to"/{go,npm}

# Debian 12's. Another release has others: then the suite cannot run, and says so.
debian=(
	azure-cli=2.45.0-1
	python3-azure=20230112+git-1 # azure-identity 1.13.0b2, azure-keyvault-secrets
	python3-aiohttp # security updates change its version
	python3-msrestazure=0.6.4-2
	openjdk-17-jdk-headless # likewise
	rclone=1.60.1+dfsg-2+b5
	libsecret-1-0 # azcopy needs it
	jq
)

missing=()
for package in "${debian[@]}"; do
	have=$(dpkg-query -W -f '${db:Status-Abbrev}${Version}' "${package%%=*}" 2>/dev/null || true)
	[[ $have == ii\ ${package#*=} || ($have == ii* && $package != *=*) ]] || missing+=("$package")
done
# npm installs the Node.js that the clients run with; any version of it will do.
command -v npm >/dev/null || missing+=(npm)
../../scripts/apt-install.sh clients "${missing[@]}"
dpkg-query -W -f 'clients: Debian ${Package} ${Version}\n' "${debian[@]%%=*}"

# A module has a program of ours, or names the one that it pins as its tool.
for module in go/*/go.mod; do
	module=$(basename "$(dirname "$module")")
	program=$(awk '$1 == "tool" { print $2 }' "go/$module/go.mod")
	[ ! -f "go/$module/main.go" ] || program=.
	[ -n "$program" ] || continue
	CGO_ENABLED=0 go -C "go/$module" build -trimpath -o "$to/go/$module" "$program"
	echo "clients: Go $module"
done

cp npm/main.cjs "$to/npm/"
for package in npm/*/package.json; do
	package=$(basename "$(dirname "$package")")
	there=$to/npm/$package
	mkdir -p "$there"
	[ ! -f "npm/$package/client.cjs" ] || cp "npm/$package/client.cjs" "$there/"
	if ! cmp -s "npm/$package/package-lock.json" "$there/installed"; then
		cp npm/"$package"/{package.json,package-lock.json,.npmrc} "$there/"
		npm ci --prefix "$there" --ignore-scripts --no-audit --no-fund --loglevel=error
		cp "npm/$package/package-lock.json" "$there/installed"
	fi
	echo "clients: npm $package"
done

# npm has it as a file like others.
azcopy=$to/npm/azcopy-10.32.2/node_modules/@azure-tools/azcopy-linux/dist/bin
chmod +x "$azcopy/azcopy_linux_amd64"

# The JDK by its path: the machine may have others before it.
jdk=$(dirname "$(readlink -f /usr/lib/jvm/java-17-openjdk-*/bin/javac)")
mkdir -p "$to/java"
"$jdk/javac" -d "$to/java" java/Client.java
ln -sfn "$jdk/java" "$to/java/java"

cp -r python az azcopy kubelogin rclone "$to/"

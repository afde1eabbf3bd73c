#!/usr/bin/env bash
# Makes the private keys of signer_test.go with gpg, all of them worthless: they are published here.
# The keys differ at each run, and the tests do not care.
set -euo pipefail
cd "$(dirname "$0")"
GNUPGHOME=$(mktemp -d /tmp/make-signer-XXXXXX)
export GNUPGHOME
trap 'gpgconf --kill all; gpgconf --homedir "$GNUPGHOME/merged" --kill all; rm -rf "$GNUPGHOME"' EXIT

# at TIME ARGUMENT...: gpg at that time, with an empty passphrase.
at() {
	local time=$1
	shift
	gpg --batch --quiet --yes --faked-system-time "$time" --pinentry-mode loopback --passphrase "${passphrase-}" "$@"
}
fingerprint() { gpg --batch --with-colons --list-keys "=$1" | awk -F: '/^fpr/ {print $10; exit}'; }
export_key() { at 20260101T000000 --armor --export-secret-keys "$(fingerprint "$1")" >"$1.asc"; }

for key in "plain rsa3072 sign,cert never" "short rsa2048 sign,cert never" "ed25519 ed25519 sign,cert never" \
	"expired rsa3072 sign,cert 30d" "revoked rsa3072 sign,cert never" "certifies rsa3072 cert never" \
	"subkeys rsa3072 sign,cert never" "selfsigs rsa3072 sign,cert never" "ends rsa3072 sign,cert 20y"; do
	read -r name algorithm usage expire <<<"$key"
	at 20250101T000000 --quick-gen-key "$name" "$algorithm" "$usage" "$expire"
done
passphrase='correct horse' at 20250101T000000 --quick-gen-key protected rsa3072 sign,cert never
at 20250101T000000 --default-preference-list 'SHA1' --quick-gen-key sha1 rsa3072 sign,cert never

at 20250102T000000 --quick-add-key "$(fingerprint certifies)" rsa3072 sign never
at 20250102T000000 --quick-add-key "$(fingerprint subkeys)" rsa3072 sign never
# gpg keeps the newest self-signature alone, and merges what it imports. The newest comes last:
# go-crypto looks there first, and leaves the others until it needs them.
mkdir -m 700 "$GNUPGHOME/merged"
for month in 2 3 4; do
	at "20250${month}01T000000" --quick-set-expire "$(fingerprint selfsigs)" "${month}0y"
	at 20260101T000000 --export-secret-keys "$(fingerprint selfsigs)" >"$GNUPGHOME/selfsigs.$month"
done
for month in 2 3 4; do at 20260101T000000 --homedir "$GNUPGHOME/merged" --import "$GNUPGHOME/selfsigs.$month"; done
sed 's/^:-----BEGIN/-----BEGIN/' "$GNUPGHOME/openpgp-revocs.d/$(fingerprint revoked).rev" | at 20250301T000000 --import

for name in plain short ed25519 expired revoked certifies subkeys ends sha1; do export_key "$name"; done
at 20260101T000000 --homedir "$GNUPGHOME/merged" --armor --export-secret-keys >selfsigs.asc
passphrase='correct horse' export_key protected
at 20260101T000000 --armor --export-secret-subkeys "$(fingerprint subkeys)" >stub.asc

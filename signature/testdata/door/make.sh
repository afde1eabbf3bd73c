#!/usr/bin/env bash
# Makes what door_test.go and keyring_test.go read, with gpg: public keys (NAME.gpg) and messages
# (NAME.sig), good and hostile. All differ at each run, and the tests do not care. What gpg does not
# make, the tests build of this.
set -euo pipefail
cd "$(dirname "$0")"
rm -f ./*.gpg ./*.sig
GNUPGHOME=$(mktemp -d /tmp/make-door-XXXXXX)
export GNUPGHOME
trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT

claim='{"critical":{"identity":{"docker-reference":"registry.example.com/ns/app:v1"},"image":{"docker-manifest-digest":"sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f"},"type":"atomic container signature"},"optional":{"creator":"test","timestamp":1600000000}}'

# at TIME ARGUMENT...: gpg at that time.
at() {
	local time=$1
	shift
	gpg --batch --no-tty --quiet --yes --trust-model always --faked-system-time "$time!" --ignore-time-conflict \
		--allow-weak-digest-algos --pinentry-mode loopback --passphrase '' "$@"
}
made=20200101T000000 signed=20210101T000000
part() { gpg --batch --with-colons --list-keys "=$1" | awk -F: '/^fpr/ {print $10}' | sed -n "$2p"; }
export_key() { at $signed --export "=$1" >"$1.gpg"; }
# sign NAME ARGUMENT...: a message over the claim, by the good key if no other is named.
sign() {
	local name=$1
	shift
	case " $* " in *" --local-user "*) ;; *) set -- --local-user =good "$@" ;; esac
	printf %s "${text-$claim}" | at "${when-$signed}" "$@" >"$name.sig"
}
# revoke NAME REASON: 0 none, 1 compromised, 2 superseded, 3 retired; of the day after it signed.
revoke() {
	printf 'y\n%s\n\ny\n' "$2" | gpg --no-tty --quiet --faked-system-time 20210102T000000! --pinentry-mode loopback --passphrase '' \
		--command-fd 0 --status-fd 2 --output "$GNUPGHOME/revocation" --yes --gen-revoke "=$1" 2>/dev/null
	at $signed --import "$GNUPGHOME/revocation"
}

# Keys, each with a message of its own.
for key in good:rsa2048 unknown:rsa2048 short:rsa1024 dsa:dsa2048 ed25519:ed25519 p256:nistp256 p384:nistp384 p521:nistp521 \
	secp256k1:secp256k1 brainpool:brainpoolP256r1 rsa3072:rsa3072 rsa4096:rsa4096 revoked0:rsa2048 revoked1:rsa2048 revoked2:rsa2048 revoked3:rsa2048 \
	renamed:rsa2048 subkeys:rsa2048 many:rsa2048; do
	at $made --quick-gen-key "${key%%:*}" "${key#*:}" sign,cert never
done
at $made --quick-gen-key expired rsa2048 sign,cert 2021-06-01
at $made --quick-gen-key certifies rsa2048 cert never
at $made --cert-digest-algo SHA1 --quick-gen-key sha1 rsa2048 sign,cert never
for key in good unknown short dsa ed25519 p256 p384 p521 secp256k1 brainpool rsa3072 rsa4096 revoked0 revoked1 revoked2 revoked3 renamed expired sha1; do
	sign "by-$key" --local-user "=$key" --sign
done

# Signing subkeys: one good, one that ended, one that was revoked.
at $made --quick-add-key "$(part subkeys 1)" rsa2048 sign never
at $made --quick-add-key "$(part subkeys 1)" rsa2048 sign 2021-06-01
at $made --quick-add-key "$(part subkeys 1)" rsa2048 sign never
at $made --quick-add-key "$(part certifies 1)" rsa2048 sign never
sign by-subkey --local-user "$(part subkeys 2)!" --sign
sign by-expired-subkey --local-user "$(part subkeys 3)!" --sign
sign by-revoked-subkey --local-user "$(part subkeys 4)!" --sign
sign by-subkey-of-certifies --local-user "$(part certifies 2)!" --sign
printf 'key 3\nrevkey\ny\n2\n\ny\nsave\n' | gpg --no-tty --quiet --faked-system-time 20210102T000000! --ignore-time-conflict --pinentry-mode loopback --passphrase '' \
	--command-fd 0 --status-fd 2 --edit-key subkeys 2>/dev/null

# A revocation comes late: the copy of before is what somebody may have kept.
export_key revoked2
mv revoked2.gpg before-revoked2.gpg
for reason in 0 1 2 3; do revoke revoked$reason $reason; done
# Somebody else revokes it, whom it named.
at $made --quick-gen-key revoker rsa2048 sign,cert never
at $made --quick-gen-key designated rsa2048 sign,cert never
sign by-designated --local-user =designated --sign
printf 'addrevoker\n%s\ny\nsave\n' "$(part revoker 1)" | gpg --no-tty --quiet --faked-system-time 20200102T000000! --pinentry-mode loopback --passphrase '' \
	--command-fd 0 --status-fd 2 --edit-key =designated 2>/dev/null
printf 'y\n0\n\ny\n' | gpg --no-tty --quiet --faked-system-time 20210102T000000! --pinentry-mode loopback --passphrase '' \
	--command-fd 0 --status-fd 2 --output "$GNUPGHOME/revocation" --yes --desig-revoke =designated 2>/dev/null
at $signed --import "$GNUPGHOME/revocation"
export_key designated
# All its user ids are revoked.
at 20210102T000000 --quick-add-uid renamed 'another name'
printf 'uid 1\nuid 2\nrevuid\ny\n0\n\ny\nsave\n' | gpg --no-tty --quiet --faked-system-time 20210103T000000! --ignore-time-conflict --pinentry-mode loopback --passphrase '' \
	--command-fd 0 --status-fd 2 --edit-key '=another name' 2>/dev/null

# Many self-signatures, which gpg keeps where it imports them, user ids and subkeys.
mkdir -m 700 "$GNUPGHOME/merged"
at 20200201T000000 --quick-add-uid =many 'many more'
at 20200201T000000 --quick-add-key "$(part many 1)" rsa2048 sign never
at 20200201T000000 --quick-add-key "$(part many 1)" rsa2048 sign never
sign by-many --local-user "$(part many 1)!" --sign
sign by-subkey-of-many --local-user "$(part many 2)!" --sign
for month in 03 04 05 06; do
	at "2020${month}01T000000" --quick-set-expire "$(part many 1)" 2090-01-01
	at "2020${month}01T000000" --quick-set-expire "$(part many 1)" 2090-01-01 '*'
	at $signed --export "$(part many 1)" | at $signed --homedir "$GNUPGHOME/merged" --import
done
at $signed --homedir "$GNUPGHOME/merged" --export >many.gpg
gpgconf --homedir "$GNUPGHOME/merged" --kill all

for key in good unknown short dsa ed25519 p256 p384 p521 secp256k1 brainpool rsa3072 rsa4096 revoked0 revoked1 revoked2 revoked3 expired sha1 subkeys certifies; do
	export_key $key
done
cp expired.gpg "$GNUPGHOME/expired.gpg"
at $signed --export '=another name' >renamed.gpg
at 20210201T000000 --quick-set-expire "$(part expired 1)" never
export_key expired
mv expired.gpg extended.gpg
mv "$GNUPGHOME/expired.gpg" expired.gpg
# gpg's own keyring of old has trust packets behind what it trusts.
touch "$GNUPGHOME/pubring.old"
at $signed --no-default-keyring --keyring "$GNUPGHOME/pubring.old" --import revoked2.gpg
cp "$GNUPGHOME/pubring.old" pubring-revoked2.gpg

# Messages by the good key, in every form.
for form in zlib bzip2 zip; do sign $form --compress-algo $form --sign; done
sign plain -z0 --sign
text=$(printf '%s\n ' "$claim") sign text -z0 --textmode --sign
for digest in SHA224 SHA384 SHA512 SHA1 MD5 RIPEMD160; do sign "${digest,,}" -z0 --digest-algo $digest --sign; done
sign ends-late --default-sig-expire 2099-01-01 --sign
sign ended --default-sig-expire 1d --sign
when=21000101T000000 sign future --sign
when=20190101T000000 sign before-key --sign
sign critical --sig-notation '!a@example.org=b' --sign
sign armored --armor --sign
sign clearsigned --clear-sign
sign detached --detach-sign
sign literal --store
sign literal-plain -z0 --store
sign encrypted --passphrase x --symmetric
sign encrypted-signed --passphrase x --symmetric --sign
at $made --quick-gen-key recipient rsa2048 encr never
sign encrypted-to-key --recipient =recipient --encrypt
sign by-two --local-user =good --local-user =rsa3072 --sign
sign by-two-plain -z0 --local-user =good --local-user =rsa3072 --sign
text=$(printf "%s%70000s" "$claim" '') sign long -z0 --sign
text=$(printf "%s%70000s" "$claim" '') sign long-zip --sign
text=$(printf '%s%20000s' "$claim" '') sign parts -z0 --sign
text='hello' sign hello --sign

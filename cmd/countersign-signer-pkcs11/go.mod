module github.com/countersign-dev/countersign/cmd/countersign-signer-pkcs11

go 1.26.0

require (
	github.com/ThalesGroup/crypto11 v1.6.2
	github.com/countersign-dev/countersign v0.0.0
	github.com/opencontainers/go-digest v1.0.0
)

require (
	github.com/ProtonMail/go-crypto v1.5.2 // indirect
	github.com/cloudflare/circl v1.6.3 // indirect
	github.com/distribution/reference v0.6.0 // indirect
	github.com/miekg/pkcs11 v1.1.2 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/thales-e-security/pool v0.0.2 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/countersign-dev/countersign => ../..

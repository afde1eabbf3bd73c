package lint

// A kind is what findings are called.
type kind string

// A Kind says what all findings with an id have in common.
type Kind struct {
	ID       string
	Severity Severity
	Why      string // it matters
	Remedy   string // where a finding has none of its own
}

const (
	policyInvalid      kind = "policy-invalid"
	policyMissing      kind = "policy-missing"
	policyUnknownKey   kind = "policy-unknown-key"
	policyDuplicateKey kind = "policy-duplicate-key"
	defaultMissing     kind = "default-missing"
	defaultPermissive  kind = "default-permissive"
	nothingRequired    kind = "nothing-required"
	scopeNever         kind = "scope-never-matches"
	scopeUpperCase     kind = "scope-upper-case"
	scopePort          kind = "scope-port"
	scopeDockerHub     kind = "scope-docker-hub"
	transportUnknown   kind = "transport-unknown"
	transportScope     kind = "transport-scope"
	atomicOnly         kind = "atomic-only"
	requirementNever   kind = "requirement-never-met"
	policyClient       kind = "policy-client"

	keyMissing    kind = "key-missing"
	keyUnreadable kind = "key-unreadable"
	keyInvalid    kind = "key-invalid"
	keyRelative   kind = "key-relative"
	keyMode       kind = "key-mode"
	keyBlocks     kind = "key-armored-blocks"
	keyShipped    kind = "key-blocks-shipped"
	keyAlgorithm  kind = "key-algorithm"
	keyWeak       kind = "key-weak"
	keySpent      kind = "key-spent"
	keysSpent     kind = "keys-all-spent"
	keyExpiring   kind = "key-expiring"

	sourcesInvalid   kind = "registriesd-invalid"
	sourcesUnknown   kind = "registriesd-unknown-key"
	sourcesDuplicate kind = "registriesd-duplicate-key"
	fileIgnored      kind = "file-ignored"
	namespaceNever   kind = "namespace-never-matches"
	namespaceTwice   kind = "namespace-twice"
	lookasideURL     kind = "lookaside-url"
	lookasideSlash   kind = "lookaside-slash"
	lookasideStaging kind = "lookaside-staging"
	signingFails     kind = "signing-fails"
	spellingClient   kind = "spelling-client"
	spellingDiffers  kind = "spelling-differs"

	mirrorsInvalid kind = "registriesconf-invalid"
	mirrorsUnknown kind = "registriesconf-unknown-key"
	mirrorsTwice   kind = "registriesconf-twice"
	mirrorIdentity kind = "mirror-identity"
	mirrorSource   kind = "mirror-lookaside"
	remapUnused    kind = "remap-unused"

	lookasideDead   kind = "lookaside-dead"
	lookasideHTML   kind = "lookaside-html"
	lookasideStatus kind = "lookaside-status"
	lookasideAway   kind = "lookaside-away"
	registryAway    kind = "registry-away"
	sourceMissing   kind = "signatures-nowhere"
)

// entry is the row of Kinds; a test holds that there is one.
func (id kind) entry() Kind {
	for _, k := range Kinds() {
		if k.ID == string(id) {
			return k
		}
	}
	return Kind{ID: string(id), Severity: Error}
}

func row(id kind, s Severity, why, remedy string) Kind { return Kind{string(id), s, why, remedy} }

// Kinds are all kinds of findings, as the manual has them.
func Kinds() []Kind {
	var all []Kind
	for _, part := range [][]Kind{policyKinds(), keyKinds(), sourceKinds(), mirrorKinds(), onlineKinds()} {
		all = append(all, part...)
	}
	return all
}

func policyKinds() []Kind {
	return []Kind{
		row(policyInvalid, Error, "Clients refuse a policy with anything wrong in it as a whole, and with it every image.", "Correct what is named."),
		row(policyMissing, Note, "Clients that find no policy.json refuse every image. They look in ~/.config/containers and in /etc/containers, recent ones in /usr/share/containers, too.", "Have one in one of those places."),
		row(policyUnknownKey, Error, "Clients know no such key, also in another case, and refuse the whole policy and every image.", "Correct its name, or remove it."),
		row(policyDuplicateKey, Error, "Clients refuse a policy in which a key stands twice, and every image.", "Keep one of them; put all requirements of a scope into its one list."),
		row(defaultMissing, Error, "Without a default clients refuse the policy and every image.", `Add "default": [{"type": "reject"}].`),
		row(defaultPermissive, Warning, "What no other scope is for is accepted without a signature: whoever names an image by another host, port or mirror is past all other requirements.", `Set it to [{"type": "reject"}], and give the registries that may be unsigned scopes of their own.`),
		row(nothingRequired, Note, "The policy requires no signature of anybody but those that a distribution ships requirements for; so most distributions ship it.", "Add scopes with signedBy, and a default of reject, to enforce signatures; countersign node-config makes them."),
		row(scopeNever, Error, "No image ever has this scope, so its requirements hold for nothing, and the next wider scope or the default decides.", "Write it as images are written in full: host[:port][/namespace[/repository]][:tag], or *.domain."),
		row(scopeUpperCase, Warning, "Scopes are compared letter by letter, and only images whose host is typed in the very same letters have it.", "Write hosts in lower case, as everybody types them."),
		row(scopePort, Warning, "A host without port and one with it are two hosts to clients: requirements of one do not hold for images of the other.", "Add a scope for the host as images name it."),
		row(scopeDockerHub, Note, "It is for the repositories of that user or organisation at Docker Hub; the official image of that name is docker.io/library/NAME.", "Write docker.io/library/NAME if that is what is meant."),
		row(transportUnknown, Error, "Clients pass over transports that they do not know, without a word, and the default decides.", "Images of registries are those of transport docker."),
		row(transportScope, Error, "The transport takes no such scope, and clients refuse the whole policy and every image.", "Write the scope as containers-policy.json(5) has it for the transport."),
		row(atomicOnly, Warning, "Scopes of atomic are for images that are pulled by atomic:, OpenShift's old transport. podman, CRI-O, skopeo and kubelets pull by docker:, which has requirements of its own for the same images.", "Give transport docker the same scope and requirements."),
		row(requirementNever, Warning, "No client implements it: whatever it stands for is always rejected.", "Use signedBy with GPGKeys, or reject to say that nothing is accepted."),
		row(policyClient, Error, "Clients refuse a policy with a key that is newer than they are, and every image.", "Write it as that client reads it, or bring the client up to date."),
	}
}

func keyKinds() []Kind {
	return []Kind{
		row(keyMissing, Error, "Clients read key files at every pull, and reject every image of the scope if one is missing.", "Put the public key there, or correct the path; if the keys are elsewhere on this machine, say so with -root or -prefix."),
		row(keyUnreadable, Error, "Clients read key files at every pull, and reject every image of the scope if they cannot.", "Give it mode 0644 and its directories 0755."),
		row(keyInvalid, Error, "Nothing in it verifies anything, so every image of the scope is rejected.", "Export the public key: gpg --export FINGERPRINT."),
		row(keyRelative, Warning, "Clients look for it in whatever directory they are started in.", "Write the path in full."),
		row(keyMode, Warning, "Users without root pull with the same policy and cannot read it; or others than its owner may put keys of their own into it.", "Give it mode 0644, and to root."),
		row(keyBlocks, Warning, "Clients built with Go's OpenPGP instead of gpgme read only the first armored block: signatures by the other keys are refused there.", "Make one keyring of it: gpg --dearmor, or countersign node-config."),
		row(keyShipped, Note, "Red Hat's own files are of several armored blocks. The clients of its distributions are built with gpgme and read them all; those built with Go's OpenPGP read the first.", "Nothing, unless such a client is there; then gpg --dearmor to a file of your own."),
		row(keyAlgorithm, Warning, "Clients built with Go's OpenPGP before containers/image 5.42 read no EdDSA key, and none of those that stand in one file with it: all their signatures are refused.", "Sign with RSA keys; until then keep EdDSA keys in files, and requirements, of their own."),
		row(keyWeak, Warning, "Nothing that it signs counts here, nor for every client.", "Replace it by an RSA key of 3072 bits or more."),
		row(keySpent, Warning, "Whatever it has signed is rejected from then on, but for clients built with Go's OpenPGP before containers/image 5.42, which do not look at expiry.", "Take it out, or export it again where it was extended."),
		row(keysSpent, Error, "No signature can meet the requirement any more, so every image of the scope is rejected.", "Put a valid key there; export it again where it was extended."),
		row(keyExpiring, Warning, "From then on everything that it has signed is rejected.", "Extend it, export it again to the nodes, or sign with another in time."),
	}
}

func sourceKinds() []Kind {
	return []Kind{
		row(sourcesInvalid, Error, "Clients that cannot read one file of registries.d fail every pull from a registry.", "Correct what is named."),
		row(sourcesUnknown, Warning, "Clients pass over keys that they do not know, without a word.", "Correct its name; known are default-docker and docker, and in them lookaside, lookaside-staging, sigstore, sigstore-staging and use-sigstore-attachments."),
		row(sourcesDuplicate, Error, "Recent clients refuse the file and fail every pull; old ones take the last of them.", "Keep one of them."),
		row(fileIgnored, Warning, "What it says holds for nobody.", "Rename it."),
		row(namespaceNever, Error, "No image ever has this namespace, so clients look for its signatures elsewhere and find none.", "Write it as images are written in full: host[:port][/namespace[/repository]], or *.domain."),
		row(namespaceTwice, Error, "Clients refuse to read registries.d where two files claim one namespace, and fail every pull from a registry.", "Take it out of one of the files."),
		row(lookasideURL, Error, "Clients read signatures by file, http and https alone, and fail every pull that needs this lookaside.", "Write it as https://host/path or file:///path."),
		row(lookasideSlash, Warning, "Clients put another slash behind it and ask for //; object stores and some servers have nothing there, and images seem to be unsigned.", "Remove the slash."),
		row(lookasideStaging, Note, "Clients write signatures to files alone: who signs and pushes here fails after the image was pushed. Who only pulls needs nothing.", "Add lookaside-staging: file:///path where images are signed, or sign through the signature extension."),
		row(signingFails, Error, "Clients write signatures to files alone: skopeo copy --sign-by and podman push --sign-by fail after the image was pushed, and it stays unsigned.", "Add lookaside-staging: file:///path, or sign through the signature extension."),
		row(spellingClient, Error, "Clients before containers/image 5.22 know only sigstore and sigstore-staging; they pass over the newer names and find no signature.", "Add the older name with the same value beside it; clients that know both take the newer."),
		row(spellingDiffers, Warning, "Clients since containers/image 5.22 read the newer name, older ones the other: they look for signatures in different places.", "Give both the same value."),
	}
}

func mirrorKinds() []Kind {
	return []Kind{
		row(mirrorsInvalid, Error, "Clients that cannot read registries.conf fail every pull.", "Correct what is named."),
		row(mirrorsUnknown, Warning, "Clients pass over keys that they do not know, without a word.", "Correct its name, or remove it; containers-registries.conf(5) has those that are known."),
		row(mirrorsTwice, Warning, "Of several tables with one prefix clients take one and pass over the others.", "Make one table of them."),
		row(mirrorIdentity, Warning, "Signatures name the image as it was signed, and a pull by the mirror's own name wants that name in them. A pull by the original's name through the mirror is judged by the original's scope.", "Give the mirror's scope a signedIdentity of remapIdentity, and the original a scope too."),
		row(mirrorSource, Warning, "Clients look for signatures where they got the image from: through a mirror, they use the lookaside of the mirror's name, and find none.", "Give the mirror's name the lookaside of the original in registries.d, unless the mirror serves the signature extension."),
		row(remapUnused, Warning, "remapIdentity replaces its prefix in names that begin with it, and no image of the scope does.", "Its prefix is what images of this scope are pulled as, signedPrefix what they were signed as."),
	}
}

func onlineKinds() []Kind {
	return []Kind{
		row(lookasideDead, Warning, "Clients since containers/image 5.7 pass over the lookaside of a registry that advertises the signature extension, for reading and for writing.", "Bring its signatures into the registry (countersign import), then remove it."),
		row(lookasideHTML, Error, "Clients take any answer but 404 for a signature, and fail on it: every pull of an image with fewer signatures than they ask for fails.", "Name the base URL below which unknown paths are 404."),
		row(lookasideStatus, Error, "Clients end the search for signatures at a 404 alone; every other status fails the pull. Stores of objects answer 403 where nobody may list.", "Have the server answer 404 for what is not there; for S3, allow s3:ListBucket."),
		row(lookasideAway, Error, "Clients ask it at every pull, and fail where it does not answer.", "Correct the URL, or bring the server up."),
		row(registryAway, Warning, "It could not be asked whether it advertises the signature extension.", "Look again where it can be reached."),
		row(sourceMissing, Error, "The policy requires signatures, the registry advertises no signature extension, and registries.d names no lookaside for it: clients find none and reject every image.", "Name its lookaside in registries.d, or put Countersign beside it."),
	}
}

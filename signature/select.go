package signature

// Only returns a keyring of the one key with this fingerprint, upper-case hex, or of none.
func (r *Keyring) Only(fingerprint string) *Keyring {
	for _, k := range r.keys {
		if k.Fingerprint == fingerprint {
			return newKeyring([]*ringKey{k}, nil)
		}
	}
	return newKeyring(nil, nil)
}

package policy

// sigstoreSigned is read in full and kept as its type alone: such signatures are not simple ones.
func (v value) sigstoreSigned() error {
	rekor := []string{"rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"}
	err := v.object(fields{
		"type": ignore, "keyPath": isText, "keyPaths": areTexts, "keyData": isBase64, "keyDatas": areBase64,
		rekor[0]: isText, rekor[1]: areTexts, rekor[2]: isBase64, rekor[3]: areBase64,
		"fulcio": value.fulcio, "pki": value.pki, "signedIdentity": isIdentity,
	})
	if err == nil {
		err = v.one("keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki")
	}
	got := v.present(rekor...)
	switch {
	case err != nil:
		return err
	case len(got) == 0 && len(v.present("fulcio")) > 0:
		return v.errorf("fulcio needs a rekor public key beside it")
	case len(got) > 0 && len(v.present("pki")) > 0:
		return v.errorf("pki and %s exclude each other", got[0])
	}
	return v.atMostOne(rekor...)
}

func (v value) fulcio() error {
	err := v.object(fields{"caPath": isText, "caData": isBase64, "oidcIssuer": isText, "subjectEmail": isText})
	for _, keys := range [][]string{{"caPath", "caData"}, {"oidcIssuer"}, {"subjectEmail"}} {
		if err == nil {
			err = v.one(keys...)
		}
	}
	return err
}

func (v value) pki() error {
	err := v.object(fields{
		"caRootsPath": isText, "caRootsData": isBase64, "caIntermediatesPath": isText, "caIntermediatesData": isBase64,
		"subjectEmail": isText, "subjectHostname": isText,
	})
	if err == nil {
		err = v.one("caRootsPath", "caRootsData")
	}
	if err == nil {
		err = v.atMostOne("caIntermediatesPath", "caIntermediatesData")
	}
	if err == nil && len(v.present("subjectEmail", "subjectHostname")) == 0 {
		err = v.errorf("needs subjectEmail or subjectHostname")
	}
	return err
}

func ignore(value) error { return nil }

func isText(v value) error {
	_, err := v.text()
	return err
}

func areTexts(v value) error { return v.list(isText) }

func isBase64(v value) error {
	_, err := v.base64()
	return err
}

func areBase64(v value) error { return v.list(isBase64) }

package access

import (
	"crypto/x509"
	"fmt"
	"time"
)

// A certificate is a Certificate that was read: every one of its fields must match.
type certificate struct {
	name   string
	fields []certificateField
}

type certificateField struct {
	values  func(*x509.Certificate) []string
	pattern pattern
}

func parseCertificate(c Certificate) (certificate, error) {
	parsed := certificate{name: c.Name}
	for _, f := range []struct {
		text, separators string
		values           func(*x509.Certificate) []string
	}{
		{c.CommonName, "", func(c *x509.Certificate) []string { return []string{c.Subject.CommonName} }},
		{c.Organization, "", func(c *x509.Certificate) []string { return c.Subject.Organization }},
		{c.DNS, ".", func(c *x509.Certificate) []string { return c.DNSNames }},
		{c.URI, "/:", uris},
		{c.Email, "@", func(c *x509.Certificate) []string { return c.EmailAddresses }},
	} {
		if f.text == "" {
			continue
		}
		p, err := parsePattern(f.text, f.separators)
		if err != nil {
			return certificate{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		parsed.fields = append(parsed.fields, certificateField{f.values, p})
	}
	if len(parsed.fields) == 0 {
		return certificate{}, fmt.Errorf("%s matches every certificate\nhint: set commonName, organization, dns, uri or email", c.Name)
	}
	return parsed, nil
}

func uris(c *x509.Certificate) []string {
	var texts []string
	for _, u := range c.URIs {
		texts = append(texts, u.String())
	}
	return texts
}

func (c certificate) match(presented *x509.Certificate) bool {
	for _, f := range c.fields {
		matched := false
		for _, value := range f.values(presented) {
			matched = matched || f.pattern.match(value)
		}
		if !matched {
			return false
		}
	}
	return true
}

// byCertificate names the client, or says it is nobody in particular. A connection may outlive
// the certificate that opened it, so its time is looked at again.
func byCertificate(all []certificate, presented *x509.Certificate, now time.Time) (string, error) {
	for _, c := range all {
		if !c.match(presented) {
			continue
		}
		if now.Before(presented.NotBefore) || now.After(presented.NotAfter) {
			return "", badLogin("the client certificate is not valid now")
		}
		return "cert:" + c.name, nil
	}
	return Anonymous, nil
}

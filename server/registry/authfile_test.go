package registry

import (
	"strings"
	"testing"
)

func TestAuthFile(t *testing.T) {
	t.Parallel()
	const auth = "YWxpY2U6c2VjcmV0" // alice:secret
	for content, want := range map[string]string{
		`{"auths":{"r.example:5000":{"auth":"` + auth + `"}}}`:                                  "Basic " + auth,
		`{"auths":{"https://R.example:5000/v2/":{"auth":"` + auth + `"}},"credsStore":"x"}`:     "Basic " + auth,
		`{"auths":{"other.example":{"auth":"Yjpj"},"r.example:5000":{"auth":"` + auth + `"}}}`:  "Basic " + auth,
		`{"auths":{"inside.example":{"auth":"Yjpj"},"r.example:5000":{"auth":"` + auth + `"}}}`: "Basic " + auth,
		`{"auths":{"inside.example":{"auth":"Yjpj"}}}`:                                          "Basic Yjpj",
		`{"auths":{"r.example":{"auth":"` + auth + `"}}}`:                                       "",
		`{"auths":{"r.example:5000/ns":{"auth":"` + auth + `"}}}`:                               "", // for one namespace only
		`{"auths":{"r.example:5000.evil.example":{"auth":"` + auth + `"}}}`:                     "",
		`{"auths":{"r.example:5000":{}}}`:                                                       "",
		`{"auths":{"r.example:5000":{"auth":"secret!"}}}`:                                       "",
		`{"auths":{"r.example:5000":{"auth":"OnNlY3JldA=="}}}`:                                  "", // no user
		`{"auths":{"":{"auth":"` + auth + `"}}}`:                                                "",
		`{}`:                                                                                    "",
		`user: secret`:                                                                          "",
	} {
		got, err := AuthFile([]byte(content), "r.example:5000", "inside.example", "")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", content, got, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), auth)) {
			t.Errorf("%s: the error has the password: %v", content, err)
		}
	}
}

package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign-dev/countersign/api"
)

var image = api.Image{Host: host, Repository: "ns/app", Digest: manifest}

const suffix = "@0123456789abcdef0123456789abcdef"

func body(version int, name, kind, content string) string {
	return fmt.Sprintf(`{"schemaVersion":%d,"name":%q,"type":%q,"content":%q}`, version, name, kind, content)
}

func TestDecodeSignature(t *testing.T) {
	t.Parallel()
	good := body(2, string(manifest)+suffix, "atomic", "aGVsbG8=")
	s, err := api.DecodeSignature(image, []byte(good+" \n"))
	if err != nil || string(s.Content) != "hello" || s.Name != string(manifest)+suffix {
		t.Fatalf("%s: got %+v, %v", good, s, err)
	}
	// protocol.md 9.12: clients ignore entries of another kind without a word, so each is refused with one.
	for name, test := range map[string]struct{ body, says string }{
		"empty":                            {"", "EOF"},
		"not JSON":                         {"hello", "invalid"},
		"an array":                         {"[" + good + "]", "array"},
		"null":                             {"null", "schemaVersion is 0"},
		"two objects":                      {good + good, "follows"},
		"something behind":                 {good + "x", "follows"},
		"an unknown member":                {strings.Replace(good, `{`, `{"labels":{},`, 1), "labels"},
		"schemaVersion 1":                  {body(1, string(manifest)+suffix, "atomic", "aGVsbG8="), "schemaVersion is 1"},
		"schemaVersion a string":           {strings.Replace(good, "2", `"2"`, 1), "schemaVersion"},
		"no type":                          {body(2, string(manifest)+suffix, "", "aGVsbG8="), `type is ""`},
		"OpenShift's type":                 {body(2, string(manifest)+suffix, "AtomicImageV1", "aGVsbG8="), "AtomicImageV1"},
		"no name":                          {body(2, "", "atomic", "aGVsbG8="), "name is"},
		"a name without suffix":            {body(2, string(manifest), "atomic", "aGVsbG8="), "name is"},
		"a short suffix":                   {body(2, string(manifest)+"@00", "atomic", "aGVsbG8="), "name is"},
		"an upper-case suffix":             {body(2, string(manifest)+strings.ToUpper(suffix), "atomic", "aGVsbG8="), "name is"},
		"a suffix that is no hex":          {body(2, string(manifest)+strings.Replace(suffix, "0", "g", 1), "atomic", "aGVsbG8="), "name is"},
		"another digest (protocol.md 9.7)": {body(2, strings.Replace(string(manifest), string(manifest[20]), "0", 1)+suffix, "atomic", "aGVsbG8="), ""},
		"no content":                       {body(2, string(manifest)+suffix, "atomic", ""), "content is empty"},
		"unpadded base64":                  {body(2, string(manifest)+suffix, "atomic", "aGVsbG8"), "base64"},
		"base64 of URLs":                   {body(2, string(manifest)+suffix, "atomic", "-_8="), "base64"},
	} {
		got, err := api.DecodeSignature(image, []byte(test.body))
		if !errors.Is(err, api.ErrBody) || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s: got %+v, %v, want ErrBody that says %q", name, got, err, test.says)
		}
	}
}

// The same bytes have the same name everywhere, and what we serve we would take.
func TestWireRoundTrip(t *testing.T) {
	t.Parallel()
	content := []byte{0xa3, 0x01, 0xff, 0}
	encoded, err := json.Marshal(api.NewSignature(manifest, content))
	if err != nil {
		t.Fatal(err)
	}
	got, err := api.DecodeSignature(image, encoded)
	if err != nil || !bytes.Equal(got.Content, content) || got.Name != api.Name(manifest, content) {
		t.Errorf("%s: got %+v, %v", encoded, got, err)
	}
}

func FuzzDecodeSignature(f *testing.F) {
	f.Add([]byte(body(2, string(manifest)+suffix, "atomic", "aGVsbG8=")))
	f.Add([]byte(`{"schemaVersion":2,"SCHEMAVERSION":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := api.DecodeSignature(image, data)
		if err != nil {
			if !errors.Is(err, api.ErrBody) {
				t.Errorf("%q: %v does not wrap ErrBody", data, err)
			}
			return
		}
		encoded, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := api.DecodeSignature(image, encoded)
		if err != nil || again.Name != s.Name || !bytes.Equal(again.Content, s.Content) {
			t.Errorf("%q decodes as %+v, and that as %+v, %v", data, s, again, err)
		}
	})
}

// What is encoded by hand is what encoding/json makes of it.
func FuzzEncode(f *testing.F) {
	f.Add(string(manifest)+suffix, []byte("hello"), api.CodeNameInvalid, "not found: ns/app has 1 signatures", 2)
	f.Add(`a "name" <&> \`, []byte{}, "", "\u00e4\u2028\xff\x7f\x00\n", 1)
	f.Add("", []byte(nil), `"`, `\`, 0)
	f.Fuzz(func(t *testing.T, name string, content []byte, code, message string, n int) {
		list := api.SignatureList{}
		for range n & 3 {
			list.Signatures = append(list.Signatures, api.Signature{SchemaVersion: api.SchemaVersion, Name: name, Type: api.TypeAtomic, Content: content})
		}
		if n&4 != 0 && n&3 != 0 {
			list.Signatures[0].Type = message
		}
		got, err := list.Append(nil)
		want, wantErr := json.Marshal(list)
		if err != nil || wantErr != nil || !bytes.Equal(got, want) {
			t.Errorf("by hand:  %s, %v\nby json:  %s, %v", got, err, want, wantErr)
		}
		failure := api.Error{Code: code, Message: message}
		var body bytes.Buffer
		if err := json.NewEncoder(&body).Encode(api.Errors{Errors: []api.Error{failure}}); err != nil {
			t.Fatal(err)
		}
		if got := failure.Body(); !bytes.Equal(got, body.Bytes()) {
			t.Errorf("by hand:  %s\nby json:  %s", got, &body)
		}
	})
}

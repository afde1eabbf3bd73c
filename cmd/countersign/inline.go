package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/countersign-dev/countersign/policy"
	"github.com/countersign-dev/countersign/signature"
)

// inlineKeys replaces the key files of signedBy requirements by their content. The policy is read
// strictly first, so what is changed here has the shape that it should.
func inlineKeys(data []byte, read func(path string) ([]byte, error)) ([]byte, error) {
	parsed, err := policy.Parse(data)
	if err == nil {
		_, err = parsed.Load(read)
	}
	if err != nil {
		return nil, err
	}
	var p struct {
		Default    []map[string]any                       `json:"default"`
		Transports map[string]map[string][]map[string]any `json:"transports,omitempty"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	for _, r := range p.Default {
		if err := inlineRequirement(r, read); err != nil {
			return nil, err
		}
	}
	for _, scopes := range p.Transports {
		for _, requirements := range scopes {
			for _, r := range requirements {
				if err := inlineRequirement(r, read); err != nil {
					return nil, err
				}
			}
		}
	}
	return json.Marshal(p)
}

func inlineRequirement(r map[string]any, read func(path string) ([]byte, error)) error {
	if r["type"] != "signedBy" {
		return nil
	}
	paths, _ := r["keyPaths"].([]any)
	if path, ok := r["keyPath"]; ok {
		paths = []any{path}
	}
	if len(paths) == 0 {
		return nil
	}
	var rings []*signature.Keyring
	for _, path := range paths {
		name, _ := path.(string)
		keys, err := read(name)
		if err != nil {
			return err
		}
		ring, err := signature.ReadKeyring(keys)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rings = append(rings, ring)
	}
	delete(r, "keyPath")
	delete(r, "keyPaths")
	r["keyData"] = base64.StdEncoding.EncodeToString(signature.Join(rings...).Binary())
	return nil
}

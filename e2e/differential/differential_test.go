package differential

import (
	"testing"
)

func TestDifferential(t *testing.T) {
	t.Parallel()
	c := newComparison(t)
	parts := map[string]func(*testing.T, *comparison){
		"forms": testForms, "claims": testClaims, "policies": testPolicies, "generated": testGenerated, "mutated": testMutated,
	}
	whole := t.Run("parts", func(t *testing.T) {
		for name, part := range parts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				part(t, c)
			})
		}
	})
	if whole {
		c.finish(t)
	}
}

func testForms(t *testing.T, c *comparison) {
	for _, f := range gpgForms(t) {
		q := f.question()
		if err := c.ask(t, f.name, q, c.oracles...); err != nil {
			t.Error(err)
		}
		admits, err := admit(q)
		if admits != f.admits {
			t.Errorf("%s: admitted for clients %q, want %q: %v", f.name, admits, f.admits, err)
		}
		// Of one signature and one requirement nodes and admission think the same.
		if node := evaluate(q); (node == nil) != (err == nil) {
			t.Errorf("%s: admission says %v, nodes say %v", f.name, err, node)
		}
	}
}

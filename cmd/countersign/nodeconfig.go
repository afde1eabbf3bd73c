package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/node"
)

const nodeConfigText = `Make the files with which nodes enforce signatures, from the server's settings: policy.json,
registries.d where the extension does not serve, and the keys.

-o DIR writes them there, /etc/containers on a node, and merges into the policy.json that is
there: its default and its other scopes stay. To do it again changes nothing. -o FILE.tar makes an
archive; -format ansible a role, in a directory; machineconfig and kubernetes YAML. Without -o
they are shown.`

// A nodeConfigRun is what one run of the command was asked for.
type nodeConfigRun struct {
	terminal
	client                          *client
	profile, prefix, output, format string
	from, merge                     string
	merging                         node.Merging
	at                              node.Placing
	dry, plain                      bool
	watch                           time.Duration
}

func nodeConfig(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("node-config", nodeConfigText)
	n := nodeConfigRun{terminal: t, client: clientFlags(flags.FlagSet), at: node.DefaultPlacing()}
	flags.StringVar(&n.profile, "profile", "", "`name` of a node policy of the server; needed where there are several")
	flags.StringVar(&n.output, "o", "", "`DIR|FILE` to write, - for standard output")
	flags.StringVar(&n.format, "format", "", "`dir, tar, ansible, machineconfig` or kubernetes (default: as -o has it)")
	flags.StringVar(&n.prefix, "prefix", "", "`directory` where the node has the files (default "+node.DefaultPrefix+")")
	flags.StringVar(&n.merge, "merge", "", "policy.json `FILE` to merge into (default: that of -o DIR)")
	flags.BoolVar(&n.merging.Force, "force", false, "replace scopes that have other requirements there")
	flags.BoolVar(&n.merging.Default, "replace-default", false, "replace the default there by the profile's")
	flags.BoolVar(&n.dry, "dry-run", false, "say what would change, and write nothing")
	flags.BoolVar(&n.plain, "plain-http", false, "take the keys over http, too, where whoever is on the way can put others: compare their fingerprints")
	flags.StringVar(&n.from, "from", "", "`DIR|FILE.tar` that was made before, instead of a server")
	flags.DurationVar(&n.watch, "watch", 0, "stay, and write again each `interval` what is not as it should be")
	flags.StringVar(&n.at.Role, "role", n.at.Role, "OpenShift `role` of a machineconfig")
	flags.StringVar(&n.at.Namespace, "namespace", n.at.Namespace, "Kubernetes `namespace`")
	flags.StringVar(&n.at.Image, "image", "", "Countersign's own `image`, for kubernetes (default HOST/countersign:latest)")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	if err := n.choose(); err != nil {
		return err
	}
	if n.watch == 0 {
		_, err := n.once(ctx)
		return err
	}
	return n.stay(ctx)
}

// choose finds the format out, and refuses what does not fit together.
func (n *nodeConfigRun) choose() error {
	if n.format == "" {
		switch n.format = string(node.Directory); {
		case strings.HasSuffix(n.output, ".tar"), n.output == "-":
			n.format = string(node.Tar)
		}
	}
	isDirectory := n.format == string(node.Directory) || n.format == string(node.AnsibleRole)
	switch {
	case n.watch > 0 && (n.format != string(node.Directory) || n.output == ""):
		return usageError{errors.New("-watch wants -o DIR")}
	case n.watch < 0 || n.watch > 0 && n.watch < time.Second:
		return usageError{fmt.Errorf("-watch %s is shorter than a second", n.watch)}
	case n.output == "-" && isDirectory:
		return usageError{fmt.Errorf("-format %s makes a directory: -o DIR", n.format)}
	case n.format == string(node.AnsibleRole) && n.output == "":
		return usageError{errors.New("-format ansible makes a role: -o DIR")}
	}
	return nil
}

// once makes the files and puts them where they belong, and tells whether anything changed.
func (n *nodeConfigRun) once(ctx context.Context) (changed bool, err error) {
	c, err := n.files(ctx)
	if err != nil {
		return false, err
	}
	there, err := n.there()
	if err != nil {
		return false, err
	}
	var remarks []string
	if there != nil {
		if c, remarks, err = c.Merge(there, n.merging); err != nil {
			return false, err
		}
	}
	if n.output == "" || n.output == "-" || n.format != string(node.Directory) && n.format != string(node.AnsibleRole) {
		return true, errors.Join(n.one(c), n.remark(remarks))
	}
	var changes []string
	if n.format == string(node.AnsibleRole) {
		changes, err = c.WriteRole(n.output, n.merging, n.dry)
	} else {
		var left []string
		changes, left, err = c.Install(n.output, n.dry)
		remarks = append(remarks, left...)
	}
	if err != nil {
		return false, err
	}
	if len(changes) == 0 && n.watch > 0 {
		return false, nil
	}
	return len(changes) > 0, n.report(c, changes, remarks)
}

// files are asked of the server, or were before.
func (n *nodeConfigRun) files(ctx context.Context) (node.Config, error) {
	if n.from != "" {
		c, err := readFiles(n.from)
		if err != nil {
			err = fmt.Errorf("%s: %w", n.from, err)
		}
		return c, err
	}
	if u, err := url.Parse(n.client.server); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) && !n.plain {
		return node.Config{}, fmt.Errorf("%s is not https: whoever is on the way could give this node other keys\n"+
			"hint: -server https://…; or -plain-http, and compare the fingerprints with the server's", n.client.server)
	}
	query := url.Values{}
	if n.profile != "" {
		query.Set("profile", n.profile)
	}
	if n.prefix != "" {
		query.Set("prefix", n.prefix)
	}
	archive, _, err := n.client.ask(ctx, http.MethodGet, api.NodeConfigPath+"?"+query.Encode(), http.Header{}, nil)
	if err != nil {
		return node.Config{}, err
	}
	return node.ReadTar(bytes.NewReader(archive))
}

func readFiles(path string) (node.Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return node.Config{}, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.IsDir() {
		return node.ReadDirectory(path)
	}
	return node.ReadTar(file)
}

// there is the policy to merge into, nil if there is none.
func (n *nodeConfigRun) there() ([]byte, error) {
	if n.merge != "" {
		return os.ReadFile(n.merge)
	}
	if n.format != string(node.Directory) || n.output == "" {
		return nil, nil
	}
	content, err := os.ReadFile(filepath.Join(n.output, "policy.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// one writes a single file, or shows all of them.
func (n *nodeConfigRun) one(c node.Config) error {
	if n.output == "" && n.format == string(node.Directory) {
		return show(n.stdout, c)
	}
	if n.at.Image == "" {
		n.at.Image = c.Host() + "/countersign:latest"
	}
	n.at.Merging = n.merging
	content, _, err := c.Render(node.Format(n.format), n.at)
	switch {
	case err != nil:
		return err
	case n.output == "" && n.format == string(node.Tar) && isTerminal(n.stdout):
		return usageError{errors.New("an archive is not for a terminal: -o FILE.tar, or -o - to a pipe")}
	case n.output == "" || n.output == "-":
		_, err = n.stdout.Write(content)
		return err
	case n.dry:
		return nil
	}
	if err := os.WriteFile(n.output, content, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(n.stderr, "%s is written.\n\n%s", n.output, c.Readme())
	return nil
}

// show writes the files for a person to read.
func show(w io.Writer, c node.Config) error {
	for _, f := range c.Files {
		fmt.Fprintf(w, "== %s/%s\n", c.Prefix, f.Path)
		if strings.HasSuffix(f.Path, ".gpg") {
			fmt.Fprintf(w, "(a binary keyring of %d bytes)\n", len(f.Content))
		} else {
			_, _ = w.Write(f.Content) // a terminal that is gone is nobody to tell
		}
		fmt.Fprintln(w)
	}
	return nil
}

func (n *nodeConfigRun) remark(remarks []string) error {
	for _, r := range remarks {
		fmt.Fprintln(n.stderr, r)
	}
	return nil
}

// report says what changed, what was left, and, at first, what it means.
func (n *nodeConfigRun) report(c node.Config, changes, remarks []string) error {
	verb := ""
	if n.dry {
		verb = "would be "
	}
	for _, change := range changes {
		path, what, _ := strings.Cut(change, ": ")
		fmt.Fprintf(n.stdout, "%s: %s%s\n", filepath.Join(n.output, path), verb, what)
	}
	if len(changes) == 0 {
		fmt.Fprintf(n.stdout, "%s is as it should be: nothing changes\n", n.output)
	}
	if err := n.remark(remarks); err != nil {
		return err
	}
	if len(changes) > 0 {
		fmt.Fprintf(n.stderr, "\n%s", c.Readme())
	}
	if directory, err := filepath.Abs(n.output); err == nil && directory != c.Prefix && n.format == string(node.Directory) {
		fmt.Fprintf(n.stderr, "\npolicy.json names keys below %s: bring the files there, or say with -prefix where the node has them\n", c.Prefix)
	}
	return nil
}

// stay writes what is not as it should be until somebody ends it. What it cannot do ends it: who
// runs it starts it again, and shows why.
func (n *nodeConfigRun) stay(ctx context.Context) error {
	for first := true; ; first = false {
		changed, err := n.once(ctx)
		if err != nil {
			return cmp.Or(ctx.Err(), err)
		}
		if first && !changed {
			fmt.Fprintf(n.stdout, "%s is as it should be\n", n.output)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(n.watch):
		}
	}
}
